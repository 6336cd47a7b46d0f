/*
 * base.h: block copy: the image of the disk's own chain that the target is put onto
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "ops/copy/data.h"

void ferryBaseAddPaths(virDomainObj *vm, const char *path, virStorageSource *target, GPtrArray *paths);
int ferryBaseFind(virDomainObj *vm,
                  virDomainDiskDef *disk,
                  virStorageSource *target,
                  GPtrArray *aliases,
                  ferryCopy *copy);
int ferryBaseCheckReused(virDomainObj *vm,
                         virDomainDiskDef *disk,
                         virStorageSource *target,
                         ferryCopy *copy);
