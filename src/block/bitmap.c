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
#include "block/nodename.h"
#include "block/qmp.h"
#include "block/source.h"
#include "block/tool.h"
#include "compat/block.h"
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

/* What qemu-img says, among other things, when there is no such bitmap. */
#define FERRY_BITMAP_ABSENT "not found"


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
 * @target, @base: as for ferryBitmapsCarry(), before the copy is made
 *
 * Returns 0 if the image @target can store the bitmaps of @src, or is of a format that loses
 * them, or -1 with an error reported.
 */
int
ferryBitmapsFit(virDomainObj *vm,
                GHashTable *nodes,
                virStorageSource *src,
                virStorageSource *target,
                virStorageSource *base)
{
    qemuBlockNamedNodeData *data = g_hash_table_lookup(nodes, ferryNodeName(target));
    const char *bitmap = NULL;
    virStorageSource *n;

    if (!data || !data->qcow2v2)
        return 0;

    for (n = src; virStorageSourceIsBacking(n) && n != base && !bitmap; n = n->backingStore)
        bitmap = ferryBitmapStored(nodes, ferryNodeName(n));

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
 * @base: merge only the bitmaps of the images above this one of @src's chain; NULL: of all
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
                  virStorageSource *base)
{
    g_autoptr(GHashTable) nodes = ferryNodeData(vm);
    g_autoptr(virJSONValue) actions = NULL;

    /* Only qcow2 stores bitmaps. A checkpoint does not survive a copy into another
     * format, as documented for the stock driver. */
    if (target->format != VIR_STORAGE_FILE_QCOW2)
        return 0;

    /* a checkpoint may have come since the copy began */
    if (!nodes ||
        ferryBitmapsFit(vm, nodes, src, target, base) < 0 ||
        qemuBlockGetBitmapMergeActions(src, base, target,
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


typedef struct {
    char *path;
    char *bitmap;
    uid_t uid;
    gid_t gid;
} ferryBitmapLeft;

struct _ferryBitmapSweep {
    char *qemuImg;
    GPtrArray *left; /* of ferryBitmapLeft */
};


static void
ferryBitmapLeftFree(void *opaque)
{
    ferryBitmapLeft *left = opaque;

    g_free(left->path);
    g_free(left->bitmap);
    g_free(left);
}


/**
 * ferryBitmapSweepNew:
 *
 * Returns an empty list of bitmaps to remove from images that no QEMU uses any more: QEMU
 * may have written the bitmaps into the images when it ended. The list refers to nothing of
 * a domain.
 */
ferryBitmapSweep *
ferryBitmapSweepNew(void)
{
    ferryBitmapSweep *sweep = g_new0(ferryBitmapSweep, 1);

    sweep->left = g_ptr_array_new_with_free_func(ferryBitmapLeftFree);
    return sweep;
}


void
ferryBitmapSweepFree(void *opaque)
{
    ferryBitmapSweep *sweep = opaque;

    g_free(sweep->qemuImg);
    g_ptr_array_unref(sweep->left);
    g_free(sweep);
}


/**
 * ferryBitmapSweepAdd:
 *
 * Adds bitmap @name of @src, an image of @vm, unless the image can have no bitmaps. Does not
 * look at the image. Domain locked. Reports no error.
 */
void
ferryBitmapSweepAdd(ferryBitmapSweep *sweep,
                    virDomainObj *vm,
                    virStorageSource *src,
                    const char *name)
{
    g_autofree char *qemuImg = virFindFileInPath("qemu-img");
    ferryBitmapLeft *left;

    if (!qemuImg || !ferrySourceIsFile(src) || src->format != VIR_STORAGE_FILE_QCOW2 ||
        src->encryption) {
        virResetLastError();
        return;
    }

    if (!sweep->qemuImg)
        sweep->qemuImg = g_steal_pointer(&qemuImg);

    left = g_new0(ferryBitmapLeft, 1);
    left->path = g_strdup(src->path);
    left->bitmap = g_strdup(name);
    ferryBlockImageIds(QEMU_DOMAIN_PRIVATE(vm)->driver, vm, src, &left->uid, &left->gid);
    g_ptr_array_add(sweep->left, left);
}


/**
 * ferryBitmapSweepPaths:
 *
 * Returns the images of @sweep as text for a message, or NULL if there are none.
 */
char *
ferryBitmapSweepPaths(ferryBitmapSweep *sweep)
{
    g_auto(virBuffer) buf = VIR_BUFFER_INITIALIZER;
    const char *last = NULL;
    size_t i;

    for (i = 0; i < sweep->left->len; i++) {
        ferryBitmapLeft *left = g_ptr_array_index(sweep->left, i);

        if (STRNEQ_NULLABLE(left->path, last))
            virBufferAsprintf(&buf, "%s'%s'", last ? ", " : "", left->path);
        last = left->path;
    }

    return virBufferContentAndReset(&buf);
}


static void
ferryBitmapSweepImage(const char *qemuImg,
                      const ferryBitmapLeft *left)
{
    VIR_AUTOCLOSE fd = ferryFileOpen(left->path, O_RDWR);
    g_autoptr(virCommand) cmd = NULL;
    g_autofree char *path = NULL;

    if (fd < 0 || !ferryBitmapIsAlone(fd)) {
        VIR_WARN("bitmap '%s' may be left in '%s', which is no file of its own: %s",
                 left->bitmap, left->path,
                 fd < 0 ? g_strerror(errno) : "it has no qcow2 header, or its data in another file");
        return;
    }

    path = ferryToolPath(fd);
    cmd = virCommandNewArgList(qemuImg, "bitmap", "--remove", "--", NULL);
    virCommandAddArgFormat(cmd, "json:{\"driver\":\"qcow2\",\"backing\":null,"
                                "\"file\":{\"driver\":\"file\",\"filename\":\"%s\"}}",
                           path);
    virCommandAddArg(cmd, left->bitmap);

    if (ferryToolRun(g_steal_pointer(&cmd), fd, ferryFileIsPinned(fd, left->path),
                     left->uid, left->gid) == 0)
        return;

    /* mostly QEMU had not written the bitmap */
    if (strstr(virGetLastErrorMessage(), FERRY_BITMAP_ABSENT))
        VIR_DEBUG("no bitmap '%s' in '%s'", left->bitmap, left->path);
    else
        VIR_WARN("bitmap '%s' may be left in '%s': %s", left->bitmap, left->path,
                 virGetLastErrorMessage());
}


/**
 * ferryBitmapSweepRun:
 *
 * Removes the bitmaps of a ferryBitmapSweep from the images. What may be left is a line in
 * the log. May wait for storage, for ever: called by a thread that may. Reports no error.
 */
void
ferryBitmapSweepRun(void *opaque)
{
    ferryBitmapSweep *sweep = opaque;
    size_t i;

    for (i = 0; i < sweep->left->len; i++)
        ferryBitmapSweepImage(sweep->qemuImg, g_ptr_array_index(sweep->left, i));

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
        data = g_hash_table_lookup(nodes, ferryNodeName(target));

    for (i = 0; data && i < data->nbitmaps; i++) {
        const char *name = data->bitmaps[i]->name;

        if (qemuBlockNamedNodeDataGetBitmapByName(nodes, src, name) &&
            qemuMonitorTransactionBitmapRemove(actions, ferryNodeName(target), name) < 0)
            break;
    }

    ignore_value(ferryQMPTransaction(vm, &actions));
    virResetLastError();
}
