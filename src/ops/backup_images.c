/*
 * backup_images.c: backup: the steps that make its images and their nodes
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Whatever can be done for all disks at the same time is: a backup of sixteen
 * disks is to begin in little more time than that of one.
 */

#include <config.h>

#include "block/node.h"
#include "ops/backup.h"
#include "qemu/qemu_block.h"
#include "viralloc.h"
#include "virerror.h"
#include "virhash.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

/* Creating images is quick, but remote ones may hang. */
#define FERRY_BACKUP_CREATE_MS (5 * 60 * 1000)


/* create, format: the images, all at the same time; alone, see copy.c */
static char *
ferryBackupCreateJobName(ferryOp *op,
                         ferryBackupDisk *disk)
{
    g_autofree char *what = g_strdup_printf("create-%s", disk->def->name);

    return ferryJobName(op, what);
}


static virStorageSource *
ferryBackupBacking(ferryOp *op,
                   ferryBackupDisk *disk)
{
    ferryBackup *backup = op->data;

    if (ferryBackupIsPull(backup) ||
        (disk->bitmap && disk->def->store->format >= VIR_STORAGE_FILE_BACKING))
        return virObjectRef(ferryBackupDomainDisk(op, disk)->src);

    return virStorageSourceNew();
}


static int
ferryBackupCreateWait(ferryOp *op)
{
    g_autofree char *failed = NULL;
    g_autofree char *error = NULL;

    if (ferryJobWaitAll(op, "create-", FERRY_BACKUP_CREATE_MS, &failed, &error) < 0)
        return -1;

    if (error) {
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("failed to format image for backup of disk '%s' of domain '%s': %s"),
                       failed, op->vm->def->name, error);
        return -1;
    }

    return 0;
}


int
ferryBackupCreate(ferryOp *op)
{
    ferryBackup *backup = op->data;
    g_autoptr(GHashTable) nodes = NULL;
    int started = 0;
    size_t i;

    if (backup->reuse)
        return 0;

    if (!(nodes = ferryNodeData(op->vm)))
        return -1;

    for (i = 0; i < backup->ndisks; i++) {
        virStorageSource *store = backup->disks[i].def->store;
        g_autofree char *jobname = ferryBackupCreateJobName(op, &backup->disks[i]);
        int rc;

        if (qemuBlockStorageSourceCreateDetectSize(nodes, store,
                                                   ferryBackupDomainDisk(op, &backup->disks[i])->src) < 0 ||
            (rc = ferryImageFormatStart(op->vm, store, NULL, true, jobname)) < 0)
            return -1;

        started += rc;
    }

    return started ? ferryBackupCreateWait(op) : 0;
}


/* Starts formatting the image of @disk, unless that is the same as for one
 * before, by @done: then that one is returned, and the image is its clone. */
static int
ferryBackupFormatDisk(ferryOp *op,
                      ferryBackupDisk *disk,
                      GHashTable *done,
                      ferryBackupDisk **same)
{
    virStorageSource *store = disk->def->store;
    g_autofree char *jobname = ferryBackupCreateJobName(op, disk);
    g_autofree char *key = NULL;
    /* what a pull opens has its backing chain given; what a push leaves must
     * know its own */
    g_autoptr(virStorageSource) backing = ferryBackupIsPull(op->data) ? virStorageSourceNew() :
                                                                         ferryBackupBacking(op, disk);
    g_autoptr(virJSONValue) props = NULL;

    if (ferryImageFormatProps(store, backing, &props) < 0)
        return -1;

    if (!props)
        return 0;

    if (ferryImageIsPlain(store)) {
        if (virJSONValueObjectRemoveKey(props, "file", NULL) < 0 ||
            !(key = virJSONValueToString(props, false)))
            return -1;

        if (done && (*same = g_hash_table_lookup(done, key)))
            return 0;

        if (ferryNodeInlineStorage(store, props) < 0)
            return -1;
    }

    if (ferryImageCreateStart(op->vm, jobname, &props) < 0)
        return -1;

    if (key && done)
        g_hash_table_insert(done, g_steal_pointer(&key), disk);

    return 1;
}


int
ferryBackupFormatImages(ferryOp *op)
{
    ferryBackup *backup = op->data;
    g_autoptr(GHashTable) done = virHashNew(NULL);
    g_autofree ferryBackupDisk **same = g_new0(ferryBackupDisk *, backup->ndisks);
    int started = 0;
    int rc;
    size_t i;

    for (i = 0; !backup->reuse && i < backup->ndisks; i++) {
        if ((rc = ferryBackupFormatDisk(op, &backup->disks[i], done, &same[i])) < 0)
            return -1;
        started += rc;
    }

    if (started && ferryBackupCreateWait(op) < 0)
        return -1;

    for (i = 0, started = 0; i < backup->ndisks; i++) {
        if (!same[i] || ferryImageClone(same[i]->def->store, backup->disks[i].def->store) == 0)
            continue;

        if ((rc = ferryBackupFormatDisk(op, &backup->disks[i], NULL, &same[i])) < 0)
            return -1;
        started += rc;
    }

    return started ? ferryBackupCreateWait(op) : 0;
}


void
ferryBackupUncreate(ferryOp *op)
{
    ignore_value(ferryJobKillAll(op, "create-"));
}


/* storage, node: the stores' nodes in QEMU; with plain ones the first comes with
 * the second */
int
ferryBackupAddStorage(ferryOp *op)
{
    ferryBackup *backup = op->data;
    size_t i;

    for (i = 0; i < backup->ndisks; i++) {
        virStorageSource *store = backup->disks[i].def->store;

        if (!ferryImageIsPlain(store) && ferryNodeAddStorage(op->vm, store) < 0)
            return -1;
    }

    return 0;
}


/* A push bypasses the page cache, where the storage can: a guest's own writes
 * would have to wait for the host to write all that back. A scratch image does
 * not: what it gets is what the guest waits for. */
static int
ferryBackupAddPlain(ferryOp *op,
                    virStorageSource *store,
                    virStorageSource *backing)
{
    int rc;

    if (!ferryBackupIsPull(op->data) && ferryNodeMayBypassCache(store)) {
        store->cachemode = VIR_DOMAIN_DISK_CACHE_DISABLE;
        rc = ferryNodeAddPlain(op->vm, store, backing);
        store->cachemode = VIR_DOMAIN_DISK_CACHE_DEFAULT;

        if (rc == 0)
            return 0;
        virResetLastError();
    }

    return ferryNodeAddPlain(op->vm, store, backing);
}


int
ferryBackupAddNodes(ferryOp *op)
{
    ferryBackup *backup = op->data;
    size_t i;

    for (i = 0; i < backup->ndisks; i++) {
        virStorageSource *store = backup->disks[i].def->store;
        g_autoptr(virStorageSource) backing = ferryBackupBacking(op, &backup->disks[i]);

        if ((ferryImageIsPlain(store) ? ferryBackupAddPlain(op, store, backing) :
                                        ferryNodeAddFormat(op->vm, store, backing)) < 0)
            return -1;
    }

    return 0;
}


void
ferryBackupRemoveNodes(ferryOp *op)
{
    ferryBackup *backup = op->data;
    size_t i;

    for (i = 0; i < backup->ndisks; i++) {
        virStorageSource *store = backup->disks[i].def->store;

        if (ferryImageIsPlain(store))
            ferryNodeRemovePlain(op->vm, store);
        else
            ferryNodeRemove(op->vm, store);
    }
}
