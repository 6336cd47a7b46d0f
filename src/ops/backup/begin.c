/*
 * begin.c: backup: the steps from a request to running jobs
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Theory of operation
 *
 * A push backup runs a job for every disk, which copies the disk's content of one point
 * in time into an image. The job of a pull backup saves what the guest overwrites in a
 * scratch image on top of the disk; an NBD server exports the scratch image, so a client
 * reads the disk as it was. One transaction, for one point in time, starts all jobs and
 * creates all bitmaps: of the checkpoint, and of what an incremental backup copies.
 *
 * The operation lives until its jobs have ended and the steps below are undone. Its
 * result decides what the undo leaves: the images of a push, the checkpoint.
 */

#include <config.h>

#include "block/access.h"
#include "block/node.h"
#include "block/nodename.h"
#include "block/qmp.h"
#include "block/socket.h"
#include "engine/job.h"
#include "engine/wait.h"
#include "ops/backup/begin.h"
#include "ops/backup/data.h"
#include "ops/backup/files.h"
#include "ops/backup/guest.h"
#include "ops/backup/images.h"
#include "ops/checkpoint/bitmaps.h"
#include "ops/checkpoint/metadata.h"
#include "qemu/qemu_block.h"
#include "qemu/qemu_monitor.h"
#include "virerror.h"
#include "virlog.h"

VIR_LOG_INIT("ferry.backup");

#define FERRY_BACKUP_TLS_BASE "libvirt_backup"

/* Requests of up to 1 MiB that a push job has in flight. More do not make a local disk
 * faster, but a guest's write to an area not copied yet waits behind all of them. */
#define FERRY_BACKUP_WORKERS 4


/* publish: tells the stock driver of the backup, so that it keeps off the disks */
static bool
ferryBackupStockKnows(virStorageSource *store)
{
    /* The stock driver could not parse its status file with a store of another type. */
    return store->type == VIR_STORAGE_TYPE_FILE || store->type == VIR_STORAGE_TYPE_BLOCK;
}


/* Returns what the stock driver needs for the stores' statistics and block thresholds. */
static virDomainBackupDef *
ferryBackupStockView(ferryBackup *backup)
{
    virDomainBackupDef *view = g_new0(virDomainBackupDef, 1);
    size_t i;

    view->type = backup->def->type;
    view->disks = g_new0(virDomainBackupDiskDef, backup->ndisks);
    /* keeps the stock driver from removing images: Ferry knows which ones it created */
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


/* Begins the name of the block job that ferryBackupMark() makes. */
#define FERRY_BACKUP_MARK FERRY_JOB_PREFIX "mark-"


/**
 * ferryBackupIsMark:
 *
 * Returns whether @job only says that Ferry's backup uses the disk. QEMU knows no such job.
 */
bool
ferryBackupIsMark(qemuBlockJobData *job)
{
    return g_str_has_prefix(job->name, FERRY_BACKUP_MARK);
}


/* Gives @disk a block job in the stock driver's private data, so that the stock driver
 * keeps off the disk. The job is taken out of the hash of jobs that the stock driver
 * saves, recovers and follows. */
static void
ferryBackupMark(virDomainObj *vm,
                virDomainDiskDef *disk,
                virStorageSource *store)
{
    qemuDomainObjPrivate *priv = vm->privateData;
    g_autoptr(qemuBlockJobData) job = qemuBlockJobDiskNewBackup(vm, disk, store,
                                                                /* bitmap= */ NULL);

    if (!job)
        return;

    job->state = QEMU_BLOCKJOB_STATE_RUNNING;
    ignore_value(g_hash_table_remove(priv->blockjobs, job->name));
    g_free(job->name);
    job->name = g_strdup_printf(FERRY_BACKUP_MARK "%s", disk->dst);
}


/**
 * ferryBackupPublish:
 *
 * Tells the stock driver of the backup. Idempotent; recovery calls this, too.
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


/* Also creates the images without names: the entry of "files" has their inodes (file.c) */
static int
ferryBackupRunPublish(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    size_t i;

    ferryBackupPublish(op);

    if (ferryBackupAskStores(op) < 0)
        return -1;

    for (i = 0; i < backup->ndisks; i++) {
        ferryBackupDisk *disk = &backup->disks[i];

        if (ferryImagePrepare(op->vm, disk->def->store, disk->origin, &disk->file) < 0)
            return -1;
    }

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


/* access: lets QEMU open the stores */
static int
ferryBackupGrant(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    size_t i;

    if (ferryBackupAskStores(op) < 0)
        return -1;

    for (i = 0; i < backup->ndisks; i++) {
        virStorageSource *store = backup->disks[i].def->store;

        /* labels are set by name: not on what somebody else has put there */
        if (ferryImageCheckOurs(op->vm, store, ferryBackupFileOf(&backup->disks[i])) < 0 ||
            ferryAccessGrant(op->vm, store) < 0)
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

    if (!ferryBackupStoresAnswer(op))
        return;

    for (i = 0; i < backup->ndisks; i++) {
        if (backup->disks[i].granted)
            ferryAccessRevoke(op->vm, backup->disks[i].def->store);
        backup->disks[i].granted = false;
    }
}


/* server: starts QEMU's NBD server on a socket that no client can reach yet */
static int
ferryBackupServe(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    virDomainBackupDef *def = backup->def;

    if (!ferryBackupIsPull(backup))
        return 0;

    if (ferryBackupAskSocket(op) < 0)
        return -1;

    if (def->tls == VIR_TRISTATE_BOOL_YES &&
        ferryExportTLSAdd(op->vm, FERRY_BACKUP_TLS_BASE, &def->tlsAlias, &def->tlsSecretAlias) < 0)
        return -1;

    if (ferryExportServerStart(op->vm, def->server, def->tlsAlias, &backup->server) < 0)
        return -1;

    backup->serving = true;
    return 0;
}


static void
ferryBackupClose(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);

    /* stopping the server removes all exports at once */
    if (backup->serving && ferryBackupSocketAnswers(op)) {
        ignore_value(ferryExportServerStop(op->vm));
        ferryExportSocketRemove(backup->def->server, backup->server.file);
        backup->serving = false;
    }
}


static void
ferryBackupUnserve(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);

    if (!ferryBackupIsPull(backup) || !ferryBackupSocketAnswers(op))
        return;

    ferryExportServerForget(&backup->server);

    ferryBackupClose(op);
    if (backup->serving)
        return;

    if (backup->def->tls == VIR_TRISTATE_BOOL_YES)
        ferryExportTLSRemove(op->vm, FERRY_BACKUP_TLS_BASE);
}


/* freeze, thaw: the guest is frozen for the "start" step only */
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


/* Returns whether all images of chain @src, and @store, are local files or devices. */
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


/* start: one transaction, so that all disks and bitmaps are of one point in time */
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
        .source = ferryNodeName(src),
        .target = ferryNodeName(store),
        .bitmap = disk->bitmap,
        .onlyOverwritten = pull,
        .workers = !pull && ferryBackupIsLocal(src, store) ? workers : 0,
        .bandwidth = backup->extras.bandwidth,
    };

    /* the bitmap belongs on what is read: clients read the store, a push job the disk */
    if (disk->bitmap &&
        (qemuBlockGetBitmapMergeActions(src, /* basesrc= */ NULL, pull ? store : src,
                                        disk->def->incremental, disk->bitmap,
                                        /* writebitmapsrc= */ NULL, &merge, nodes) < 0 ||
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
    g_autofree const char **whole = ferryBackupWholeDisks(backup);
    size_t i;

    if (ferryBackupRequireDisks(op) < 0 ||
        (ferryBackupNeedsBitmaps(backup) && !(nodes = ferryNodeData(op->vm))))
        return -1;

    /* besides adding actions, this removes at once old bitmaps that cannot be reused */
    if (backup->chkdef &&
        ferryCheckpointAddBitmaps(op->vm, backup->chkdef, nodes, whole, actions) < 0)
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
        /* If QEMU rejects x-perf, it has started nothing: try again without. */
        if (!strstr(virGetLastErrorMessage(), FERRY_QMP_PERF))
            return -1;

        virResetLastError();
        if (ferryBackupStartWith(op, /* workers= */ 0) < 0)
            return -1;
    }

    backup->started = true;
    return 0;
}


/* Removes the temporary bitmaps of a push: they lie on the disks and outlive the jobs. */
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
            ignore_value(qemuMonitorTransactionBitmapRemove(actions, ferryNodeName(disk->src),
                                                            bitmap));
    }

    return ferryQMPTransaction(op->vm, &actions);
}


static void
ferryBackupUnstart(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    virDomainObj *vm = op->vm;
    g_autoptr(virDomainCheckpointDef) chkdef = NULL;

    if (!backup->started)
        return;

    if (ferryJobKillAll(op, "", backup->jobs) < 0)
        VIR_WARN("the jobs of the backup of domain '%s' do not end: %s",
                 vm->def->name, virGetLastErrorMessage());

    if (ferryOpIsLost(op) || op->stuck)
        return;

    /* Try twice: a bitmap that is left takes its name and makes the next backup fail. */
    if (ferryBackupDropBitmaps(op) < 0 && ferryBackupDropBitmaps(op) < 0)
        VIR_WARN("temporary bitmaps of domain '%s' could not be removed: %s",
                 vm->def->name, virGetLastErrorMessage());
    virResetLastError();

    /* Not before the waits above: they give up the domain's job, and another client may
     * delete the checkpoint meanwhile. The backup then forgets its checkpoint. */
    if (backup->chkdef)
        chkdef = virObjectRef(backup->chkdef);
    else if (backup->checkpoint)
        chkdef = ferryCheckpointFind(vm, backup->checkpoint);
    if (chkdef && backup->result != FERRY_BACKUP_RESULT_COMPLETED)
        ferryCheckpointDropBitmaps(vm, chkdef);

    backup->started = false;
    ferryBackupResumeGuest(op);
}


/* adopt: adds the checkpoint to the domain's list */
static int
ferryBackupAdopt(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);

    return backup->chkdef ? ferryCheckpointAdopt(op->vm, backup->chkdef) : 0;
}


/* export: adds an export for every disk, while clients cannot connect yet */
static int
ferryBackupExport(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    size_t i;

    for (i = 0; ferryBackupIsPull(backup) && i < backup->ndisks; i++) {
        virDomainBackupDiskDef *def = backup->disks[i].def;

        if (ferryExportAdd(op->vm, def->store, def->exportname, /* writable= */ false,
                           backup->disks[i].bitmap) < 0)
            return -1;
    }

    return 0;
}


/* open: lets clients connect to the server */
static int
ferryBackupOpen(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);

    if (!ferryBackupIsPull(backup))
        return 0;

    if (ferryBackupAskSocket(op) < 0)
        return -1;

    return ferryExportServerPublish(op->vm, backup->def->server, &backup->server);
}


/* begun: if recovery finds this step in the journal, "open" has completed */
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
        { .name = "format", .run = ferryBackupFormatImages, .undo = ferryBackupUncreate, .alone = true },
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
