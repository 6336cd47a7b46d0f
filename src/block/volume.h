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
};

int ferryVolumeResolve(virDomainObj *vm, virStorageSource *chain, const char *disk, bool create);
ferryVolume *ferryVolumeTakeMissing(virStorageSource *src);
int ferryVolumeExists(virDomainObj *vm, virStorageSource *src);
ferryVolume *ferryVolumeCreate(virDomainObj *vm,
                               const char *pool,
                               const char *name,
                               const char *path,
                               const ferryVolumeSpec *spec);
