/*
 * bitmaps.c: the bitmaps of a checkpoint
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A checkpoint is a bitmap of its name in the image of every disk, and a file that
 * describes the checkpoint (metadata.c). Each bitmap records all later writes on its own.
 * So an incremental backup from any ancestor needs one bitmap only, and deleting one
 * checkpoint leaves the others unchanged. Checkpoint and backup plans use this file.
 */

#include <config.h>

#include "block/bitmap.h"
#include "block/node.h"
#include "block/nodename.h"
#include "block/qmp.h"
#include "engine/leftover.h"
#include "ops/checkpoint/bitmaps.h"
#include "ops/checkpoint/metadata.h"
#include "qemu/qemu_block.h"
#include "qemu/qemu_monitor.h"
#include "virerror.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.checkpoint");


/* Returns the image of @disk that has a bitmap @name on which a client may rely, or NULL.
 * Nobody can rely on an inconsistent one. If @whole, the whole disk is copied for the new
 * checkpoint: then a bitmap of the top image may be emptied, if QEMU can roll that back. */
static virStorageSource *
ferryCheckpointFindNeeded(virDomainDiskDef *disk,
                          const char *name,
                          GHashTable *nodes,
                          bool whole)
{
    virStorageSource *n;

    for (n = disk->src; virStorageSourceIsBacking(n); n = n->backingStore) {
        qemuBlockNamedNodeDataBitmap *old = qemuBlockNamedNodeDataGetBitmapByName(nodes, n, name);

        if (old && !old->inconsistent && !(whole && (n != disk->src || old->persistent)))
            return n;
    }

    return NULL;
}


/* Returns 0 if the images of @disk can get bitmap @name, or -1 with an error reported. */
static int
ferryCheckpointCheckImage(virDomainObj *vm,
                          virDomainDiskDef *disk,
                          const char *name,
                          GHashTable *nodes,
                          bool whole)
{
    qemuBlockNamedNodeData *data = g_hash_table_lookup(nodes, ferryNodeName(disk->src));
    virStorageSource *needed;

    if (data && data->qcow2v2) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("disk '%1$s' of domain '%2$s' cannot have checkpoint '%3$s', since its "
                         "image '%4$s' is a qcow2 image of compat 0.10: stop the domain and convert "
                         "the image with 'qemu-img amend -o compat=1.1', or leave the disk out with "
                         "checkpoint='no'"),
                       disk->dst, vm->def->name, name, NULLSTR(disk->src->path));
        return -1;
    }

    if (!(needed = ferryCheckpointFindNeeded(disk, name, nodes, whole)))
        return 0;

    virReportError(VIR_ERR_OPERATION_FAILED,
                   _("image '%1$s' of disk '%2$s' of domain '%3$s' has a bitmap '%4$s' already, which "
                     "no checkpoint knows, and on which a client may rely: choose another name; or "
                     "define its checkpoint again with 'virsh checkpoint-create --redefine', and "
                     "delete that with 'virsh checkpoint-delete' if nobody needs the bitmap; or "
                     "make the new checkpoint with a full backup of the disk"),
                   NULLSTR(needed->path), disk->dst, vm->def->name, name);
    return -1;
}


/**
 * ferryCheckpointCheckImages:
 * @nodes: of ferryNodeData()
 * @whole: names of the disks that are copied as a whole with the checkpoint; NULL: none
 *
 * Returns 0 if all bitmaps of @def can be created without a loss, or -1 with an error
 * reported.
 */
int
ferryCheckpointCheckImages(virDomainObj *vm,
                           virDomainCheckpointDef *def,
                           GHashTable *nodes,
                           const char *const *whole)
{
    size_t i;

    for (i = 0; i < def->ndisks; i++) {
        virDomainCheckpointDiskDef *chkdisk = &def->disks[i];

        if (chkdisk->type != VIR_DOMAIN_CHECKPOINT_TYPE_BITMAP)
            continue;

        /* an earlier step waited without the domain's job: the disk may have been unplugged
         * or may have another image now */
        if (ferryCheckpointCheckDisk(vm, def, chkdisk) < 0 ||
            ferryCheckpointCheckImage(vm, virDomainDiskByTarget(vm->def, chkdisk->name),
                                      chkdisk->bitmap, nodes,
                                      whole && g_strv_contains(whole, chkdisk->name)) < 0)
            return -1;
    }

    return 0;
}


/**
 * ferryCheckpointAddBitmaps:
 * @nodes, @whole: as for ferryCheckpointCheckImages(), which is asked once more
 *
 * Adds to @actions what creates the bitmaps of @def. A bitmap of the same name may be
 * left from a checkpoint whose file was lost. If the whole disk is copied, the bitmap is
 * cleared and reused, since QEMU rolls that back when the transaction fails; a removal
 * beforehand would be final. A bitmap that is inconsistent is removed at once, before the
 * transaction.
 */
int
ferryCheckpointAddBitmaps(virDomainObj *vm,
                          virDomainCheckpointDef *def,
                          GHashTable *nodes,
                          const char *const *whole,
                          virJSONValue *actions)
{
    g_autoptr(virJSONValue) broken = virJSONValueNewArray();
    size_t i;

    if (ferryCheckpointCheckImages(vm, def, nodes, whole) < 0)
        return -1;

    for (i = 0; i < def->ndisks; i++) {
        virDomainCheckpointDiskDef *chkdisk = &def->disks[i];
        virDomainDiskDef *disk = virDomainDiskByTarget(vm->def, chkdisk->name);
        const char *node;
        qemuBlockNamedNodeDataBitmap *old;
        g_autoptr(virJSONValue) args = NULL;

        if (chkdisk->type != VIR_DOMAIN_CHECKPOINT_TYPE_BITMAP)
            continue;

        node = ferryNodeName(disk->src);
        old = qemuBlockNamedNodeDataGetBitmapByName(nodes, disk->src, chkdisk->bitmap);

        if (old)
            VIR_WARN("%s bitmap '%s' of disk '%s' of domain '%s' is %s for a new checkpoint: %s",
                     old->inconsistent ? "the broken" : "the", chkdisk->bitmap, disk->dst,
                     vm->def->name, old->inconsistent ? "replaced" : "emptied",
                     old->inconsistent ? "it cannot be used" :
                                         "no checkpoint knew it, and the whole disk is backed up");

        if (old && !old->inconsistent) {
            if (virJSONValueObjectAdd(&args, "s:node", node, "s:name", chkdisk->bitmap, NULL) < 0 ||
                ferryQMPAddAction(actions, "block-dirty-bitmap-clear", &args) < 0 ||
                qemuMonitorTransactionBitmapEnable(actions, node, chkdisk->bitmap) < 0)
                return -1;
            continue;
        }

        if ((old && qemuMonitorTransactionBitmapRemove(broken, node, chkdisk->bitmap) < 0) ||
            qemuMonitorTransactionBitmapAdd(actions, node, chkdisk->bitmap, /* persistent= */ true,
                                            /* disabled= */ false, /* granularity= */ 0) < 0)
            return -1;
    }

    return ferryQMPTransaction(vm, &broken);
}


static int
ferryCheckpointTryDrop(virDomainObj *vm,
                       virDomainCheckpointDef *def)
{
    g_autoptr(GHashTable) nodes = ferryNodeData(vm);
    g_autoptr(virJSONValue) actions = virJSONValueNewArray();
    size_t i;

    if (!nodes)
        return -1;

    for (i = 0; i < def->ndisks; i++) {
        virDomainCheckpointDiskDef *chkdisk = &def->disks[i];
        virDomainDiskDef *disk = virDomainDiskByTarget(vm->def, chkdisk->name);

        if (disk && chkdisk->type == VIR_DOMAIN_CHECKPOINT_TYPE_BITMAP && chkdisk->bitmap &&
            qemuBlockNamedNodeDataGetBitmapByName(nodes, disk->src, chkdisk->bitmap))
            ignore_value(qemuMonitorTransactionBitmapRemove(actions, ferryNodeName(disk->src),
                                                            chkdisk->bitmap));
    }

    return ferryQMPTransaction(vm, &actions);
}


/**
 * ferryCheckpointDropBitmaps:
 *
 * Undoes the transaction of ferryCheckpointAddBitmaps(): removes those bitmaps of @def
 * that exist. Domain locked, job held; the caller has a reference to @def. Reports no
 * error.
 */
void
ferryCheckpointDropBitmaps(virDomainObj *vm,
                           virDomainCheckpointDef *def)
{
    /* Try twice: a bitmap that is left takes its name, as if a client relied on it. */
    if (ferryCheckpointTryDrop(vm, def) < 0 && ferryCheckpointTryDrop(vm, def) < 0)
        VIR_WARN("bitmaps of checkpoint '%s' of domain '%s' could not be removed: %s",
                 def->parent.name, vm->def->name, virGetLastErrorMessage());
    virResetLastError();
}


/* Adds the bitmaps of checkpoint @name to @sweep. */
static void
ferryCheckpointSweep(virDomainObj *vm,
                     virDomainCheckpointDef *def,
                     const char *name,
                     bool chain,
                     ferryBitmapSweep *sweep)
{
    size_t i;

    for (i = 0; i < def->ndisks; i++) {
        virDomainDiskDef *disk = virDomainDiskByTarget(vm->def, def->disks[i].name);
        virStorageSource *n;

        if (!disk || def->disks[i].type != VIR_DOMAIN_CHECKPOINT_TYPE_BITMAP)
            continue;

        for (n = disk->src; virStorageSourceIsBacking(n); n = chain ? n->backingStore : NULL)
            ferryBitmapSweepAdd(sweep, vm, n, name);
    }
}


/**
 * ferryCheckpointDropOffline:
 * @op: the operation that made or was to delete the checkpoints; it has a domain
 * @def: definition of the only checkpoint; NULL: look them up in the domain's list
 * @names: of the checkpoints
 * @chain: also clean images below the top one, where a new checkpoint has no bitmaps
 *
 * Removes the checkpoints' bitmaps from the disks' images. QEMU is gone, so nobody knows
 * which bitmaps it wrote. Does nothing if another QEMU uses the images by now: the bitmaps
 * then stay, and the log says so. Does not wait for storage.
 *
 * Returns 0, or -1 with an error reported when that is not done yet: the domain must not
 * start, @op must not end and the definitions must stay. This function is then called again
 * with stopped().
 */
int
ferryCheckpointDropOffline(ferryOp *op,
                           virDomainCheckpointDef *def,
                           GPtrArray *names,
                           bool chain)
{
    virDomainObj *vm = op->vm;
    ferryBitmapSweep *sweep;
    g_autofree char *paths = NULL;
    size_t i;

    if (vm->pid != 0) {
        for (i = 0; i < names->len; i++)
            VIR_WARN("bitmaps '%s' may be left in the images of domain '%s', which runs",
                     (const char *) g_ptr_array_index(names, i), vm->def->name);
        return 0;
    }

    sweep = ferryBitmapSweepNew();

    for (i = 0; i < names->len; i++) {
        const char *name = g_ptr_array_index(names, i);
        g_autoptr(virDomainCheckpointDef) found = def ? virObjectRef(def) :
                                                        ferryCheckpointFind(vm, name);

        if (found)
            ferryCheckpointSweep(vm, found, name, chain, sweep);
    }

    paths = ferryBitmapSweepPaths(sweep);

    if (!paths) {
        ferryBitmapSweepFree(sweep);
        op->blocksStart = false;
        return 0;
    }

    op->blocksStart = !ferryLeftoverRun(op, ferryBitmapSweepRun, sweep, ferryBitmapSweepFree);

    if (!op->blocksStart)
        return 0;

    virReportError(VIR_ERR_OPERATION_TIMEOUT,
                   _("bitmaps of checkpoint '%1$s' of domain '%2$s' are still to be removed from %3$s, "
                     "whose storage has not answered yet; check the mount or the device, and try again"),
                   (const char *) g_ptr_array_index(names, 0), vm->def->name, paths);
    return -1;
}
