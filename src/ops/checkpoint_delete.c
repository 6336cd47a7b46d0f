/*
 * checkpoint_delete.c: checkpoints: the steps that delete them
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The transaction that removes the bitmaps is the point of no return. From
 * there on it goes forward: definitions without bitmaps are of no use.
 */

#include <config.h>

#include <unistd.h>

#include "block/node.h"
#include "block/qmp.h"
#include "ops/backup.h"
#include "ops/checkpoint.h"
#include "qemu/qemu_block.h"
#include "qemu/qemu_blockjob.h"
#include "qemu/qemu_monitor.h"
#include "viralloc.h"
#include "virerror.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.checkpoint");


/* Calls @func for every image that has a bitmap of @def. */
typedef int (*ferryCheckpointBitmapFunc)(ferryOp *op,
                                         virDomainDiskDef *disk,
                                         virStorageSource *src,
                                         const char *bitmap,
                                         void *opaque);

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

        /* it may have been unplugged */
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


/* The same for all checkpoints that are to be deleted. */
static int
ferryCheckpointForEachBitmap(ferryOp *op,
                             ferryCheckpointBitmapFunc func,
                             void *opaque)
{
    ferryCheckpoint *data = op->data;
    g_autoptr(GHashTable) nodes = ferryNodeData(op->vm);
    size_t i;

    if (!nodes)
        return -1;

    for (i = 0; i < data->names->len; i++) {
        virDomainCheckpointDef *def = ferryCheckpointFind(op->vm,
                                                          g_ptr_array_index(data->names, i));

        if (def && ferryCheckpointForEachImage(op, def, nodes, func, opaque) < 0)
            return -1;
    }

    return 0;
}


/* The stock driver writes to it as long as the commit runs. */
static bool
ferryCheckpointIsCommitBase(virDomainDiskDef *disk,
                            virStorageSource *src)
{
    qemuBlockJobData *job = QEMU_DOMAIN_DISK_PRIVATE(disk)->blockjob;

    return job && job->data.commit.base == src &&
        (job->type == QEMU_BLOCKJOB_TYPE_COMMIT || job->type == QEMU_BLOCKJOB_TYPE_ACTIVE_COMMIT);
}


/* delete: open: images below the top one are not writable as a rule */
static int
ferryCheckpointOpenImage(ferryOp *op,
                         virDomainDiskDef *disk,
                         virStorageSource *src,
                         const char *bitmap G_GNUC_UNUSED,
                         void *opaque G_GNUC_UNUSED)
{
    ferryCheckpoint *data = op->data;

    if (src == disk->src || g_hash_table_contains(data->writable, src) ||
        ferryCheckpointIsCommitBase(disk, src))
        return 0;

    g_hash_table_add(data->writable, src);

    if (qemuDomainStorageSourceAccessAllow(op->driver, op->vm, src, false, false, false) < 0)
        return -1;

    return qemuBlockReopenReadWrite(op->vm, src, VIR_ASYNC_JOB_NONE);
}


static int
ferryCheckpointOpen(ferryOp *op)
{
    ferryCheckpoint *data = op->data;

    if (data->metadataOnly)
        return 0;

    data->writable = g_hash_table_new(NULL, NULL);
    return ferryCheckpointForEachBitmap(op, ferryCheckpointOpenImage, NULL);
}


static void
ferryCheckpointClose(ferryOp *op)
{
    ferryCheckpoint *data = op->data;
    size_t i;

    for (i = 0; !data->metadataOnly && i < op->vm->def->ndisks; i++) {
        virDomainDiskDef *disk = op->vm->def->disks[i];
        virStorageSource *n = disk->src->backingStore;

        for (; virStorageSourceIsBacking(n); n = n->backingStore) {
            if ((data->writable && !g_hash_table_contains(data->writable, n)) ||
                ferryCheckpointIsCommitBase(disk, n))
                continue;

            /* a driver that was just started believes that it is */
            n->readonly = false;
            if (qemuBlockReopenReadOnly(op->vm, n, VIR_ASYNC_JOB_NONE) < 0 ||
                qemuDomainStorageSourceAccessAllow(op->driver, op->vm, n, true, false, false) < 0)
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
    return qemuMonitorTransactionBitmapRemove(opaque, src->nodeformat, bitmap);
}


static int
ferryCheckpointRemoveBitmaps(ferryOp *op)
{
    ferryCheckpoint *data = op->data;
    g_autoptr(virJSONValue) actions = virJSONValueNewArray();

    /* one that is not there need not be removed */
    if (data->metadataOnly)
        return 0;

    if (ferryCheckpointForEachBitmap(op, ferryCheckpointRemoveBitmap, actions) < 0)
        return -1;

    return ferryQMPTransaction(op->vm, &actions);
}


/* delete: close */
static int
ferryCheckpointRunClose(ferryOp *op)
{
    ferryCheckpointClose(op);
    return 0;
}


/* delete: metadata */
static bool
ferryCheckpointIsListed(GPtrArray *names,
                        const char *name)
{
    return name && g_ptr_array_find_with_equal_func(names, name, g_str_equal, NULL);
}


/* The nearest ancestor of @chk, or itself, that stays. */
static virDomainMomentObj *
ferryCheckpointSurvivor(virDomainObj *vm,
                        GPtrArray *names,
                        virDomainMomentObj *chk)
{
    while (chk && ferryCheckpointIsListed(names, chk->def->name))
        chk = chk->def->parent_name ? virDomainCheckpointFindByName(vm->checkpoints,
                                                                    chk->def->parent_name) : NULL;
    return chk;
}


typedef struct {
    virDomainObj *vm;
    GPtrArray *names;
    int rc;
} ferryCheckpointReparentData;


static int
ferryCheckpointReparent(void *payload,
                        const char *key G_GNUC_UNUSED,
                        void *opaque)
{
    virDomainMomentObj *chk = payload;
    ferryCheckpointReparentData *data = opaque;
    virDomainMomentObj *parent;

    if (ferryCheckpointIsListed(data->names, chk->def->name) ||
        !ferryCheckpointIsListed(data->names, chk->def->parent_name))
        return 0;

    parent = ferryCheckpointSurvivor(data->vm, data->names,
                                     virDomainCheckpointFindByName(data->vm->checkpoints,
                                                                   chk->def->parent_name));
    g_free(chk->def->parent_name);
    chk->def->parent_name = parent ? g_strdup(parent->def->name) : NULL;

    if (ferryCheckpointSave(data->vm, virDomainCheckpointObjGetDef(chk)) < 0)
        data->rc = -1;

    return 0;
}


/* Children that stay go to the nearest ancestor that does. */
static int
ferryCheckpointReparentAll(virDomainObj *vm,
                           GPtrArray *names)
{
    ferryCheckpointReparentData data = { .vm = vm, .names = names };

    virDomainCheckpointForEach(vm->checkpoints, ferryCheckpointReparent, &data);
    return data.rc;
}


/* Removes the file of checkpoint @name, and what is left of one that was being
 * written when the driver died. */
static void
ferryCheckpointUnsave(virDomainObj *vm,
                      const char *name)
{
    g_autoptr(virQEMUDriverConfig) cfg = virQEMUDriverGetConfig(QEMU_DOMAIN_PRIVATE(vm)->driver);
    g_autofree char *path = g_strdup_printf("%s/%s/%s.xml", cfg->checkpointDir, vm->def->name, name);
    g_autofree char *unfinished = g_strdup_printf("%s.new", path);

    if ((unlink(unfinished) < 0 && errno != ENOENT) ||
        (unlink(path) < 0 && errno != ENOENT))
        VIR_WARN("cannot remove '%s': %s", path, g_strerror(errno));
}


/* Takes checkpoints off the domain's list. */
static void
ferryCheckpointDrop(virDomainObj *vm,
                    GPtrArray *names)
{
    virDomainMomentObj *current = virDomainCheckpointGetCurrent(vm->checkpoints);
    size_t i;

    virDomainCheckpointSetCurrent(vm->checkpoints, ferryCheckpointSurvivor(vm, names, current));

    for (i = 0; i < names->len; i++) {
        const char *name = g_ptr_array_index(names, i);
        virDomainMomentObj *chk = virDomainCheckpointFindByName(vm->checkpoints, name);

        ferryCheckpointUnsave(vm, name);

        if (chk) {
            virDomainMomentMoveChildren(chk, chk->parent);
            virDomainMomentDropParent(chk);
            virDomainCheckpointObjListRemove(vm->checkpoints, chk);
        }
    }
}


/**
 * ferryCheckpointRemoveAll:
 * @names: of checkpoints
 *
 * Removes what the driver knows of these checkpoints, in memory and in files.
 * Does again what may have been done.
 *
 * Returns 0, or -1 with an error reported and the checkpoints still there.
 */
int
ferryCheckpointRemoveAll(virDomainObj *vm,
                         GPtrArray *names)
{
    if (ferryCheckpointReparentAll(vm, names) < 0)
        return -1;

    ferryCheckpointDrop(vm, names);
    return 0;
}


/**
 * ferryCheckpointRemove:
 *
 * Removes what the driver knows of checkpoint @name, if anything: it was not
 * to be. Reports no error.
 */
void
ferryCheckpointRemove(virDomainObj *vm,
                      const char *name)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();

    g_ptr_array_add(names, (char *) name);

    /* a child whose parent is not found is a root to the next driver */
    if (ferryCheckpointReparentAll(vm, names) < 0)
        VIR_WARN("children of checkpoint '%s' of domain '%s' name it still: %s",
                 name, vm->def->name, virGetLastErrorMessage());
    virResetLastError();

    ferryCheckpointDrop(vm, names);
}


static int
ferryCheckpointForget(ferryOp *op)
{
    ferryCheckpoint *data = op->data;
    size_t i;

    for (i = 0; i < data->names->len; i++)
        ferryBackupForgetCheckpoint(op->vm, g_ptr_array_index(data->names, i));

    return ferryCheckpointRemoveAll(op->vm, data->names) < 0 ? FERRY_STEP_UNKNOWN : 0;
}


static const ferryStep ferryCheckpointDeleteSteps[] = {
    { .name = "open", .run = ferryCheckpointOpen, .undo = ferryCheckpointClose },
    { .name = "bitmaps", .run = ferryCheckpointRemoveBitmaps, .durable = true },
    { .name = "close", .run = ferryCheckpointRunClose },
    { .name = "metadata", .run = ferryCheckpointForget },
    { 0 },
};

const ferryPlan ferryCheckpointDeletePlan = {
    .name = "delete", .steps = ferryCheckpointDeleteSteps
};
