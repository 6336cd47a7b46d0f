/*
 * bitmap.h: dirty bitmaps of checkpoints
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "qemu/qemu_domain.h"

/* Bitmaps to remove from images that no QEMU uses. */
typedef struct _ferryBitmapSweep ferryBitmapSweep;

int ferryBitmapsFit(virDomainObj *vm,
                    GHashTable *nodes,
                    virStorageSource *src,
                    virStorageSource *target,
                    virStorageSource *base);
int ferryBitmapsCarry(virDomainObj *vm,
                      virStorageSource *src,
                      virStorageSource *target,
                      virStorageSource *base);
void ferryBitmapsDrop(virDomainObj *vm, virStorageSource *src, virStorageSource *target);

ferryBitmapSweep *ferryBitmapSweepNew(void);
void ferryBitmapSweepFree(void *opaque);
void ferryBitmapSweepAdd(ferryBitmapSweep *sweep,
                         virDomainObj *vm,
                         virStorageSource *src,
                         const char *name);
char *ferryBitmapSweepPaths(ferryBitmapSweep *sweep);
void ferryBitmapSweepRun(void *opaque);
