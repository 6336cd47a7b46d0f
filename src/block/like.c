/*
 * like.c: properties that a new image takes over from a disk's image
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A copy of a disk is to behave as the disk did: with other clusters the same data take more
 * space, or writes more time. libvirt's table of nodes has all of these properties but one.
 */

#include <config.h>

#include "block/like.h"
#include "block/node.h"
#include "block/nodename.h"
#include "qemu/qemu_block.h"
#include "qemu/qemu_monitor_json.h"
#include "virhash.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

#define FERRY_LIKE_SUBCLUSTERS 32 /* of a cluster */
#define FERRY_LIKE_GRANULARITY_MIN 4096ULL

struct _ferryLike {
    GHashTable *nodes; /* node name -> qemuBlockNamedNodeData */
    GHashTable *lazy;  /* set of names: the nodes of images with lazy refcounts */
};


void
ferryLikeFree(ferryLike *like)
{
    if (!like)
        return;

    g_clear_pointer(&like->nodes, g_hash_table_unref);
    g_hash_table_unref(like->lazy);
    g_free(like);
}


static void
ferryLikeAddLazy(ferryLike *like,
                 virJSONValue *node)
{
    const char *name = virJSONValueObjectGetString(node, "node-name");
    virJSONValue *image = virJSONValueObjectGetObject(node, "image");
    virJSONValue *specific = image ? virJSONValueObjectGetObject(image, "format-specific") : NULL;
    virJSONValue *data = specific ? virJSONValueObjectGetObject(specific, "data") : NULL;
    bool lazy = false;

    if (name && data && virJSONValueObjectGetBoolean(data, "lazy-refcounts", &lazy) == 0 && lazy)
        g_hash_table_add(like->lazy, g_strdup(name));
}


/**
 * ferryLikeAsk:
 *
 * Asks QEMU for the images of @vm. Domain locked, job held. Returns NULL with an error
 * reported on failure.
 */
ferryLike *
ferryLikeAsk(virDomainObj *vm)
{
    g_autoptr(ferryLike) like = g_new0(ferryLike, 1);
    g_autoptr(virJSONValue) nodes = NULL;
    size_t i;

    like->lazy = virHashNew(NULL);

    if (!(nodes = ferryNodeList(vm)) ||
        !(like->nodes = qemuMonitorJSONBlockGetNamedNodeDataJSON(nodes)))
        return NULL;

    for (i = 0; i < virJSONValueArraySize(nodes); i++)
        ferryLikeAddLazy(like, virJSONValueArrayGet(nodes, i));

    return g_steal_pointer(&like);
}


/* Returns whether an image of the chain @src has bitmaps, which a copy of the chain takes over. */
static bool
ferryLikeHasBitmaps(ferryLike *like,
                    virStorageSource *src)
{
    virStorageSource *n;

    for (n = src; virStorageSourceIsBacking(n); n = n->backingStore) {
        qemuBlockNamedNodeData *data = virHashLookup(like->nodes, ferryNodeName(n));

        if (data && data->nbitmaps > 0)
            return true;
    }

    return false;
}


/**
 * ferryLikeGet:
 *
 * Sets @props to the properties of @src, an image of the domain.
 */
void
ferryLikeGet(ferryLike *like,
             virStorageSource *src,
             ferryLikeProps *props)
{
    qemuBlockNamedNodeData *data = virHashLookup(like->nodes, ferryNodeName(src));

    *props = (ferryLikeProps) { 0 };

    if (!data)
        return;

    props->clusterSize = data->clusterSize;
    props->subclusters = data->qcow2extendedL2;
    props->old = data->qcow2v2 && !ferryLikeHasBitmaps(like, src);
    props->lazy = virHashHasEntry(like->lazy, ferryNodeName(src));
}


/**
 * ferryLikeApply:
 * @image: image that is about to be created
 * @from: image of a disk of the domain
 * @lasting: somebody is going to use @image after the operation
 *
 * Sets the size of @image, and its properties where both formats have them, to those of
 * @from. Returns 0, or -1 with an error reported.
 */
int
ferryLikeApply(ferryLike *like,
               virStorageSource *image,
               virStorageSource *from,
               bool lasting)
{
    ferryLikeProps props;

    if (qemuBlockStorageSourceCreateDetectSize(like->nodes, image, from) < 0)
        return -1;

    ferryLikeGet(like, from, &props);

    if (!lasting || image->format != VIR_STORAGE_FILE_QCOW2 ||
        from->format != VIR_STORAGE_FILE_QCOW2)
        return 0;

    if (props.old && !image->compat)
        image->compat = g_strdup("0.10");

    if (props.lazy) {
        if (!image->features)
            image->features = virBitmapNew(VIR_STORAGE_FILE_FEATURE_LAST);
        ignore_value(virBitmapSetBit(image->features, VIR_STORAGE_FILE_FEATURE_LAZY_REFCOUNTS));
    }

    return 0;
}


/**
 * ferryLikeGranularity:
 * @nodes: of ferryNodeData()
 *
 * Returns the granularity in bytes with which a mirror job must copy an image with the
 * properties of @node, or 0 if QEMU's own choice is right. QEMU chooses whole clusters: the
 * copy of an image with subclusters would take up to 32 times as much space.
 */
unsigned long long
ferryLikeGranularity(GHashTable *nodes,
                     const char *node)
{
    qemuBlockNamedNodeData *data = virHashLookup(nodes, node);

    if (!data || !data->qcow2extendedL2)
        return 0;

    return MAX(data->clusterSize / FERRY_LIKE_SUBCLUSTERS, FERRY_LIKE_GRANULARITY_MIN);
}
