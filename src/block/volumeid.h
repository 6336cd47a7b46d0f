/*
 * volumeid.h: which volume of a storage pool Ferry has created
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "block/file.h"

/* A volume that Ferry has created. */
typedef struct _ferryVolume ferryVolume;
struct _ferryVolume {
    char *pool;
    char *name;
    char *key;       /* NULL: it is being created, or a driver died meanwhile */
    bool creating;   /* by this driver, and the storage driver has not answered; not in the journal */
    ferryFile *file; /* for pools of files the key is only the path; NULL: it is no file */
};

void ferryVolumeFree(ferryVolume *volume);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ferryVolume, ferryVolumeFree);
ferryVolume *ferryVolumeNew(const char *pool, const char *name);
ferryVolume *ferryVolumeCopy(const ferryVolume *volume);
void ferryVolumeFormat(virBuffer *attrs, const ferryVolume *volume);
int ferryVolumeParse(xmlNodePtr node, ferryVolume **volume);
