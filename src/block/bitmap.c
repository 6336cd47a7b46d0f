/*
 * bitmap.c: dirty bitmaps of checkpoints
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include <fcntl.h>
#include <unistd.h>

#include "block/bitmap.h"
#include "block/file.h"
#include "block/node.h"
#include "block/qmp.h"
#include "block/source.h"
#include "block/tool.h"
#include "qemu/qemu_block.h"
#include "qemu/qemu_monitor.h"
#include "virerror.h"
#include "virfile.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.bitmap");

/* Where in the header of a qcow2 file is what (bytes; see QEMU's docs/interop/qcow2.txt). */
#define FERRY_QCOW2_MAGIC "QFI\xfb"
#define FERRY_QCOW2_VERSION 7
#define FERRY_QCOW2_FEATURES 72
#define FERRY_QCOW2_DATA_FILE 4


/* Returns the name of a bitmap that is stored in the image of @node, or NULL. */
static const char *
ferryBitmapStored(GHashTable *nodes,
                  const char *node)
{
    qemuBlockNamedNodeData *data = g_hash_table_lookup(nodes, node);
    size_t i;

    for (i = 0; data && i < data->nbitmaps; i++) {
        if (data->bitmaps[i]->persistent)
            return data->bitmaps[i]->name;
    }

    return NULL;
}


/**
 * ferryBitmapsFit:
 * @nodes: of ferryNodeData()
 * @target, @shallow: as for ferryBitmapsCarry(), before the copy is made
 *
 * Returns 0 if the image @target can store the bitmaps of @src, or is of a format that loses
 * them, or -1 with an error reported.
 */
int
ferryBitmapsFit(virDomainObj *vm,
                GHashTable *nodes,
                virStorageSource *src,
                virStorageSource *target,
                bool shallow)
{
    qemuBlockNamedNodeData *data = g_hash_table_lookup(nodes, target->nodeformat);
    const char *bitmap = NULL;
    virStorageSource *n;

    if (!data || !data->qcow2v2)
        return 0;

    for (n = src; virStorageSourceIsBacking(n) && !bitmap; n = shallow ? NULL : n->backingStore)
        bitmap = ferryBitmapStored(nodes, n->nodeformat);

    if (!bitmap)
        return 0;

    virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                   _("'%1$s' cannot hold checkpoint '%2$s' of disk '%3$s' of domain '%4$s', since it is "
                     "a qcow2 image of compat 0.10: convert it with 'qemu-img amend -o compat=1.1', or "
                     "delete the checkpoints first"),
                   NULLSTR(target->path), bitmap, NULLSTR(src->path), vm->def->name);
    return -1;
}


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

    /* a checkpoint may have come since the copy began */
    if (!nodes ||
        ferryBitmapsFit(vm, nodes, src, target, shallow) < 0 ||
        qemuBlockGetBitmapMergeActions(src, shallow ? src->backingStore : NULL, target,
                                       /* bitmapname= */ NULL, /* dstbitmapname= */ NULL,
                                       /* writebitmapsrc= */ NULL, &actions, nodes) < 0)
        return -1;

    return actions ? ferryQMPTransaction(vm, &actions) : 0;
}


/* Returns whether @fd is a qcow2 file that has its data itself. */
static bool
ferryBitmapIsAlone(int fd)
{
    unsigned char header[FERRY_QCOW2_FEATURES + 8];

    if (pread(fd, header, sizeof(header), /* offset= */ 0) != sizeof(header) ||
        memcmp(header, FERRY_QCOW2_MAGIC, strlen(FERRY_QCOW2_MAGIC)) != 0)
        return false;

    /* numbers are big endian; an image of version 2 has no bitmaps */
    return header[FERRY_QCOW2_VERSION] >= 3 &&
           !(header[FERRY_QCOW2_FEATURES + 7] & FERRY_QCOW2_DATA_FILE);
}


/**
 * ferryBitmapRemoveOffline:
 *
 * Removes bitmap @name from the qcow2 file of @src, an image of @vm that no QEMU uses any
 * more: QEMU may have written the bitmap into the file when it ended. Reports no error.
 */
void
ferryBitmapRemoveOffline(virDomainObj *vm,
                         virStorageSource *src,
                         const char *name)
{
    virQEMUDriver *driver = QEMU_DOMAIN_PRIVATE(vm)->driver;
    const char *qemuImg = qemuFindQemuImgBinary(driver);
    g_autoptr(virQEMUDriverConfig) cfg = virQEMUDriverGetConfig(driver);
    g_autoptr(virCommand) cmd = NULL;
    g_autofree char *path = NULL;
    VIR_AUTOCLOSE fd = -1;
    uid_t uid;
    gid_t gid;

    if (!qemuImg || !ferrySourceIsFile(src) || src->format != VIR_STORAGE_FILE_QCOW2 ||
        src->encryption) {
        virResetLastError();
        return;
    }

    if ((fd = ferryFileOpen(src->path, O_RDWR)) < 0 || !ferryBitmapIsAlone(fd)) {
        VIR_WARN("bitmap '%s' may be left in '%s', which is no file of its own: %s", name, src->path,
                 fd < 0 ? g_strerror(errno) : "it has no qcow2 header, or its data in another file");
        virResetLastError();
        return;
    }

    path = ferryToolPath(fd);
    cmd = virCommandNewArgList(qemuImg, "bitmap", "--remove", "--", NULL);
    virCommandAddArgFormat(cmd, "json:{\"driver\":\"qcow2\",\"backing\":null,"
                           "\"file\":{\"driver\":\"file\",\"filename\":\"%s\"}}", path);
    virCommandAddArg(cmd, name);
    qemuDomainGetImageIds(cfg, vm, src, /* parentSrc= */ NULL, &uid, &gid);

    if (ferryToolRun(g_steal_pointer(&cmd), fd, ferryFileIsPinned(fd, src->path), uid, gid) < 0)
        VIR_DEBUG("no bitmap '%s' removed from '%s': %s", name, src->path, virGetLastErrorMessage());

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
