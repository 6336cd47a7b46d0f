/*
 * backup_end.c: backup: how it ends, by itself, by a restart, with QEMU
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * To end a backup is to undo its steps. The result is in the journal before
 * that begins, so whoever goes on with it does the same.
 */

#include <config.h>

#include "engine/journal.h"
#include "ops/backup.h"
#include "ops/checkpoint.h"
#include "ops/event.h"
#include "qemu/qemu_domainjob.h"
#include "qemu/qemu_monitor.h"
#include "virerror.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.backup");

/* How the jobs of a backup are doing. */
typedef struct {
    size_t ended;
    size_t failed;
} ferryBackupJobs;


static void
ferryBackupCount(ferryOp *op,
                 ferryBackupDisk *disk,
                 GPtrArray *jobs,
                 ferryBackupJobs *state)
{
    ferryBackup *backup = op->data;
    g_autofree char *jobname = ferryJobName(op, disk->def->name);
    size_t i;

    for (i = 0; i < jobs->len; i++) {
        qemuMonitorJobInfo *job = g_ptr_array_index(jobs, i);

        if (STRNEQ(job->id, jobname))
            continue;

        backup->cur += job->progressCurrent;
        backup->end += job->progressTotal;

        disk->ended = job->status == QEMU_MONITOR_JOB_STATUS_CONCLUDED;
        if (!disk->ended)
            state->ended--;
        if (!disk->ended || !job->error)
            state->failed--;
        else if (!backup->error)
            backup->error = g_strdup(job->error);
    }
}


/* Asks QEMU for all jobs of @op, and adds up how far they are. Returns them. */
static GPtrArray *
ferryBackupQuery(ferryOp *op,
                 ferryBackupJobs *state)
{
    ferryBackup *backup = op->data;
    g_autoptr(GPtrArray) jobs = ferryJobList(op, "");
    size_t i;

    *state = (ferryBackupJobs) { .ended = backup->ndisks, .failed = backup->ndisks };

    if (!jobs)
        return NULL;

    backup->cur = backup->end = 0;

    for (i = 0; i < backup->ndisks; i++)
        ferryBackupCount(op, &backup->disks[i], jobs, state);

    return g_steal_pointer(&jobs);
}


/**
 * ferryBackupProgress:
 *
 * Brings backup->cur and backup->end up to date.
 */
int
ferryBackupProgress(ferryOp *op)
{
    ferryBackupJobs state;
    g_autoptr(GPtrArray) jobs = ferryBackupQuery(op, &state);

    return jobs ? 0 : -1;
}


/* What clients learn afterwards: the events of the disks, and the statistics and
 * the event of the completed job. */
static void
ferryBackupTellDisks(ferryOp *op)
{
    ferryBackup *backup = op->data;
    int status = VIR_DOMAIN_BLOCK_JOB_COMPLETED;
    size_t i;

    if (backup->result == FERRY_BACKUP_RESULT_FAILED)
        status = VIR_DOMAIN_BLOCK_JOB_FAILED;
    else if (backup->result == FERRY_BACKUP_RESULT_CANCELED || ferryBackupIsPull(backup))
        /* a pull's client has what it wanted, but no job ran to its end */
        status = VIR_DOMAIN_BLOCK_JOB_CANCELED;

    for (i = 0; i < backup->ndisks; i++) {
        virDomainDiskDef *disk = ferryBackupDomainDisk(op, &backup->disks[i]);

        if (disk)
            ferryEventBlockJob(op->vm, disk, VIR_DOMAIN_BLOCK_JOB_TYPE_BACKUP, status);
    }
}


static void
ferryBackupTellJob(ferryOp *op)
{
    ferryBackup *backup = op->data;
    virDomainObj *vm = op->vm;
    virDomainJobStatus jobStatus = VIR_DOMAIN_JOB_STATUS_COMPLETED;

    if (backup->result == FERRY_BACKUP_RESULT_FAILED)
        jobStatus = VIR_DOMAIN_JOB_STATUS_FAILED;
    else if (backup->result == FERRY_BACKUP_RESULT_CANCELED)
        jobStatus = VIR_DOMAIN_JOB_STATUS_CANCELED;

    if (!vm->job->current)
        return;

    qemuDomainJobDataUpdateTime(vm->job->current);
    g_clear_pointer(&vm->job->completed, virDomainJobDataFree);
    vm->job->completed = virDomainJobDataCopy(vm->job->current);
    vm->job->completed->status = jobStatus;
    vm->job->completed->errmsg = g_strdup(backup->error);
    ferryBackupFillStats(op, vm->job->completed);

    qemuDomainEventEmitJobCompleted(op->driver, vm);
}


/**
 * ferryBackupEnd:
 * @result: how it ended; NONE: it never ran, nobody is told
 *
 * Ends the backup: takes back what it did but for what @result says is to
 * stay, tells clients, and lets the next job begin. Domain locked, modify job
 * held; the caller has a reference to @op. Keeps the last error.
 *
 * The operation is not over afterwards when QEMU cannot be reached: its end,
 * or the next driver, settles it.
 */
void
ferryBackupEnd(ferryOp *op,
               ferryBackupResult result)
{
    ferryBackup *backup = op->data;
    virDomainObj *vm = op->vm;
    ferryBackupJobs state;
    virErrorPtr err = NULL;

    virErrorPreserveLast(&err);

    if (backup->started && !backup->jobs)
        backup->jobs = ferryBackupQuery(op, &state);

    if (backup->result == FERRY_BACKUP_RESULT_NONE) {
        backup->result = result;
        if (result != FERRY_BACKUP_RESULT_FAILED)
            g_clear_pointer(&backup->error, g_free);
        /* What must not be taken back, if we do not live to see the end. A host that
         * dies takes QEMU with it, and what QEMU has not flushed: nothing of that is
         * told to anybody before the journal is gone. */
        if (result != FERRY_BACKUP_RESULT_NONE)
            ignore_value(ferryJournalWrite(vm, false));
    }

    if (ferryPlanUndo(op, &ferryBackupBeginPlan) == 0 && !op->over) {
        /* first: who tells twice has not ended */
        ferryOpEnd(op);
        if (backup->result != FERRY_BACKUP_RESULT_NONE) {
            ferryBackupTellDisks(op);
            ferryBackupTellJob(op);
        }
    }

    if (op->over && vm->job->asyncJob == VIR_ASYNC_JOB_BACKUP)
        virDomainObjEndAsyncJob(vm);

    g_clear_pointer(&backup->jobs, g_ptr_array_unref);
    virErrorRestore(&err);
}


/**
 * ferryBackupJobMatters:
 *
 * Returns true for the end of a job: nothing else is to be acted upon.
 */
bool
ferryBackupJobMatters(ferryOp *op G_GNUC_UNUSED,
                      int status)
{
    return status == QEMU_MONITOR_JOB_STATUS_CONCLUDED;
}


/* QEMU cancels its jobs when it ends, and forgets them: no news of theirs. */
static bool
ferryBackupQEMUEnds(ferryOp *op)
{
    return QEMU_DOMAIN_PRIVATE(op->vm)->beingDestroyed ||
           virDomainObjGetState(op->vm, NULL) == VIR_DOMAIN_SHUTDOWN;
}


/**
 * ferryBackupJobChanged:
 *
 * Does what the state of the jobs asks for: one that failed ends all, and so
 * does the end of the last one.
 */
void
ferryBackupJobChanged(ferryOp *op)
{
    ferryBackup *backup = op->data;
    ferryBackupJobs state;

    if (!ferryPlanDone(op, &ferryBackupBeginPlan) ||
        backup->result != FERRY_BACKUP_RESULT_NONE) {
        ferryBackupEnd(op, FERRY_BACKUP_RESULT_NONE);
        return;
    }

    if (ferryBackupFreeGuest(op) || !(backup->jobs = ferryBackupQuery(op, &state)))
        return;

    if (state.failed > 0 && ferryBackupQEMUEnds(op))
        VIR_DEBUG("domain '%s' is about to stop", op->vm->def->name);
    else if (state.failed > 0 || ferryBackupIsForsaken(op))
        ferryBackupEnd(op, FERRY_BACKUP_RESULT_FAILED);
    else if (state.ended == backup->ndisks)
        ferryBackupEnd(op, FERRY_BACKUP_RESULT_COMPLETED);

    g_clear_pointer(&backup->jobs, g_ptr_array_unref);
}


/**
 * ferryBackupRecover:
 *
 * The driver is back, QEMU still runs. A backup that runs goes on; one that
 * was being begun is taken back, and one that was being ended is ended. By a
 * worker, since both may wait: for jobs, or for the guest's agent.
 */
void
ferryBackupRecover(ferryOp *op)
{
    ferryBackup *backup = op->data;
    virDomainObj *vm = op->vm;
    bool done = ferryPlanDone(op, &ferryBackupBeginPlan);
    size_t i;

    for (i = 0; i < backup->ndisks; i++)
        backup->disks[i].granted = ferryPlanReached(op, &ferryBackupBeginPlan, "access");

    backup->creating = true;
    backup->started = ferryPlanReached(op, &ferryBackupBeginPlan, "start");
    backup->serving = ferryBackupIsPull(backup) &&
                      ferryPlanReached(op, &ferryBackupBeginPlan, "server");
    backup->extras.quiesce.frozen = backup->extras.quiesce.wanted &&
                                    ferryPlanReached(op, &ferryBackupBeginPlan, "freeze") &&
                                    !ferryPlanReached(op, &ferryBackupBeginPlan, "adopt");

    ferryBackupPublish(op);

    if (vm->job->asyncJob != VIR_ASYNC_JOB_BACKUP)
        qemuDomainObjRestoreAsyncJob(vm, VIR_ASYNC_JOB_BACKUP, 0, 0,
                                     VIR_DOMAIN_JOB_OPERATION_BACKUP,
                                     QEMU_DOMAIN_JOB_STATS_TYPE_BACKUP,
                                     VIR_DOMAIN_JOB_STATUS_ACTIVE,
                                     FERRY_BACKUP_JOB_MASK);

    if (done && backup->extras.idleTimeout > 0)
        ferryBackupWatch(op);

    ignore_value(ferryEngineSubmit(op));
}


/* What is known of a backup by what the stock driver was told. What was at the
 * stores before is not: that is not ours to remove. */
static ferryBackup *
ferryBackupGuess(qemuDomainObjPrivate *priv)
{
    ferryBackup *backup = ferryBackupNew();

    backup->def = g_steal_pointer(&priv->backup);
    if (ferryBackupIsPull(backup) && !backup->def->server)
        backup->def->server = g_new0(virStorageNetHostDef, 1);

    ferryBackupListDisks(backup);
    backup->result = FERRY_BACKUP_RESULT_FAILED;
    backup->error = g_strdup(_("what is needed to go on with the backup was lost"));

    return backup;
}


/**
 * ferryBackupRevive:
 *
 * The driver is back, QEMU still runs: a backup of which neither the stock driver
 * nor the journal knows more than that it ran is one of ours, and has failed.
 */
void
ferryBackupRevive(virDomainObj *vm)
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

    VIR_WARN("domain '%s': its backup is in no journal and cannot go on; look for images "
             "that it may have left", vm->def->name);

    op = ferryOpNew(vm, &ferryBackupClass, FERRY_BACKUP_NAME, ferryBackupGuess(priv));
    ferryPlanAssume(op, &ferryBackupBeginPlan, NULL);
}


/**
 * ferryBackupReconnected:
 *
 * A driver that died before its first journal entry, or after the last, may
 * have left the domain the asynchronous job of a backup that there is not: ends
 * it, or nobody would. Called with @vm locked when it has been recovered.
 */
void
ferryBackupReconnected(virDomainObj *vm)
{
    if (vm->job->asyncJob == VIR_ASYNC_JOB_BACKUP &&
        !QEMU_DOMAIN_PRIVATE(vm)->backup && !ferryBackupFind(vm))
        virDomainObjEndAsyncJob(vm);
}


/**
 * ferryBackupStopped:
 *
 * QEMU is gone, or the host was restarted: there is no backup, unless it was
 * complete already. Labels and the final event are the stock driver's, which has
 * ended the asynchronous job, if it still knew of a backup.
 */
void
ferryBackupStopped(ferryOp *op)
{
    ferryBackup *backup = op->data;
    bool started = ferryPlanReached(op, &ferryBackupBeginPlan, "start");

    /* the last of an image is written when QEMU closes it */
    if (backup->result == FERRY_BACKUP_RESULT_COMPLETED && !ferryBackupIsPull(backup) &&
        ferryPlanReached(op, &ferryBackupBeginPlan, "storage")) {
        backup->result = FERRY_BACKUP_RESULT_FAILED;
        started = true;
    }

    /* a journal that was on the disk in time may not know of the server yet */
    if (ferryBackupIsPull(backup))
        ferryExportSocketRemove(backup->def->server);

    if (op->vm && backup->checkpoint && backup->result != FERRY_BACKUP_RESULT_COMPLETED && started)
        ferryCheckpointDropOffline(op->vm, backup->chkdef, backup->checkpoint, false);

    if (ferryPlanReached(op, &ferryBackupBeginPlan, "files"))
        ferryBackupUnfiles(op);

    ferryOpEnd(op);

    if (op->vm && backup->result != FERRY_BACKUP_RESULT_NONE) {
        ferryBackupTellDisks(op);
        /* it was being ended, and the stock driver did not know of it any more */
        if (op->vm->job->asyncJob == VIR_ASYNC_JOB_BACKUP) {
            ferryBackupTellJob(op);
            virDomainObjEndAsyncJob(op->vm);
        }
    }
}
