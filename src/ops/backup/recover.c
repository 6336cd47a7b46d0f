/*
 * recover.c: backup: recovery after the driver or QEMU has ended
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "block/access.h"
#include "block/socket.h"
#include "engine/engine.h"
#include "ops/backup/begin.h"
#include "ops/backup/data.h"
#include "ops/backup/end.h"
#include "ops/backup/files.h"
#include "ops/backup/recover.h"
#include "ops/backup/watch.h"
#include "ops/checkpoint/bitmaps.h"
#include "ops/opfile.h"
#include "ops/opvolume.h"
#include "qemu/qemu_domainjob.h"
#include "virlog.h"

VIR_LOG_INIT("ferry.backup");


/**
 * ferryBackupRecall:
 *
 * The driver was restarted: QEMU may still use the stores. Domain locked.
 */
void
ferryBackupRecall(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    size_t i;

    for (i = 0; i < backup->ndisks && ferryPlanReached(op, &ferryBackupBeginPlan, "access"); i++)
        ferryAccessRecall(op->vm, backup->disks[i].def->store);
}


/**
 * ferryBackupRecover:
 *
 * The driver was restarted, QEMU still runs. A backup that had begun goes on. After a
 * begin or an end that was interrupted a worker undoes the steps, as that may wait for
 * jobs or for the guest's agent. Domain locked, job held by the reconnecting thread.
 */
void
ferryBackupRecover(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    virDomainObj *vm = op->vm;
    bool done = ferryPlanDone(op, &ferryBackupBeginPlan);
    size_t i;

    for (i = 0; i < backup->ndisks; i++)
        backup->disks[i].granted = ferryPlanReached(op, &ferryBackupBeginPlan, "access");

    backup->creating = true;
    backup->started = ferryPlanReached(op, &ferryBackupBeginPlan, "start");
    /* if that was the reason, the driver may have died before it resumed the guest */
    backup->full = ferryBackupIsPull(backup) && backup->result == FERRY_BACKUP_RESULT_FAILED;
    backup->serving = ferryBackupIsPull(backup) &&
                      ferryPlanReached(op, &ferryBackupBeginPlan, "server");
    ferryQuiesceRecover(&backup->extras.quiesce,
                        ferryPlanReached(op, &ferryBackupBeginPlan, "freeze") &&
                            !ferryPlanReached(op, &ferryBackupBeginPlan, "adopt"));

    /* The last undo may be in the journal, and the operation not ended: what is published here
     * has to be taken back, too. */
    ferryBackupPublish(op);
    if (!ferryPlanReached(op, &ferryBackupBeginPlan, "publish"))
        ferryPlanAssume(op, &ferryBackupBeginPlan, "publish");

    if (vm->job->asyncJob != VIR_ASYNC_JOB_BACKUP)
        qemuDomainObjRestoreAsyncJob(vm, VIR_ASYNC_JOB_BACKUP, /* phase= */ 0, /* started= */ 0,
                                     VIR_DOMAIN_JOB_OPERATION_BACKUP,
                                     QEMU_DOMAIN_JOB_STATS_TYPE_BACKUP,
                                     VIR_DOMAIN_JOB_STATUS_ACTIVE,
                                     FERRY_BACKUP_JOB_MASK);

    /* the stock driver keeps the time in its status file, and loses it when it reconnects */
    if (backup->begun > 0 && vm->job->current)
        vm->job->asyncStarted = vm->job->current->started = backup->begun;

    if (done)
        ferryBackupWatch(op);

    ignore_value(ferryEngineSubmit(op));
}


/* Makes a failed backup of priv->backup, which is taken over. What was at the stores
 * before is unknown, so their origin is FERRY_IMAGE_FOREIGN and no image is removed. */
static ferryBackup *
ferryBackupGuess(qemuDomainObjPrivate *priv)
{
    ferryBackup *backup = ferryBackupNew();

    backup->def = g_steal_pointer(&priv->backup);
    if (ferryBackupIsPull(backup) && !backup->def->server)
        backup->def->server = g_new0(virStorageNetHostDef, 1);

    ferryBackupListDisks(backup);
    backup->result = FERRY_BACKUP_RESULT_FAILED;
    backup->error = g_strdup(_("the journal of the backup was lost"));

    return backup;
}


/**
 * ferryBackupRevive:
 *
 * The driver was restarted, QEMU still runs. A backup in priv->backup without a journal
 * and without block jobs of the stock driver was Ferry's: makes it up again, as failed.
 */
void
ferryBackupRevive(const ferryOpClass *klass,
                  virDomainObj *vm)
{
    qemuDomainObjPrivate *priv = vm->privateData;
    g_autoptr(ferryOp) op = NULL;
    size_t i;

    if (!priv->backup || ferryBackupFind(vm))
        return;

    for (i = 0; i < priv->backup->ndisks; i++) {
        virDomainDiskDef *disk = virDomainDiskByTarget(vm->def, priv->backup->disks[i].name);

        if (disk && QEMU_DOMAIN_DISK_PRIVATE(disk)->blockjob)
            return;
    }

    VIR_WARN("domain '%s': the journal of its backup was lost, so the backup is ended; look for images "
             "and a checkpoint that it may have left",
             vm->def->name);

    op = ferryOpNew(vm, klass, FERRY_BACKUP_NAME, ferryBackupGuess(priv));
    ferryPlanAssume(op, &ferryBackupBeginPlan, /* last= */ NULL);
}


/**
 * ferryBackupReconnected:
 *
 * Ends the asynchronous job of a backup that does not exist: a driver that died before
 * the first journal entry or after removing the journal leaves such a job, and nothing
 * else ends it. Called with @vm locked, after its operations were recovered.
 */
void
ferryBackupReconnected(virDomainObj *vm)
{
    if (vm->job->asyncJob == VIR_ASYNC_JOB_BACKUP &&
        !QEMU_DOMAIN_PRIVATE(vm)->backup && !ferryBackupFind(vm))
        virDomainObjEndAsyncJob(vm);
}


/* Removes the bitmaps of the checkpoint of a backup that did not complete. Returns 0, or -1
 * with an error reported when that is not done yet. */
static int
ferryBackupDropBitmaps(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    g_autoptr(GPtrArray) names = g_ptr_array_new();

    if (!op->vm || !backup->checkpoint || backup->result == FERRY_BACKUP_RESULT_COMPLETED)
        return 0;

    g_ptr_array_add(names, backup->checkpoint);
    return ferryCheckpointDropOffline(op, backup->chkdef, names, /* chain= */ false);
}


/* Returns whether the server of the backup may have left its socket. If another QEMU runs by
 * now, only a file that is known is certainly not that one's. */
static bool
ferryBackupHasSocket(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);

    return ferryBackupIsPull(backup) &&
           (!op->vm || op->vm->pid == 0 || backup->server.file);
}


/* Returns 0 if the storage of the images and of the socket answers, and volumes that must not stay
 * are deleted; or -1 with an error reported. */
static int
ferryBackupAwaitFiles(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    GPtrArray *paths = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) volumes = ferryBackupVolumes(op);
    size_t i;

    for (i = 0; i < backup->ndisks; i++)
        ferryOpFileList(paths, backup->disks[i].def->store, backup->disks[i].origin);
    if (ferryBackupHasSocket(op) && backup->def->server->socket)
        g_ptr_array_add(paths, g_strdup(backup->def->server->socket));

    if (ferryOpFileAwait(op, paths) < 0)
        return -1;

    return ferryOpVolumeDelete(op, volumes, &backup->removal);
}


/**
 * ferryBackupStopped:
 *
 * QEMU is gone, or the host was restarted: undoes the backup. Only a completed one leaves
 * its checkpoint and the images of a push. If the stock driver still knew of the backup
 * (priv->backup), it has restored labels, sent the job's event and ended the async job.
 * Does not end the operation when its files, its checkpoint, or a bitmap of it, cannot be removed
 * yet: an error is reported.
 */
void
ferryBackupStopped(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    bool started = ferryPlanReached(op, &ferryBackupBeginPlan, "start");
    bool again = op->stopped;
    bool ours;

    /* QEMU writes the last data of an image on closing it, and may not have closed all */
    if (backup->result == FERRY_BACKUP_RESULT_COMPLETED && !ferryBackupIsPull(backup) &&
        ferryPlanReached(op, &ferryBackupBeginPlan, "storage")) {
        backup->result = FERRY_BACKUP_RESULT_FAILED;
        started = true;
    }

    op->stuck = false;
    if ((started && ferryBackupDropBitmaps(op) < 0) || ferryBackupAwaitFiles(op) < 0) {
        VIR_WARN("backup of domain '%s' cannot be undone yet: %s",
                 op->vm ? op->vm->def->name : "", virGetLastErrorMessage());
        op->stuck = true;
    } else {
        /* after a host crash the journal on the disk may be older than the "server" step */
        if (ferryBackupHasSocket(op))
            ferryExportSocketRemove(backup->def->server, backup->server.file);
        if (ferryPlanReached(op, &ferryBackupBeginPlan, "files"))
            ferryBackupUnfiles(op);
    }

    if (!op->stuck)
        ferryOpEnd(op);

    if (!op->vm || again)
        return;

    /* the undo had cleared priv->backup, so the stock driver has not ended the job */
    ours = op->vm->job->asyncJob == VIR_ASYNC_JOB_BACKUP;

    if (backup->result != FERRY_BACKUP_RESULT_NONE) {
        ferryBackupTellDisks(op);
        if (ours)
            ferryBackupTellJob(op);
    }

    /* of a backup that was not begun when the driver died, whose client is gone */
    if (ours && (backup->result != FERRY_BACKUP_RESULT_NONE || !op->driven))
        virDomainObjEndAsyncJob(op->vm);
}
