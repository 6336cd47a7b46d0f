/*
 * delete.c: checkpoints: the steps that delete them
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The transaction that removes the bitmaps is the point of no return. From there on
 * the plan only goes forward, because a definition without bitmaps is useless.
 */

#include <config.h>

#include "block/access.h"
#include "block/identity.h"
#include "block/node.h"
#include "block/nodename.h"
#include "block/qmp.h"
#include "ops/checkpoint/data.h"
#include "ops/checkpoint/delete.h"
#include "ops/checkpoint/metadata.h"
#include "qemu/qemu_block.h"
#include "qemu/qemu_blockjob.h"
#include "qemu/qemu_monitor.h"
#include "virerror.h"
#include "virlog.h"

VIR_LOG_INIT("ferry.checkpoint");

typedef int (*ferryCheckpointBitmapFunc)(ferryOp *op,
                                         virDomainDiskDef *disk,
                                         virStorageSource *src,
                                         const char *bitmap,
                                         void *opaque);


/* Calls @func for every image that has a bitmap of @def. */
static int
ferryCheckpointForEachImage(ferryOp *op,
                            virDomainCheckpointDef *def,
                            GHashTable *nodes,
                            ferryCheckpointBitmapFunc func,
                            void *opaque)
{
    size_t i;

    for (i = 0; i < def->ndisks; i++) {
        virDomainCheckpointDiskDef *chkdisk = &def->disks[i];
        virDomainDiskDef *disk = virDomainDiskByTarget(op->vm->def, chkdisk->name);
        virStorageSource *n;

        /* the disk may have been unplugged since */
        if (!disk || chkdisk->type != VIR_DOMAIN_CHECKPOINT_TYPE_BITMAP || !chkdisk->bitmap)
            continue;

        for (n = disk->src; virStorageSourceIsBacking(n); n = n->backingStore) {
            if (qemuBlockNamedNodeDataGetBitmapByName(nodes, n, chkdisk->bitmap) &&
                func(op, disk, n, chkdisk->bitmap, opaque) < 0)
                return -1;
        }
    }

    return 0;
}


/* Calls @func for every image that has a bitmap of a checkpoint to be deleted. */
static int
ferryCheckpointForEachBitmap(ferryOp *op,
                             ferryCheckpointBitmapFunc func,
                             void *opaque)
{
    ferryCheckpoint *data = ferryCheckpointOf(op);
    g_autoptr(GHashTable) nodes = ferryNodeData(op->vm);
    size_t i;

    if (!nodes)
        return -1;

    for (i = 0; i < data->names->len; i++) {
        const char *name = g_ptr_array_index(data->names, i);
        g_autoptr(virDomainCheckpointDef) def = ferryCheckpointFind(op->vm, name);

        if (def && ferryCheckpointForEachImage(op, def, nodes, func, opaque) < 0)
            return -1;
    }

    return 0;
}


/* A commit's base must stay writable: the stock driver's job writes to the image. */
static bool
ferryCheckpointIsCommitBase(virDomainDiskDef *disk,
                            virStorageSource *src)
{
    qemuBlockJobData *job = QEMU_DOMAIN_DISK_PRIVATE(disk)->blockjob;

    return job && job->data.commit.base == src &&
           (job->type == QEMU_BLOCKJOB_TYPE_COMMIT || job->type == QEMU_BLOCKJOB_TYPE_ACTIVE_COMMIT);
}


/* delete: open: makes images below the top one writable, which as a rule are read-only */
static int
ferryCheckpointOpenImage(ferryOp *op,
                         virDomainDiskDef *disk,
                         virStorageSource *src,
                         const char *bitmap G_GNUC_UNUSED,
                         void *opaque G_GNUC_UNUSED)
{
    ferryCheckpoint *data = ferryCheckpointOf(op);

    if (src == disk->src || g_hash_table_contains(data->writable, src) ||
        ferryCheckpointIsCommitBase(disk, src))
        return 0;

    if (ferryIdentityRequire(op->vm, src) < 0)
        return -1;

    g_hash_table_add(data->writable, virObjectRef(src));

    if (ferryAccessWrite(op->vm, src) < 0)
        return -1;

    return ferryNodeReopenWritable(op->vm, src, /* writable= */ true);
}


static int
ferryCheckpointOpen(ferryOp *op)
{
    ferryCheckpoint *data = ferryCheckpointOf(op);

    if (data->metadataOnly)
        return 0;

    /* references: no image that is added to a chain later can get the address of these */
    data->writable = g_hash_table_new_full(NULL, NULL, virObjectUnref, NULL);
    return ferryCheckpointForEachBitmap(op, ferryCheckpointOpenImage, /* opaque= */ NULL);
}


/* Gives up the right to write to @src. A commit job opens the image above those that it commits, when it
 * ends. */
static int
ferryCheckpointGiveUp(ferryOp *op,
                      virDomainDiskDef *disk,
                      virStorageSource *src)
{
    qemuBlockJobData *job = QEMU_DOMAIN_DISK_PRIVATE(disk)->blockjob;

    if (!job || job->type != QEMU_BLOCKJOB_TYPE_COMMIT || job->data.commit.topparent != src)
        return ferryAccessRead(op->vm, src);

    ferryAccessLeave(op->vm, src);
    return 0;
}


static void
ferryCheckpointClose(ferryOp *op)
{
    ferryCheckpoint *data = ferryCheckpointOf(op);
    size_t i;

    for (i = 0; !data->metadataOnly && i < op->vm->def->ndisks; i++) {
        virDomainDiskDef *disk = op->vm->def->disks[i];
        virStorageSource *n = disk->src->backingStore;

        for (; virStorageSourceIsBacking(n); n = n->backingStore) {
            if (ferryCheckpointIsCommitBase(disk, n)) {
                ferryAccessLeave(op->vm, n);
                continue;
            }

            if (data->writable && !g_hash_table_contains(data->writable, n))
                continue;

            /* After a restart n->readonly is true although QEMU has the image open for
             * writing, so a reopen would do nothing. */
            n->readonly = false;
            if (ferryNodeReopenWritable(op->vm, n, /* writable= */ false) < 0 ||
                ferryCheckpointGiveUp(op, disk, n) < 0)
                VIR_WARN("image '%s' of domain '%s' stays writable: %s",
                         NULLSTR(n->path), op->vm->def->name, virGetLastErrorMessage());
        }
    }

    virResetLastError();
}


/* delete: bitmaps: the point of no return */
static int
ferryCheckpointRemoveBitmap(ferryOp *op G_GNUC_UNUSED,
                            virDomainDiskDef *disk G_GNUC_UNUSED,
                            virStorageSource *src,
                            const char *bitmap,
                            void *opaque)
{
    return qemuMonitorTransactionBitmapRemove(opaque, ferryNodeName(src), bitmap);
}


static int
ferryCheckpointRemoveBitmaps(ferryOp *op)
{
    ferryCheckpoint *data = ferryCheckpointOf(op);
    g_autoptr(virJSONValue) actions = virJSONValueNewArray();

    if (data->metadataOnly)
        return 0;

    /* when the step is taken again, bitmaps that are gone already are not found */
    if (ferryCheckpointForEachBitmap(op, ferryCheckpointRemoveBitmap, actions) < 0)
        return -1;

    return ferryQMPTransaction(op->vm, &actions);
}


/* delete: close: makes the images read-only again */
static int
ferryCheckpointRunClose(ferryOp *op)
{
    ferryCheckpointClose(op);
    return 0;
}


/* delete: metadata: first, other operations forget what they keep of the checkpoint */
static void
ferryCheckpointTell(virDomainObj *vm,
                    const char *name)
{
    GPtrArray *ops = ferryOpList(vm);
    size_t i;

    for (i = 0; ops && i < ops->len; i++) {
        ferryOp *op = g_ptr_array_index(ops, i);

        if (op->klass->checkpointDeleted)
            op->klass->checkpointDeleted(op, name);
    }
}


static int
ferryCheckpointForget(ferryOp *op)
{
    ferryCheckpoint *data = ferryCheckpointOf(op);
    size_t i;

    for (i = 0; i < data->names->len; i++)
        ferryCheckpointTell(op->vm, g_ptr_array_index(data->names, i));

    return ferryCheckpointRemoveAll(op->vm, data->names) < 0 ? FERRY_STEP_UNKNOWN : 0;
}


const ferryPlan ferryCheckpointDeletePlan = {
    .name = "delete",
    .steps = (const ferryStep[]) {
        { .name = "open", .run = ferryCheckpointOpen, .undo = ferryCheckpointClose },
        { .name = "bitmaps", .run = ferryCheckpointRemoveBitmaps, .durable = true },
        { .name = "close", .run = ferryCheckpointRunClose },
        { .name = "metadata", .run = ferryCheckpointForget },
        { 0 },
    },
};
