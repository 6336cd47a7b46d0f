/*
 * control.c: backup: what clients do with a running one
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "engine/engine.h"
#include "engine/job.h"
#include "ops/backup/control.h"
#include "ops/backup/data.h"
#include "ops/backup/end.h"
#include "ops/backup/progress.h"
#include "virerror.h"

#define VIR_FROM_THIS VIR_FROM_QEMU


/**
 * ferryBackupForgetCheckpoint:
 * @name: checkpoint of the domain that is being deleted
 *
 * Forgets the checkpoint if it was made with the backup. A checkpoint of the same name
 * that is made later was not, and stays when the backup fails.
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


/**
 * ferryBackupAbort:
 *
 * Ends the backup on behalf of a client: for a pull that is how it completes,
 * a push is cancelled. Domain locked, modify job held; the caller has a
 * reference to @op.
 */
int
ferryBackupAbort(ferryOp *op,
                 bool async G_GNUC_UNUSED)
{
    ferryBackup *backup = ferryBackupOf(op);
    bool pull = ferryBackupIsPull(backup);

    if (op->driven) {
        virReportError(VIR_ERR_OPERATION_INVALID,
                       _("backup of domain '%1$s' is still being started or ended; try again"),
                       op->vm->def->name);
        return -1;
    }

    ferryOpDrive(op);
    ferryBackupEnd(op, pull ? FERRY_BACKUP_RESULT_COMPLETED : FERRY_BACKUP_RESULT_CANCELED);
    ferryOpRelease(op);

    return 0;
}


/**
 * ferryBackupGetXML:
 *
 * Returns the backup as virDomainBackupGetXMLDesc shows it.
 */
char *
ferryBackupGetXML(ferryOp *op)
{
    g_auto(virBuffer) buf = VIR_BUFFER_INITIALIZER;

    if (virDomainBackupDefFormat(&buf, ferryBackupOf(op)->def, false,
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
