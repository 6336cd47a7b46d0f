/*
 * block.h: block nodes, as the newest libvirt has them
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "compat/have.h"
#include "qemu/qemu_block.h"

void ferryBlockImageIds(virQEMUDriver *driver, virDomainObj *vm, virStorageSource *src, uid_t *uid, gid_t *gid);
virStorageSource *ferryBlockDataFile(const virStorageSource *src);

#ifndef FERRY_HAVE_NODENAME_ACCESSORS
const char *qemuBlockStorageSourceGetStorageNodename(virStorageSource *src);
const char *qemuBlockStorageSourceGetFormatNodename(virStorageSource *src);
const char *qemuBlockStorageSourceGetEffectiveNodename(virStorageSource *src);
void qemuBlockStorageSourceSetStorageNodename(virStorageSource *src, char *name);
void qemuBlockStorageSourceSetFormatNodename(virStorageSource *src, char *name);
#endif

/* older libvirt is told whether the storage node follows its users ("auto-read-only") */
#ifdef FERRY_HAVE_ATTACH_AUTOREADONLY
#define qemuBlockStorageSourceAttachPrepareBlockdev(src, backing) \
    qemuBlockStorageSourceAttachPrepareBlockdev(src, backing, /* autoreadonly= */ true)
#endif
