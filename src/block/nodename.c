/*
 * nodename.c: the names of an image's nodes in QEMU
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Newer libvirt gives a raw image of the guest no format node.
 */

#include <config.h>

#include "block/nodename.h"
#include "compat/block.h"


/**
 * ferryNodeName:
 *
 * Returns the name of the node that whoever uses the image @src uses. It belongs to @src.
 */
const char *
ferryNodeName(virStorageSource *src)
{
    return qemuBlockStorageSourceGetEffectiveNodename(src);
}


/**
 * ferryNodeStorage:
 *
 * Returns the name of the storage node of @src, to which it belongs.
 */
const char *
ferryNodeStorage(virStorageSource *src)
{
    return qemuBlockStorageSourceGetStorageNodename(src);
}


/**
 * ferryNodeHasFormat:
 *
 * Returns whether @src has a format node.
 */
bool
ferryNodeHasFormat(virStorageSource *src)
{
    return !!qemuBlockStorageSourceGetFormatNodename(src);
}


/**
 * ferryNodeSetNames:
 *
 * Names the nodes of @src, which takes both strings.
 */
void
ferryNodeSetNames(virStorageSource *src,
                  char *storage,
                  char *format)
{
    qemuBlockStorageSourceSetStorageNodename(src, storage);
    qemuBlockStorageSourceSetFormatNodename(src, format);
}


/**
 * ferryNodeHasFilter:
 *
 * Returns whether @disk has a filter (copy_on_read, throttling) on top of its images, which stays there
 * when an image takes another's place. QEMU names the filter then where it is asked for the image.
 */
bool
ferryNodeHasFilter(virDomainDiskDef *disk)
{
    return STRNEQ_NULLABLE(qemuDomainDiskGetTopNodename(disk), ferryNodeName(disk->src));
}
