/*
 * volume_delete.h: deletes volumes of storage pools
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "block/volumeid.h"
#include "qemu/qemu_conf.h"
#include "qemu/qemu_domain.h"

/* How long ferryVolumeRemovalAwait() waits, in milliseconds. */
#define FERRY_VOLUME_REMOVAL_MS (30 * 1000)

/* Volumes that are to be deleted. */
typedef struct _ferryVolumeRemoval ferryVolumeRemoval;

ferryVolumeRemoval *ferryVolumeRemovalNew(virQEMUDriver *driver,
                                          const char *own,
                                          unsigned int wait);
void ferryVolumeRemovalIsLate(ferryVolumeRemoval *removal);
ferryVolumeRemoval *ferryVolumeRemovalRef(ferryVolumeRemoval *removal);
void ferryVolumeRemovalUnref(void *opaque);
void ferryVolumeRemovalAdd(ferryVolumeRemoval *removal, const ferryVolume *volume);
char *ferryVolumeRemovalDescribe(ferryVolumeRemoval *removal);
void ferryVolumeRemovalRun(void *opaque);
const char *ferryVolumeRemovalFailure(ferryVolumeRemoval *removal);
int ferryVolumeRemovalAwait(virDomainObj *vm, ferryVolumeRemoval *removal);
