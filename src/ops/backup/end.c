/*
 * end.c: backup: how it ends
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * To end a backup is to undo its steps. The result is in the journal before that
 * begins, so whoever goes on with the end of the backup comes to the same result.
 */

#include <config.h>

#include "engine/engine.h"
#include "engine/journal.h"
#include "engine/plan.h"
#include "ops/backup/begin.h"
#include "ops/backup/end.h"
#include "ops/backup/progress.h"
#include "ops/event.h"
#include "qemu/qemu_domainjob.h"
#include "virerror.h"


/* What clients learn afterwards: the events of the disks, and the statistics and
 * the event of the completed job. */
void
ferryBackupTellDisks(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
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


void
ferryBackupTellJob(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
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
    ferryBackup *backup = ferryBackupOf(op);
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
