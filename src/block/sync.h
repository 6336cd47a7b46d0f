/*
 * sync.h: writes images to the disk ahead of time
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "internal.h"

typedef struct _ferrySync ferrySync;

ferrySync *ferrySyncStart(char **paths);
void ferrySyncStop(ferrySync *sync);
