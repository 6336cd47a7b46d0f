/*
 * volume.h: volumes of storage pools
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "block/like.h"
#include "block/volumeid.h"

/* A volume that is to be created. */
typedef struct _ferryVolumeSpec ferryVolumeSpec;
struct _ferryVolumeSpec {
    unsigned long long capacity; /* bytes */
    virStorageFileFormat format;
    ferryLikeProps props;
    const char *backing;         /* path of its backing image; NULL: none */
    virStorageFileFormat backingFormat;
};

int ferryVolumeResolve(virDomainObj *vm, virStorageSource *chain, const char *disk);
int ferryVolumeExists(virDomainObj *vm, virStorageSource *src);
int ferryVolumeCreate(virDomainObj *vm,
                      virStorageSource *src,
                      const ferryVolumeSpec *spec,
                      ferryVolume *volume);
void ferryVolumeDelete(const ferryVolume *volume);
void ferryVolumeDeleteList(void *volumes);
void ferryVolumeDeleteAll(virDomainObj *vm, GPtrArray *volumes);
