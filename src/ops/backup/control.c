/*
 * control.c: backup: client calls on a running backup
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "engine/engine.h"
#include "engine/job.h"
#include "engine/journal.h"
#include "engine/wait.h"
#include "ops/backup/begin.h"
#include "ops/backup/control.h"
#include "ops/backup/data.h"
#include "ops/backup/end.h"
#include "ops/backup/progress.h"
#include "ops/backup/watch.h"
#include "virerror.h"

#define VIR_FROM_THIS VIR_FROM_QEMU


/**
 * ferryBackupForgetCheckpoint:
 * @name: checkpoint of the domain that is being deleted
 *
 * Forgets checkpoint @name if it was made with the backup. A new checkpoint of the same
 * name does not belong to the backup, and must stay when the backup fails.
 */
void
ferryBackupForgetCheckpoint(ferryOp *op,
                            const char *name)
{
    ferryBackup *backup = ferryBackupOf(op);

    if (STRNEQ_NULLABLE(backup->checkpoint, name))
        return;

    g_clear_pointer(&backup->checkpoint, g_free);
    g_clear_pointer(&backup->chkdef, virObjectUnref);
}


/* Returns true until the backup has begun, if it makes a checkpoint or is incremental. */
bool
ferryBackupNeedsCheckpoints(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);

    /* its undo waits for storage, and it has made no bitmap */
    if (op->stuck && !op->driven && !ferryPlanReached(op, &ferryBackupBeginPlan, "start"))
        return false;

    return backup->result == FERRY_BACKUP_RESULT_NONE &&
           !ferryPlanDone(op, &ferryBackupBeginPlan) && ferryBackupRefersToCheckpoint(backup);
}


/* The stock driver's abort that this thread is in has met a backup of ours. */
static __thread bool met;


/**
 * ferryBackupMeet:
 *
 * The stock driver is about to abort @vm's backup, since Ferry had none when the client's call
 * began. Returns true, and remembers it for ferryBackupTakeMet(), if Ferry has begun one since,
 * or is about to. Domain locked.
 */
bool
ferryBackupMeet(virDomainObj *vm)
{
    met = ferryBackupFind(vm) || vm->job->phase == FERRY_BACKUP_PHASE_ASKED;
    return met;
}


/* Returns what ferryBackupMeet() has found in this thread, once. */
bool
ferryBackupTakeMet(void)
{
    bool result = met;

    met = false;
    return result;
}


/**
 * ferryBackupAbort:
 * @async: return as soon as it is settled that the backup ends
 *
 * Ends the backup on behalf of a client: a pull is complete then, a push is cancelled.
 * Domain locked, modify job held; the caller has a reference to @op.
 *
 * Returns 0, or -1 with an error reported.
 */
int
ferryBackupAbort(ferryOp *op,
                 bool async)
{
    ferryBackup *backup = ferryBackupOf(op);
    ferryBackupResult result = ferryBackupIsPull(backup) ? FERRY_BACKUP_RESULT_COMPLETED :
                                                           FERRY_BACKUP_RESULT_CANCELED;

    if (op->driven || (backup->result != FERRY_BACKUP_RESULT_NONE && !op->stuck)) {
        virReportError(VIR_ERR_OPERATION_INVALID,
                       _("backup of domain '%1$s' is still being started or ended; try again"),
                       op->vm->def->name);
        return -1;
    }

    /* it had no result if it could not even begin; an undo that could not remove everything is
     * tried again */
    if (!ferryPlanDone(op, &ferryBackupBeginPlan))
        result = backup->result;

    if (async) {
        ferryBackupResult before = backup->result;

        backup->result = result;
        if (ferryJournalWrite(op->vm, /* durable= */ false) < 0) {
            backup->result = before;
            return -1;
        }
        /* when there are no workers any more the next driver ends the backup */
        ignore_value(ferryEngineSubmit(op));
        return 0;
    }

    ferryOpDrive(op);
    ferryBackupEnd(op, result);
    ferryOpRelease(op);

    if (op->over)
        return 0;

    /* the next driver ends it: says so, or that QEMU has ended */
    if (ferryOpIsLost(op)) {
        ferryOpReportLost(op);
        return -1;
    }

    if (!backup->silent) {
        /* it ends when its jobs do */
        if (!op->stuck || ferryBackupMayHang(op))
            return 0;

        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("the backup of domain '%1$s' has ended, but its images or checkpoint cannot be "
                         "removed yet; the log says why: mend that, and try again"),
                       op->vm->def->name);
        return -1;
    }

    virReportError(VIR_ERR_OPERATION_TIMEOUT,
                   _("the backup of domain '%1$s' has ended, but the storage of its images does not answer: "
                     "what is there is dealt with when it does"),
                   op->vm->def->name);
    return -1;
}


/* Returns the XML for virDomainBackupGetXMLDesc(), or NULL with an error reported. */
char *
ferryBackupGetXML(ferryOp *op)
{
    g_auto(virBuffer) buf = VIR_BUFFER_INITIALIZER;

    if (virDomainBackupDefFormat(&buf, ferryBackupOf(op)->def, /* internal= */ false,
                                 op->driver->xmlopt) < 0)
        return NULL;

    return virBufferContentAndReset(&buf);
}


static ferryBackupDisk *
ferryBackupFindDisk(ferryOp *op,
                    const char *dst)
{
    ferryBackup *backup = ferryBackupOf(op);
    size_t i;

    for (i = 0; i < backup->ndisks; i++) {
        if (STREQ(backup->disks[i].def->name, dst))
            return &backup->disks[i];
    }

    return NULL;
}


static char *
ferryBackupJobName(ferryOp *op,
                   const char *dst)
{
    return ferryBackupFindDisk(op, dst) ? ferryJobName(op, dst) : NULL;
}


static bool
ferryBackupJobEnded(ferryOp *op,
                    const char *dst)
{
    return ferryBackupProgress(op) == 0 && ferryBackupFindDisk(op, dst)->ended;
}


const ferryBlockJobHandler ferryBackupBlockJob = {
    .type = VIR_DOMAIN_BLOCK_JOB_TYPE_BACKUP,
    .jobName = ferryBackupJobName,
    .jobEnded = ferryBackupJobEnded,
    .abort = ferryBackupAbort,
};
