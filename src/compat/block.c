/*
 * block.c: block nodes, as the newest libvirt has them
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "compat/block.h"

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
