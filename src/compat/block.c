/*
 * block.c: block nodes, as the newest libvirt has them
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "compat/block.h"


/**
 * ferryBlockImageIds:
 *
 * @vm: domain of the image @src, locked; or NULL: it is gone
 *
 * Sets @uid and @gid to those that work on the image.
 */
void
ferryBlockImageIds(virQEMUDriver *driver,
                   virDomainObj *vm,
                   virStorageSource *src,
                   uid_t *uid,
                   gid_t *gid)
{
    g_autoptr(virQEMUDriverConfig) cfg = virQEMUDriverGetConfig(driver);

#ifdef FERRY_HAVE_IMAGE_IDS_OF_DEFINITION
    qemuDomainGetImageIds(cfg, vm ? vm->def : NULL, src, /* parentSrc= */ NULL, uid, gid);
#else
    qemuDomainGetImageIds(cfg, vm, src, /* parentSrc= */ NULL, uid, gid);
#endif
}


/**
 * ferryBlockDataFile:
 *
 * Returns the file that the data of @src, a qcow2 image, are in, if that is one of its own, as far as libvirt
 * knows; or NULL. It belongs to @src.
 */
virStorageSource *
ferryBlockDataFile(const virStorageSource *src G_GNUC_UNUSED)
{
#ifdef FERRY_HAVE_DATA_FILE
    return src->dataFileStore;
#else
    return NULL;
#endif
}


#ifndef FERRY_HAVE_NODENAME_ACCESSORS

/* Here each image has two nodes. */

const char *
qemuBlockStorageSourceGetStorageNodename(virStorageSource *src)
{
    return src->nodestorage;
}


const char *
qemuBlockStorageSourceGetFormatNodename(virStorageSource *src)
{
    return src->nodeformat;
}


const char *
qemuBlockStorageSourceGetEffectiveNodename(virStorageSource *src)
{
    return src->nodeformat;
}


void
qemuBlockStorageSourceSetStorageNodename(virStorageSource *src,
                                         char *name)
{
    g_free(src->nodestorage);
    src->nodestorage = name;
}


void
qemuBlockStorageSourceSetFormatNodename(virStorageSource *src,
                                        char *name)
{
    g_free(src->nodeformat);
    src->nodeformat = name;
}

#endif
