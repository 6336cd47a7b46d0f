/*
 * begin.c: backup: the steps from a request to running jobs
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Theory of operation
 *
 * A push backup is a job for every disk that copies what was there at one
 * moment into an image. A pull backup is a job that keeps what the guest
 * overwrites in a scratch image on top of the disk, and an NBD server that
 * shows this image to a client: the disk as it was. All jobs, the bitmap of a
 * checkpoint and those that say what an incremental backup has to copy come
 * into being in one transaction: one point in time.
 *
 * A backup lives as an operation until its jobs have ended and everything
 * below is undone. What the undo leaves (images of a push, the checkpoint) its
 * result decides.
 */

#include <config.h>

#include "block/access.h"
#include "block/node.h"
#include "block/qmp.h"
#include "block/socket.h"
#include "engine/wait.h"
#include "ops/backup/begin.h"
#include "ops/backup/data.h"
#include "ops/backup/images.h"
#include "ops/checkpoint/bitmaps.h"
#include "ops/checkpoint/metadata.h"
#include "qemu/qemu_block.h"
#include "qemu/qemu_blockjob.h"
#include "qemu/qemu_monitor.h"
#include "virerror.h"
#include "virlog.h"

VIR_LOG_INIT("ferry.backup");

#define FERRY_BACKUP_TLS_BASE "libvirt_backup"

/* Requests, of up to 1 MiB, that a push has in flight. More make no local disk any
 * faster, and what the guest writes to has to be copied behind all of them. */
#define FERRY_BACKUP_WORKERS 4


/* publish: the stock driver knows of the backup, and keeps off its disks */
static bool
ferryBackupStockKnows(virStorageSource *store)
{
    /* It would not read others back from its status file. */
    return store->type == VIR_STORAGE_TYPE_FILE || store->type == VIR_STORAGE_TYPE_BLOCK;
}


/* What the stock driver needs for statistics and thresholds of the stores. */
static virDomainBackupDef *
ferryBackupStockView(ferryBackup *backup)
{
    virDomainBackupDef *view = g_new0(virDomainBackupDef, 1);
    size_t i;

    view->type = backup->def->type;
    view->disks = g_new0(virDomainBackupDiskDef, backup->ndisks);
    /* who created what is our business: it must remove nothing */
    view->apiFlags = VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL;

    for (i = 0; i < backup->ndisks; i++) {
        virDomainBackupDiskDef *def = backup->disks[i].def;

        if (!ferryBackupStockKnows(def->store))
            continue;

        view->disks[view->ndisks++] = (virDomainBackupDiskDef) {
            .name = g_strdup(def->name),
            .backup = VIR_TRISTATE_BOOL_YES,
            .backupmode = def->backupmode,
            .store = virObjectRef(def->store),
            .state = VIR_DOMAIN_BACKUP_DISK_STATE_RUNNING,
        };
    }

    return view;
}


/* Marks @disk as one that has a block job. The stock driver looks for that in
 * its private data; its list of jobs to save, recover and follow has none. */
static void
ferryBackupMark(virDomainObj *vm,
                virDomainDiskDef *disk,
                virStorageSource *store)
{
    qemuDomainObjPrivate *priv = vm->privateData;
    g_autoptr(qemuBlockJobData) job = qemuBlockJobDiskNewBackup(vm, disk, store, NULL);

    if (!job)
        return;

    job->state = QEMU_BLOCKJOB_STATE_RUNNING;
    ignore_value(g_hash_table_remove(priv->blockjobs, job->name));
}


/**
 * ferryBackupPublish:
 *
 * Idempotent; also called after a restart.
 */
void
ferryBackupPublish(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    qemuDomainObjPrivate *priv = op->vm->privateData;
    size_t i;

    g_clear_pointer(&priv->backup, virDomainBackupDefFree);
    priv->backup = ferryBackupStockView(backup);

    for (i = 0; i < backup->ndisks; i++) {
        virDomainDiskDef *disk = ferryBackupDomainDisk(op, &backup->disks[i]);

        if (disk && !QEMU_DOMAIN_DISK_PRIVATE(disk)->blockjob)
            ferryBackupMark(op->vm, disk, backup->disks[i].def->store);
    }

    qemuDomainSaveStatus(op->vm);
}


static int
ferryBackupRunPublish(ferryOp *op)
{
    ferryBackupPublish(op);
    return 0;
}


static void
ferryBackupUnpublish(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    qemuDomainObjPrivate *priv = op->vm->privateData;
    size_t i;

    for (i = 0; i < backup->ndisks; i++) {
        virDomainDiskDef *disk = ferryBackupDomainDisk(op, &backup->disks[i]);

        if (disk)
            g_clear_pointer(&QEMU_DOMAIN_DISK_PRIVATE(disk)->blockjob, virObjectUnref);
    }

    g_clear_pointer(&priv->backup, virDomainBackupDefFree);
    qemuDomainSaveStatus(op->vm);
}


/* files: something to put labels on, and the checkpoint's definition */
static int
ferryBackupFiles(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    size_t i;

    for (i = 0; i < backup->ndisks; i++) {
        if (backup->disks[i].origin != FERRY_IMAGE_FOREIGN &&
            ferryImageTouch(op->vm, backup->disks[i].def->store) < 0)
            return -1;
    }

    return backup->chkdef ? ferryCheckpointSave(op->vm, backup->chkdef) : 0;
}


/**
 * ferryBackupUnfiles:
 *
 * Removes what the result of the backup does not let stay. Also called when
 * QEMU is gone, and (without a domain) when the domain is.
 */
void
ferryBackupUnfiles(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    bool completed = backup->result == FERRY_BACKUP_RESULT_COMPLETED;
    size_t i;

    for (i = 0; i < backup->ndisks; i++) {
        if (!completed || ferryBackupIsPull(backup))
            ferryImageRestore(op->driver, op->vm, backup->disks[i].def->store,
                              backup->disks[i].origin);
    }

    if (op->vm && backup->checkpoint && !completed)
        ferryCheckpointRemove(op->vm, backup->checkpoint);
}


/* access: QEMU may open the stores */
static int
ferryBackupGrant(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    size_t i;

    for (i = 0; i < backup->ndisks; i++) {
        if (ferryAccessGrant(op->vm, backup->disks[i].def->store) < 0)
            return -1;

        backup->disks[i].granted = true;
    }

    return 0;
}


static void
ferryBackupRevoke(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    size_t i;

    for (i = 0; i < backup->ndisks; i++) {
        if (backup->disks[i].granted)
            ferryAccessRevoke(op->vm, backup->disks[i].def->store);
        backup->disks[i].granted = false;
    }
}


/* server: where clients will find the exports, but not yet */
static int
ferryBackupServe(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    virDomainBackupDef *def = backup->def;

    if (!ferryBackupIsPull(backup))
        return 0;

    if (def->tls == VIR_TRISTATE_BOOL_YES &&
        ferryExportTLSAdd(op->vm, FERRY_BACKUP_TLS_BASE, &def->tlsAlias, &def->tlsSecretAlias) < 0)
        return -1;

    if (ferryExportServerStart(op->vm, def->server, def->tlsAlias, &backup->server) < 0)
        return -1;

    backup->serving = true;
    return 0;
}


static void
ferryBackupUnserve(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);

    if (!ferryBackupIsPull(backup))
        return;

    ferryExportServerForget(&backup->server);

    if (backup->serving) {
        ignore_value(ferryExportServerStop(op->vm));
        ferryExportSocketRemove(backup->def->server);
        backup->serving = false;
    }

    if (backup->def->tls == VIR_TRISTATE_BOOL_YES)
        ferryExportTLSRemove(op->vm, FERRY_BACKUP_TLS_BASE);
}


/* freeze, thaw: around the transaction, and no longer */
static int
ferryBackupFreeze(ferryOp *op)
{
    return ferryQuiesceFreeze(op, &ferryBackupOf(op)->extras.quiesce);
}


static void
ferryBackupUnfreeze(ferryOp *op)
{
    ferryQuiesceThawAlways(op, &ferryBackupOf(op)->extras.quiesce);
}


static int
ferryBackupThaw(ferryOp *op)
{
    return ferryQuiesceThaw(op, &ferryBackupOf(op)->extras.quiesce);
}


/* Are the images of a disk, and where its backup goes, on this host? */
static bool
ferryBackupIsLocal(virStorageSource *src,
                   virStorageSource *store)
{
    virStorageSource *n;

    for (n = src; virStorageSourceIsBacking(n); n = n->backingStore) {
        if (!virStorageSourceIsLocalStorage(n))
            return false;
    }

    return virStorageSourceIsLocalStorage(store);
}


/* start: one moment for all disks, bitmaps and the checkpoint */
static int
ferryBackupDiskActions(ferryOp *op,
                       ferryBackupDisk *disk,
                       GHashTable *nodes,
                       unsigned int workers,
                       virJSONValue *actions)
{
    ferryBackup *backup = ferryBackupOf(op);
    bool pull = ferryBackupIsPull(backup);
    virStorageSource *src = ferryBackupDomainDisk(op, disk)->src;
    virStorageSource *store = disk->def->store;
    g_autofree char *jobname = ferryJobName(op, disk->def->name);
    g_autoptr(virJSONValue) merge = NULL;
    const ferryBackupParams params = {
        .source = src->nodeformat,
        .target = store->nodeformat,
        .bitmap = disk->bitmap,
        .onlyOverwritten = pull,
        .workers = !pull && ferryBackupIsLocal(src, store) ? workers : 0,
        .bandwidth = backup->extras.bandwidth,
    };

    /* what a client reads is the scratch image, what a push job reads the disk */
    if (disk->bitmap &&
        (qemuBlockGetBitmapMergeActions(src, NULL, pull ? store : src, disk->def->incremental,
                                        disk->bitmap, NULL, &merge, nodes) < 0 ||
         (merge && virJSONValueArrayConcat(actions, merge) < 0)))
        return -1;

    return ferryQMPBackupAction(actions, jobname, &params);
}


static bool
ferryBackupNeedsBitmaps(ferryBackup *backup)
{
    size_t i;

    for (i = 0; i < backup->ndisks; i++) {
        if (backup->disks[i].bitmap)
            return true;
    }

    return backup->chkdef;
}


static int
ferryBackupStartWith(ferryOp *op,
                     unsigned int workers)
{
    ferryBackup *backup = ferryBackupOf(op);
    g_autoptr(GHashTable) nodes = NULL;
    g_autoptr(virJSONValue) actions = virJSONValueNewArray();
    size_t i;

    if (ferryBackupNeedsBitmaps(backup) &&
        !(nodes = ferryNodeData(op->vm)))
        return -1;

    /* takes broken bitmaps out of the way */
    if (backup->chkdef &&
        ferryCheckpointAddBitmaps(op->vm, backup->chkdef, nodes, actions) < 0)
        return -1;

    for (i = 0; i < backup->ndisks; i++) {
        if (ferryBackupDiskActions(op, &backup->disks[i], nodes, workers, actions) < 0)
            return -1;
    }

    return ferryQMPTransaction(op->vm, &actions);
}


static int
ferryBackupStart(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);

    if (ferryBackupStartWith(op, FERRY_BACKUP_WORKERS) < 0) {
        /* QEMU has looked at no more than the parameters */
        if (!strstr(virGetLastErrorMessage(), FERRY_QMP_PERF))
            return -1;

        virResetLastError();
        if (ferryBackupStartWith(op, 0) < 0)
            return -1;
    }

    backup->started = true;
    return 0;
}


/* A push job's bitmap is on the disk itself, and outlives the job. */
static int
ferryBackupDropBitmaps(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    g_autoptr(GHashTable) nodes = NULL;
    g_autoptr(virJSONValue) actions = virJSONValueNewArray();
    size_t i;

    if (ferryBackupIsPull(backup) || !ferryBackupNeedsBitmaps(backup))
        return 0;

    if (!(nodes = ferryNodeData(op->vm)))
        return -1;

    for (i = 0; i < backup->ndisks; i++) {
        virDomainDiskDef *disk = ferryBackupDomainDisk(op, &backup->disks[i]);
        const char *bitmap = backup->disks[i].bitmap;

        if (disk && bitmap && qemuBlockNamedNodeDataGetBitmapByName(nodes, disk->src, bitmap))
            ignore_value(qemuMonitorTransactionBitmapRemove(actions, disk->src->nodeformat,
                                                            bitmap));
    }

    return ferryQMPTransaction(op->vm, &actions);
}


static void
ferryBackupUnstart(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    virDomainObj *vm = op->vm;
    virDomainCheckpointDef *chkdef = backup->chkdef;

    if (!backup->started)
        return;

    if (ferryJobKillAll(op, "", backup->jobs) < 0)
        VIR_WARN("backup of domain '%s' does not end: %s",
                 vm->def->name, virGetLastErrorMessage());

    if (op->over)
        return;

    /* the next backup would find its name taken */
    if (ferryBackupDropBitmaps(op) < 0 && ferryBackupDropBitmaps(op) < 0)
        VIR_WARN("temporary bitmaps of domain '%s' are left: %s",
                 vm->def->name, virGetLastErrorMessage());
    virResetLastError();

    if (!chkdef && backup->checkpoint)
        chkdef = ferryCheckpointFind(vm, backup->checkpoint);
    if (chkdef && backup->result != FERRY_BACKUP_RESULT_COMPLETED)
        ferryCheckpointDropBitmaps(vm, chkdef);

    backup->started = false;
}


/* adopt: the checkpoint is the domain's */
static int
ferryBackupAdopt(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);

    return backup->chkdef ? ferryCheckpointAdopt(op->vm, backup->chkdef) : 0;
}


/* export: what clients will find */
static int
ferryBackupExport(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    size_t i;

    for (i = 0; ferryBackupIsPull(backup) && i < backup->ndisks; i++) {
        virDomainBackupDiskDef *def = backup->disks[i].def;

        if (ferryExportAdd(op->vm, def->store, def->exportname, false,
                           backup->disks[i].bitmap) < 0)
            return -1;
    }

    return 0;
}


/* open: let them in */
static int
ferryBackupOpen(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);

    if (!ferryBackupIsPull(backup))
        return 0;

    return ferryExportServerPublish(backup->def->server, &backup->server);
}


static void
ferryBackupClose(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);

    /* all exports go at once */
    if (backup->serving) {
        ignore_value(ferryExportServerStop(op->vm));
        ferryExportSocketRemove(backup->def->server);
        backup->serving = false;
    }
}


/* begun: who finds this step in the journal knows that the one before is done */
static int
ferryBackupBegun(ferryOp *op G_GNUC_UNUSED)
{
    return 0;
}


const ferryPlan ferryBackupBeginPlan = {
    .name = "begin",
    .steps = (const ferryStep[]) {
        { .name = "publish", .run = ferryBackupRunPublish, .undo = ferryBackupUnpublish },
        { .name = "files", .run = ferryBackupFiles, .undo = ferryBackupUnfiles, .durable = true },
        { .name = "access", .run = ferryBackupGrant, .undo = ferryBackupRevoke },
        { .name = "create", .run = ferryBackupCreate, .undo = ferryBackupUncreate, .alone = true },
        { .name = "storage", .run = ferryBackupAddStorage, .undo = ferryBackupRemoveNodes },
        { .name = "format", .run = ferryBackupFormatImages, .undo = ferryBackupUncreate,
          .alone = true },
        { .name = "node", .run = ferryBackupAddNodes },
        { .name = "server", .run = ferryBackupServe, .undo = ferryBackupUnserve },
        { .name = "freeze", .run = ferryBackupFreeze, .undo = ferryBackupUnfreeze },
        { .name = "start", .run = ferryBackupStart, .undo = ferryBackupUnstart },
        { .name = "thaw", .run = ferryBackupThaw },
        { .name = "adopt", .run = ferryBackupAdopt },
        { .name = "export", .run = ferryBackupExport },
        { .name = "open", .run = ferryBackupOpen, .undo = ferryBackupClose },
        { .name = "begun", .run = ferryBackupBegun },
        { 0 },
    },
};
