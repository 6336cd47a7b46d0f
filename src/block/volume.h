/*
 * volume.h: volumes of storage pools
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "block/file.h"
#include "block/like.h"

/* A volume that is to be created. */
typedef struct _ferryVolumeSpec ferryVolumeSpec;
struct _ferryVolumeSpec {
    unsigned long long capacity; /* bytes */
    virStorageFileFormat format;
    ferryLikeProps props;
    const char *backing;         /* path of its backing image; NULL: none */
    virStorageFileFormat backingFormat;
};

/* A volume that Ferry has created. */
typedef struct _ferryVolume ferryVolume;
struct _ferryVolume {
    char *pool;
    char *name;
    char *key;       /* NULL: a driver died while it was created */
    ferryFile *file; /* for pools of files the key is only the path; NULL: it is no file */
};

void ferryVolumeFree(ferryVolume *volume);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ferryVolume, ferryVolumeFree);
ferryVolume *ferryVolumeNew(const char *pool, const char *name);
ferryVolume *ferryVolumeCopy(const ferryVolume *volume);
void ferryVolumeFormat(virBuffer *attrs, const ferryVolume *volume);
int ferryVolumeParse(xmlNodePtr node, ferryVolume **volume);

int ferryVolumeResolve(virDomainObj *vm, virStorageSource *chain, const char *disk);
int ferryVolumeExists(virDomainObj *vm, virStorageSource *src);
int ferryVolumeCreate(virDomainObj *vm,
                      virStorageSource *src,
                      const ferryVolumeSpec *spec,
                      ferryVolume *volume);
void ferryVolumeDelete(const ferryVolume *volume);
void ferryVolumeDeleteList(void *volumes);
void ferryVolumeDeleteAll(virDomainObj *vm, GPtrArray *volumes);
