/*
 * bitmaps.c: the bitmaps of a checkpoint
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A checkpoint is a bitmap of its name in the image of every disk, and a file that
 * says so (metadata.c). Each bitmap goes on recording whatever comes later. So an
 * incremental backup from any ancestor needs one bitmap only, and to delete a
 * checkpoint leaves the others as they are.
 *
 * A checkpoint is made on its own or with a backup: both plans use what is here.
 */

#include <config.h>

#include "block/bitmap.h"
#include "block/node.h"
#include "block/qmp.h"
#include "ops/checkpoint/bitmaps.h"
#include "ops/checkpoint/metadata.h"
#include "qemu/qemu_block.h"
#include "qemu/qemu_monitor.h"
#include "virerror.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.checkpoint");


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
                           _("disk '%1$s' of domain '%2$s' was removed while checkpoint '%3$s' "
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
