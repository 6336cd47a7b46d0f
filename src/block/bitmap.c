/*
 * bitmap.c: dirty bitmaps of checkpoints
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "block/bitmap.h"
#include "block/node.h"
#include "block/qmp.h"
#include "block/source.h"
#include "qemu/qemu_block.h"
#include "qemu/qemu_monitor.h"
#include "vircommand.h"
#include "virerror.h"
#include "virlog.h"

VIR_LOG_INIT("ferry.bitmap");


/**
 * ferryBitmapsCarry:
 * @target: copy of @src that a mirror job keeps up to date
 * @shallow: merge only the bitmaps of the top image of @src
 *
 * Merges the bitmaps of @src into bitmaps of the same names in @target, which record
 * from then on, in one transaction.
 *
 * Doing this before the pivot loses no write: an earlier write is in the bitmap of @src
 * and gets merged; a later one reaches @target through the mirror job, so the bitmap of
 * @target records it. No work is left for after the point of no return.
 * Returns 0, or -1 with an error reported and nothing changed.
 */
int
ferryBitmapsCarry(virDomainObj *vm,
                  virStorageSource *src,
                  virStorageSource *target,
                  bool shallow)
{
    g_autoptr(GHashTable) nodes = ferryNodeData(vm);
    g_autoptr(virJSONValue) actions = NULL;

    /* Only qcow2 stores bitmaps. A checkpoint does not survive a copy into another
     * format, as documented for the stock driver. */
    if (target->format != VIR_STORAGE_FILE_QCOW2)
        return 0;

    if (!nodes ||
        qemuBlockGetBitmapMergeActions(src, shallow ? src->backingStore : NULL, target,
                                       /* bitmapname= */ NULL, /* dstbitmapname= */ NULL,
                                       /* writebitmapsrc= */ NULL, &actions, nodes) < 0)
        return -1;

    return actions ? ferryQMPTransaction(vm, &actions) : 0;
}


/**
 * ferryBitmapRemoveOffline:
 *
 * Removes bitmap @name from the qcow2 file of @src, which no QEMU uses any more: QEMU may
 * have written the bitmap into the file when it ended. Reports no error.
 */
void
ferryBitmapRemoveOffline(virQEMUDriver *driver,
                         virStorageSource *src,
                         const char *name)
{
    const char *qemuImg = qemuFindQemuImgBinary(driver);
    g_autoptr(virCommand) cmd = NULL;
    g_autofree char *why = NULL;
    int status;

    if (!qemuImg || !ferrySourceIsFile(src) || src->format != VIR_STORAGE_FILE_QCOW2 ||
        src->encryption) {
        virResetLastError();
        return;
    }

    cmd = virCommandNewArgList(qemuImg, "bitmap", "--remove", "-f", "qcow2", "--",
                               src->path, name, NULL);
    virCommandSetErrorBuffer(cmd, &why);

    if (virCommandRun(cmd, &status) < 0 || status != 0)
        VIR_DEBUG("no bitmap '%s' removed from '%s': %s", name, src->path, NULLSTR(why));

    virResetLastError();
}


/**
 * ferryBitmapsDrop:
 *
 * Undoes ferryBitmapsCarry(): removes the bitmaps of @target that @src has too.
 */
void
ferryBitmapsDrop(virDomainObj *vm,
                 virStorageSource *src,
                 virStorageSource *target)
{
    g_autoptr(GHashTable) nodes = ferryNodeData(vm);
    g_autoptr(virJSONValue) actions = virJSONValueNewArray();
    qemuBlockNamedNodeData *data = NULL;
    size_t i;

    if (nodes)
        data = g_hash_table_lookup(nodes, target->nodeformat);

    for (i = 0; data && i < data->nbitmaps; i++) {
        const char *name = data->bitmaps[i]->name;

        if (qemuBlockNamedNodeDataGetBitmapByName(nodes, src, name) &&
            qemuMonitorTransactionBitmapRemove(actions, target->nodeformat, name) < 0)
            break;
    }

    ignore_value(ferryQMPTransaction(vm, &actions));
    virResetLastError();
}
