/*
 * checkpoint_create.c: what it takes to make a checkpoint, piece by piece
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A checkpoint is a bitmap of its name in the image of every disk, and a file
 * that says so. Each bitmap goes on recording whatever comes later, so an
 * incremental backup from any ancestor needs one bitmap only, and to delete a
 * checkpoint leaves the others as they are.
 *
 * The pieces are steps of two plans: a checkpoint on its own, and a backup that
 * makes one.
 */

#include <config.h>

#include "block/bitmap.h"
#include "block/node.h"
#include "block/qmp.h"
#include "ops/checkpoint.h"
#include "qemu/qemu_block.h"
#include "qemu/qemu_checkpoint.h"
#include "qemu/qemu_monitor.h"
#include "virerror.h"
#include "virlog.h"
#include "virxml.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.checkpoint");


/**
 * ferryCheckpointFind:
 *
 * Returns the definition of checkpoint @name of @vm, borrowed, or NULL.
 */
virDomainCheckpointDef *
ferryCheckpointFind(virDomainObj *vm,
                    const char *name)
{
    virDomainMomentObj *chk = virDomainCheckpointFindByName(vm->checkpoints, name);

    return chk ? virDomainCheckpointObjGetDef(chk) : NULL;
}


static int
ferryCheckpointCheckDisk(virDomainObj *vm,
                         virDomainCheckpointDef *def,
                         virDomainCheckpointDiskDef *chkdisk)
{
    virDomainDiskDef *disk = virDomainDiskByTarget(vm->def, chkdisk->name);

    if (chkdisk->type != VIR_DOMAIN_CHECKPOINT_TYPE_BITMAP)
        return 0;

    if (STRNEQ(chkdisk->bitmap, def->parent.name)) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("bitmap for disk '%s' must match checkpoint name '%s'"),
                       chkdisk->name, def->parent.name);
        return -1;
    }

    if (disk->src->format != VIR_STORAGE_FILE_QCOW2) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("checkpoint for disk %s unsupported for storage type %s"),
                       chkdisk->name, virStorageFileFormatTypeToString(disk->src->format));
        return -1;
    }

    return qemuDomainDiskBlockJobIsSupported(disk) ? 0 : -1;
}


/* A checkpoint keeps the domain's definition of its moment. */
static virDomainDef *
ferryCheckpointCopyDomain(virDomainObj *vm)
{
    qemuDomainObjPrivate *priv = vm->privateData;
    g_autofree char *xml = qemuDomainDefFormatLive(priv->driver, priv->qemuCaps, vm->def,
                                                   priv->origCPU, true, true);

    if (!xml)
        return NULL;

    return virDomainDefParseString(xml, priv->driver->xmlopt, priv->qemuCaps,
                                   VIR_DOMAIN_DEF_PARSE_INACTIVE |
                                   VIR_DOMAIN_DEF_PARSE_SKIP_VALIDATE);
}


/**
 * ferryCheckpointPrepare:
 * @xml: what the client asks for
 *
 * Returns the checkpoint that @xml describes, its disks filled in and checked
 * against @vm, its parent the current one; or NULL with an error reported.
 */
virDomainCheckpointDef *
ferryCheckpointPrepare(virDomainObj *vm,
                       const char *xml)
{
    qemuDomainObjPrivate *priv = vm->privateData;
    g_autoptr(virDomainCheckpointDef) def = NULL;
    size_t i;

    if (!(def = virDomainCheckpointDefParseString(xml, priv->driver->xmlopt, priv->qemuCaps, 0)) ||
        !(def->parent.dom = ferryCheckpointCopyDomain(vm)) ||
        virDomainCheckpointAlignDisks(def) < 0)
        return NULL;

    for (i = 0; i < def->ndisks; i++) {
        if (ferryCheckpointCheckDisk(vm, def, &def->disks[i]) < 0)
            return NULL;
    }

    if (virDomainCheckpointFindByName(vm->checkpoints, def->parent.name)) {
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("domain moment %s already exists"), def->parent.name);
        return NULL;
    }

    def->parent.parent_name = g_strdup(virDomainCheckpointGetCurrentName(vm->checkpoints));
    return g_steal_pointer(&def);
}


/**
 * ferryCheckpointSave:
 *
 * Writes the file of @def. The checkpoint is not in the domain's list yet, and
 * so not seen by anyone.
 */
int
ferryCheckpointSave(virDomainObj *vm,
                    virDomainCheckpointDef *def)
{
    virQEMUDriver *driver = QEMU_DOMAIN_PRIVATE(vm)->driver;
    g_autoptr(virQEMUDriverConfig) cfg = virQEMUDriverGetConfig(driver);
    virDomainMomentObj moment = { .def = &def->parent };

    return qemuCheckpointWriteMetadata(vm, &moment, driver->xmlopt, cfg->checkpointDir);
}


/**
 * ferryCheckpointAddBitmaps:
 *
 * Adds to @actions what makes the bitmaps of @def. A bitmap of that name which
 * no checkpoint knows any more (its file was lost, say) is emptied and used:
 * that can be taken back with the transaction, while removing it could not.
 * One that is inconsistent has no content to lose and is removed at once.
 */
int
ferryCheckpointAddBitmaps(virDomainObj *vm,
                          virDomainCheckpointDef *def,
                          GHashTable *nodes,
                          virJSONValue *actions)
{
    g_autoptr(virJSONValue) broken = virJSONValueNewArray();
    size_t i;

    for (i = 0; i < def->ndisks; i++) {
        virDomainCheckpointDiskDef *chkdisk = &def->disks[i];
        virDomainDiskDef *disk = virDomainDiskByTarget(vm->def, chkdisk->name);
        const char *node;
        qemuBlockNamedNodeDataBitmap *old;
        g_autoptr(virJSONValue) args = NULL;

        if (chkdisk->type != VIR_DOMAIN_CHECKPOINT_TYPE_BITMAP)
            continue;

        /* it was there, but whoever prepared this may have waited since */
        if (!disk) {
            virReportError(VIR_ERR_OPERATION_INVALID,
                           _("disk '%s' of domain '%s' was removed while checkpoint '%s' "
                             "was being created; try again"),
                           chkdisk->name, vm->def->name, def->parent.name);
            return -1;
        }

        node = disk->src->nodeformat;
        old = qemuBlockNamedNodeDataGetBitmapByName(nodes, disk->src, chkdisk->bitmap);

        if (old && !old->inconsistent && old->persistent) {
            if (virJSONValueObjectAdd(&args, "s:node", node, "s:name", chkdisk->bitmap, NULL) < 0 ||
                ferryQMPAddAction(actions, "block-dirty-bitmap-clear", &args) < 0 ||
                qemuMonitorTransactionBitmapEnable(actions, node, chkdisk->bitmap) < 0)
                return -1;
            continue;
        }

        if ((old && qemuMonitorTransactionBitmapRemove(broken, node, chkdisk->bitmap) < 0) ||
            qemuMonitorTransactionBitmapAdd(actions, node, chkdisk->bitmap, true, false, 0) < 0)
            return -1;
    }

    return ferryQMPTransaction(vm, &broken);
}


/**
 * ferryCheckpointDropOffline:
 * @def: of the checkpoint; NULL when it is to be found by @name
 * @chain: also from the images below the top ones, where a new one has none
 *
 * QEMU is gone, and what it did of the checkpoint's bitmaps is not known: they
 * go from the images that it covers. Reports no error.
 */
void
ferryCheckpointDropOffline(virDomainObj *vm,
                           virDomainCheckpointDef *def,
                           const char *name,
                           bool chain)
{
    size_t i;

    if (!def)
        def = ferryCheckpointFind(vm, name);

    for (i = 0; def && i < def->ndisks; i++) {
        virDomainDiskDef *disk = virDomainDiskByTarget(vm->def, def->disks[i].name);
        virStorageSource *n;

        if (!disk || def->disks[i].type != VIR_DOMAIN_CHECKPOINT_TYPE_BITMAP)
            continue;

        for (n = disk->src; virStorageSourceIsBacking(n); n = chain ? n->backingStore : NULL)
            ferryBitmapRemoveOffline(QEMU_DOMAIN_PRIVATE(vm)->driver, n, name);
    }
}


/**
 * ferryCheckpointDropBitmaps:
 *
 * Takes back what ferryCheckpointAddBitmaps() added, as far as it is there.
 * Reports no error.
 */
void
ferryCheckpointDropBitmaps(virDomainObj *vm,
                           virDomainCheckpointDef *def)
{
    g_autoptr(GHashTable) nodes = ferryNodeData(vm);
    g_autoptr(virJSONValue) actions = virJSONValueNewArray();
    size_t i;

    for (i = 0; nodes && i < def->ndisks; i++) {
        virDomainCheckpointDiskDef *chkdisk = &def->disks[i];
        virDomainDiskDef *disk = virDomainDiskByTarget(vm->def, chkdisk->name);

        if (disk && chkdisk->type == VIR_DOMAIN_CHECKPOINT_TYPE_BITMAP && chkdisk->bitmap &&
            qemuBlockNamedNodeDataGetBitmapByName(nodes, disk->src, chkdisk->bitmap))
            ignore_value(qemuMonitorTransactionBitmapRemove(actions, disk->src->nodeformat,
                                                            chkdisk->bitmap));
    }

    if (ferryQMPTransaction(vm, &actions) < 0)
        VIR_WARN("bitmaps of checkpoint '%s' of domain '%s' are left: %s",
                 def->parent.name, vm->def->name, virGetLastErrorMessage());
    virResetLastError();
}


/**
 * ferryCheckpointAdopt:
 *
 * Puts @def into the domain's list, as the current one. Nothing to do when it
 * is there already.
 */
int
ferryCheckpointAdopt(virDomainObj *vm,
                     virDomainCheckpointDef *def)
{
    virDomainMomentObj *chk;

    if (ferryCheckpointFind(vm, def->parent.name))
        return 0;

    if (!(chk = virDomainCheckpointAssignDef(vm->checkpoints, def)))
        return -1;

    virObjectRef(def); /* the list took ours over */
    virDomainCheckpointSetCurrent(vm->checkpoints, chk);
    virDomainCheckpointLinkParent(vm->checkpoints, chk);
    return 0;
}
