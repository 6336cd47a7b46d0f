/*
 * bitmap.h: dirty bitmaps of checkpoints
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "qemu/qemu_domain.h"

int ferryBitmapsFit(virDomainObj *vm,
                    GHashTable *nodes,
                    virStorageSource *src,
                    virStorageSource *target,
                    bool shallow);
int ferryBitmapsCarry(virDomainObj *vm,
                      virStorageSource *src,
                      virStorageSource *target,
                      bool shallow);
void ferryBitmapRemoveOffline(virDomainObj *vm, virStorageSource *src, const char *name);
void ferryBitmapsDrop(virDomainObj *vm, virStorageSource *src, virStorageSource *target);
