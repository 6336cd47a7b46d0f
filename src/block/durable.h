/*
 * durable.h: folders on the disk: names that survive a crash of the host
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "storage_source_conf.h"

int ferryDurableFolder(const char *dir);
int ferryDurableMkdir(const char *dir, mode_t mode);
int ferryDurableImage(virStorageSource *src);
