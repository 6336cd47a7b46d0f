/*
 * pool.h: storage pools
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "datatypes.h"

virStoragePoolPtr ferryPoolFind(virConnectPtr conn, const char *name);
int ferryPoolHasFiles(virStoragePoolPtr pool, bool *files);
int ferryPoolPathOf(virStoragePoolPtr pool, const char *name, char **path, bool *files);
