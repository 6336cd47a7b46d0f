/*
 * files.c: backup: the files of its images, and that of its checkpoint
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "engine/wait.h"
#include "ops/backup/data.h"
#include "ops/backup/files.h"
#include "ops/checkpoint/metadata.h"
#include "ops/opfile.h"
#include "virerror.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.backup");


/* files: gives the images, which are empty, their names, so that they can be labelled, and
 * writes the file of the checkpoint */
static int
ferryBackupTouch(ferryOp *op,
                 ferryBackupDisk *disk)
{
    int rc = ferryOpFileMake(op, disk->def->store, disk->file);

    if (rc > 0)
        virReportError(VIR_ERR_INVALID_ARG, FERRY_BACKUP_EXISTS, disk->def->store->path,
                       disk->def->name);

    return rc == 0 ? 0 : -1;
}


int
ferryBackupFiles(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    size_t i;

    for (i = 0; i < backup->ndisks; i++) {
        if (ferryBackupTouch(op, &backup->disks[i]) < 0)
            return -1;
    }

    return backup->chkdef ? ferryCheckpointSave(op->vm, backup->chkdef) : 0;
}


/**
 * ferryBackupStoresAnswer:
 *
 * Returns true if the storage of all images answers, see ferryOpFileAnswers(); otherwise sets
 * op->stuck, unless the operation is lost. To be asked before an undo works on them.
 */
bool
ferryBackupStoresAnswer(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    size_t i;

    for (i = 0; i < backup->ndisks; i++) {
        if (ferryOpFileAnswers(op, backup->disks[i].def->store) == 0)
            continue;

        /* if the driver is about to end, say, that has nothing to do with the storage */
        if (!ferryOpIsLost(op))
            backup->silent = op->stuck = true;
        return false;
    }

    backup->silent = false;
    return true;
}


/**
 * ferryBackupUnfiles:
 *
 * Removes the images, unless the backup is a completed push, and the checkpoint, unless
 * the backup completed. Also called without QEMU, and (op->vm is NULL) without a domain.
 * Sets op->stuck, with an error reported, when the checkpoint cannot be removed.
 */
void
ferryBackupUnfiles(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    bool completed = backup->result == FERRY_BACKUP_RESULT_COMPLETED;
    g_autoptr(ferryUse) use = NULL;
    size_t i;

    if (!ferryBackupStoresAnswer(op))
        return;

    use = ferryOpFileUse(op);
    for (i = 0; i < backup->ndisks; i++) {
        if (!completed || ferryBackupIsPull(backup))
            ferryOpFileRemove(op, use, op->vm, backup->disks[i].def->store, backup->disks[i].origin,
                              backup->disks[i].file);
    }

    if (completed && !ferryBackupIsPull(backup) && op->vm && op->vm->pid != 0 && !op->stopped) {
        for (i = 0; i < backup->ndisks && !ferryOpIsLost(op); i++)
            ferryOpFileKeep(op, backup->disks[i].def->store);
    }

    if (op->vm && backup->checkpoint && !completed &&
        ferryCheckpointRemove(op->vm, backup->checkpoint) < 0) {
        VIR_WARN("checkpoint '%s' of a backup of domain '%s' that did not complete cannot be "
                 "removed yet: %s", backup->checkpoint, op->vm->def->name, virGetLastErrorMessage());
        op->stuck = true;
    }
}
