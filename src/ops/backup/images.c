/*
 * images.c: backup: the steps that create its images and their block nodes
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The jobs of all disks run at the same time, so that a backup of sixteen disks begins in
 * little more time than a backup of one.
 */

#include <config.h>

#include "block/cache.h"
#include "block/image.h"
#include "block/like.h"
#include "block/node.h"
#include "engine/wait.h"
#include "ops/backup/data.h"
#include "ops/backup/files.h"
#include "ops/backup/images.h"
#include "qemu/qemu_block.h"
#include "virerror.h"
#include "virhash.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

/* Time limit for all images: creating them is quick, but remote storage may hang. */
#define FERRY_BACKUP_CREATE_MS (20 * 1000)

/* Smallest capacity in bytes of a disk whose push bypasses the page cache: QEMU takes a
 * millisecond longer to open an image with direct I/O. */
#define FERRY_BACKUP_LARGE (256 * 1024 * 1024ULL)


/* create, format: create all images at once. Both steps are alone: QEMU up to 7.2 dies
 * when it is asked for its nodes while an image is being formatted. */
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
    ferryBackup *backup = ferryBackupOf(op);

    if (ferryBackupIsPull(backup) ||
        (disk->bitmap && disk->def->store->format >= VIR_STORAGE_FILE_BACKING))
        return virObjectRef(ferryBackupDomainDisk(op, disk)->src);

    return virStorageSourceNew();
}


/* Waits until the @started jobs have ended, and reports the error of one that failed. */
static int
ferryBackupCreateWait(ferryOp *op,
                      int started)
{
    ferryBackup *backup = ferryBackupOf(op);
    g_autofree char *failed = NULL;
    g_autofree char *error = NULL;

    if (started > 0 &&
        ferryJobWaitAll(op, "create-", FERRY_BACKUP_CREATE_MS, &failed, &error) < 0)
        return -1;

    backup->creating = false;

    if (error) {
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("failed to format image for backup of disk '%1$s' of domain '%2$s': %3$s"),
                       failed, op->vm->def->name, error);
        return -1;
    }

    return 0;
}


int
ferryBackupCreate(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    g_autoptr(ferryLike) like = NULL;
    int started = 0;
    size_t i;

    if (backup->reuse)
        return 0;

    if (ferryBackupAskStores(op) < 0 || ferryBackupRequireDisks(op) < 0 ||
        !(like = ferryLikeAsk(op->vm)))
        return -1;

    backup->creating = true;
    for (i = 0; i < backup->ndisks; i++) {
        virStorageSource *store = backup->disks[i].def->store;
        g_autofree char *jobname = ferryBackupCreateJobName(op, &backup->disks[i]);
        int rc;

        if (ferryImageCheckOurs(op->vm, store, ferryBackupFileOf(&backup->disks[i])) < 0 ||
            ferryLikeApply(like, store, ferryBackupDomainDisk(op, &backup->disks[i])->src,
                           /* lasting= */ !ferryBackupIsPull(backup)) < 0 ||
            (rc = ferryImageFormatStart(op->vm, store, /* backing= */ NULL,
                                        /* storage= */ true, jobname)) < 0)
            return -1;

        started += rc;
    }

    return ferryBackupCreateWait(op, started);
}


/* A full push bypasses the page cache where the storage supports that: otherwise the
 * guest's own writes wait while the host writes the cached backup back. The page cache is
 * better for small and incremental backups, and for scratch images (the guest waits). */
static bool
ferryBackupBypassesCache(ferryOp *op,
                         ferryBackupDisk *disk)
{
    virStorageSource *store = disk->def->store;

    /* the capacity is 0, that is unknown, for an image that the client prepared */
    return !ferryBackupIsPull(ferryBackupOf(op)) && !disk->bitmap &&
           (store->capacity == 0 || store->capacity >= FERRY_BACKUP_LARGE) &&
           ferryNodeMayBypassCache(op->vm, store);
}


/* Starts the job that formats the image of @disk. If @done (format options -> disk; or
 * NULL) has a plain image with the same options, sets @same to its disk: the caller
 * clones that image. Returns the number of jobs started, or -1 with an error reported. */
static int
ferryBackupFormatDisk(ferryOp *op,
                      ferryBackupDisk *disk,
                      GHashTable *done,
                      ferryBackupDisk **same)
{
    ferryBackup *backup = ferryBackupOf(op);
    virStorageSource *store = disk->def->store;
    g_autofree char *jobname = ferryBackupCreateJobName(op, disk);
    g_autofree char *key = NULL;
    /* A scratch image gets its backing node when it is opened; the image of a push must
     * name its backing file itself. */
    g_autoptr(virStorageSource) backing = ferryBackupIsPull(backup) ? virStorageSourceNew() :
                                                                      ferryBackupBacking(op, disk);
    g_autoptr(virJSONValue) props = NULL;

    if (ferryImageCheckOurs(op->vm, store, ferryBackupFileOf(disk)) < 0 ||
        ferryImageFormatProps(store, backing, &props) < 0)
        return -1;

    if (!props)
        return 0;

    if (ferryImageIsPlain(store)) {
        if (virJSONValueObjectRemoveKey(props, "file", /* value= */ NULL) < 0 ||
            !(key = virJSONValueToString(props, /* pretty= */ false)))
            return -1;

        if (done && (*same = g_hash_table_lookup(done, key)))
            return 0;

        if (ferryNodeInlineStorage(store, props) < 0)
            return -1;
    }

    backup->creating = true;
    if (ferryImageCreateStart(op->vm, jobname, &props) < 0)
        return -1;

    if (key && done)
        g_hash_table_insert(done, g_steal_pointer(&key), disk);

    return 1;
}


int
ferryBackupFormatImages(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    g_autoptr(GHashTable) done = virHashNew(NULL);
    g_autofree ferryBackupDisk **same = g_new0(ferryBackupDisk *, backup->ndisks);
    int started = 0;
    int rc;
    size_t i;

    if (ferryBackupAskStores(op) < 0 || ferryBackupRequireDisks(op) < 0)
        return -1;

    for (i = 0; !backup->reuse && i < backup->ndisks; i++) {
        if ((rc = ferryBackupFormatDisk(op, &backup->disks[i], done, &same[i])) < 0)
            return -1;
        started += rc;
    }

    if (ferryBackupCreateWait(op, started) < 0)
        return -1;

    for (i = 0, started = 0; i < backup->ndisks; i++) {
        ferryBackupDisk *disk = &backup->disks[i];

        if (!same[i] || ferryImageClone(same[i]->def->store, disk->def->store, ferryBackupFileOf(disk),
                                        ferryBackupBypassesCache(op, disk)) == 0)
            continue;

        if ((rc = ferryBackupFormatDisk(op, disk, /* done= */ NULL, &same[i])) < 0)
            return -1;
        started += rc;
    }

    return ferryBackupCreateWait(op, started);
}


void
ferryBackupUncreate(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);

    if (backup->creating)
        ignore_value(ferryJobKillAll(op, "create-", /* known= */ NULL));
}


/* storage, node: add the stores' nodes; "node" adds both of a plain image at once */
int
ferryBackupAddStorage(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    size_t i;

    for (i = 0; i < backup->ndisks; i++) {
        virStorageSource *store = backup->disks[i].def->store;

        if (!ferryImageIsPlain(store) && ferryNodeAddStorage(op->vm, store) < 0)
            return -1;
    }

    return 0;
}


static int
ferryBackupAddPlain(ferryOp *op,
                    ferryBackupDisk *disk,
                    virStorageSource *backing)
{
    virStorageSource *store = disk->def->store;
    int rc;

    if (ferryBackupBypassesCache(op, disk)) {
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
    ferryBackup *backup = ferryBackupOf(op);
    size_t i;

    if (ferryBackupAskStores(op) < 0 || ferryBackupRequireDisks(op) < 0)
        return -1;

    for (i = 0; i < backup->ndisks; i++) {
        ferryBackupDisk *disk = &backup->disks[i];
        virStorageSource *store = disk->def->store;
        g_autoptr(virStorageSource) backing = ferryBackupBacking(op, disk);

        if (ferryImageCheckOurs(op->vm, store, ferryBackupFileOf(disk)) < 0)
            return -1;

        if ((ferryImageIsPlain(store) ? ferryBackupAddPlain(op, disk, backing) :
                                        ferryNodeAddFormat(op->vm, store, backing)) < 0)
            return -1;
    }

    return 0;
}


void
ferryBackupRemoveNodes(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    size_t i;

    for (i = 0; i < backup->ndisks; i++) {
        virStorageSource *store = backup->disks[i].def->store;

        if (ferryImageIsPlain(store))
            ferryNodeRemovePlain(op->vm, store);
        else
            ferryNodeRemove(op->vm, store);
    }
}
