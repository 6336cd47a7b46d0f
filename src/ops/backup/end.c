/*
 * end.c: backup: ending it and telling clients
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * To end a backup is to undo its steps. The result is written to the journal before the
 * undo begins, so that a driver that continues an interrupted undo keeps the same result.
 */

#include <config.h>

#include "engine/engine.h"
#include "engine/journal.h"
#include "engine/plan.h"
#include "engine/report.h"
#include "engine/wait.h"
#include "ops/backup/begin.h"
#include "ops/backup/end.h"
#include "ops/backup/progress.h"
#include "ops/event.h"
#include "qemu/qemu_domainjob.h"
#include "virerror.h"


/* Sends the block job event of every disk, as the result says. Domain locked. */
void
ferryBackupTellDisks(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    int status = VIR_DOMAIN_BLOCK_JOB_COMPLETED;
    size_t i;

    if (backup->result == FERRY_BACKUP_RESULT_FAILED)
        status = VIR_DOMAIN_BLOCK_JOB_FAILED;
    else if (backup->result == FERRY_BACKUP_RESULT_CANCELED || ferryBackupIsPull(backup))
        /* the jobs of a pull never run to their end, also when the backup completes */
        status = VIR_DOMAIN_BLOCK_JOB_CANCELED;

    for (i = 0; i < backup->ndisks; i++) {
        ferryEventBlockJobNamed(op->vm, backup->disks[i].def->name,
                                VIR_DOMAIN_BLOCK_JOB_TYPE_BACKUP, status);
    }
}


/* Saves the statistics of the completed job and sends its event. Domain locked. */
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
 * @result: becomes backup->result if that is NONE; NONE: begin failed, no event is sent
 *
 * Undoes the steps of the backup, leaves what the result says, sends the events and ends
 * the asynchronous job. Domain locked, modify job held; the caller has a reference to
 * @op. Keeps the last error. If QEMU cannot be reached, the operation is not over on
 * return: the end of QEMU or the next driver settles it.
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

    if (!ferryOpIsLost(op) && backup->started && !backup->jobs)
        backup->jobs = ferryBackupQuery(op, &state);

    if (backup->result == FERRY_BACKUP_RESULT_NONE) {
        backup->result = result;
        if (result != FERRY_BACKUP_RESULT_FAILED)
            g_clear_pointer(&backup->error, g_free);
        else if (backup->error)
            ferryReportEnded(op, backup->error, /* stays= */ NULL);
        /* If this driver dies during the undo, the next one must keep the result. The
         * entry need not survive a crash of the host, which also loses what QEMU has not
         * flushed: clients are told the result only when the journal is gone. */
        if (result != FERRY_BACKUP_RESULT_NONE)
            ignore_value(ferryJournalWrite(vm, /* durable= */ false));
    }

    if (ferryPlanUndo(op, &ferryBackupBeginPlan) == 0 && !op->over) {
        /* First remove the journal: a driver that finds it sends the events again. */
        ferryOpEnd(op);
        if (backup->result != FERRY_BACKUP_RESULT_NONE) {
            ferryBackupTellDisks(op);
            ferryBackupTellJob(op);
        }
    }

    /* if a worker cannot remove the checkpoint either, the next call that the backup forbids
     * tries again, and those that wait for the end learn of it (ferryBackupLasts()) */
    if (!op->over && op->stuck) {
        if (!backup->retried)
            backup->retried = ferryEngineSubmit(op) == 0;
        virCondBroadcast(&vm->job->asyncCond);
    }

    if (op->over && vm->job->asyncJob == VIR_ASYNC_JOB_BACKUP)
        virDomainObjEndAsyncJob(vm);

    g_clear_pointer(&backup->jobs, g_ptr_array_unref);
    virErrorRestore(&err);
}
