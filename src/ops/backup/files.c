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
#include "ops/opvolume.h"
#include "virerror.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.backup");


/**
 * ferryBackupAskStores:
 *
 * Returns 0 if the storage of all images answers, or -1 with an error reported: see
 * ferryOpFileAnswers(). To be asked before a step works on them.
 */
int
ferryBackupAskStores(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    g_autoptr(GPtrArray) paths = g_ptr_array_new_with_free_func(g_free);
    size_t i;

    for (i = 0; i < backup->ndisks; i++)
        ferryOpFileAdd(paths, backup->disks[i].def->store);

    return ferryOpFilePathsAnswer(op, paths);
}


/**
 * ferryBackupAskSocket:
 *
 * Like ferryBackupAskStores(), for the socket of the NBD server. An undo asks for it alone:
 * ending the exports, and the jobs after them, must not wait for the images.
 */
int
ferryBackupAskSocket(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    g_autoptr(GPtrArray) paths = g_ptr_array_new_with_free_func(g_free);

    if (ferryBackupIsPull(backup) && backup->def->server->socket)
        g_ptr_array_add(paths, g_strdup(backup->def->server->socket));

    return ferryOpFilePathsAnswer(op, paths);
}


/* What an undo does with the answer: returns whether it may go on. */
static bool
ferryBackupHeed(ferryOp *op,
                bool answered)
{
    /* if the driver is about to end, say, that has nothing to do with the storage */
    if (answered || !ferryOpIsLost(op))
        ferryBackupOf(op)->silent = !answered;
    if (!answered && !ferryOpIsLost(op))
        op->stuck = true;

    return answered;
}


/**
 * ferryBackupStoresAnswer, ferryBackupSocketAnswers:
 *
 * Like ferryBackupAskStores() and ferryBackupAskSocket(), for an undo: return true or false, and
 * set op->stuck then, unless the operation is lost.
 */
bool
ferryBackupStoresAnswer(ferryOp *op)
{
    return ferryBackupHeed(op, ferryBackupAskStores(op) == 0);
}


bool
ferryBackupSocketAnswers(ferryOp *op)
{
    return ferryBackupHeed(op, ferryBackupAskSocket(op) == 0);
}


/* files: gives the images, which are empty, their names, so that they can be labelled, and
 * writes the file of the checkpoint */
static int
ferryBackupTouch(ferryOp *op,
                 ferryBackupDisk *disk)
{
    int rc = disk->volume ? 0 : ferryOpFileMake(op, disk->def->store, disk->file);

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
        ferryBackupDisk *disk = &backup->disks[i];

        if (disk->volume &&
            (ferryBackupRequireDisks(op) < 0 ||
             ferryOpVolumeCreate(op, disk->def->store, ferryBackupDomainDisk(op, disk), &disk->volume) < 0))
            return -1;
    }

    if (ferryBackupAskStores(op) < 0)
        return -1;

    for (i = 0; i < backup->ndisks; i++) {
        if (ferryBackupTouch(op, &backup->disks[i]) < 0)
            return -1;
    }

    return backup->chkdef ? ferryCheckpointSave(op->vm, backup->chkdef) : 0;
}


/**
 * ferryBackupVolumes:
 *
 * Returns a list, for ferryOpVolumeDiscard(), with what was created through pools and does not
 * stay. The caller frees it.
 */
GPtrArray *
ferryBackupVolumes(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    bool stay = backup->result == FERRY_BACKUP_RESULT_COMPLETED && !ferryBackupIsPull(backup);
    GPtrArray *volumes = g_ptr_array_new();
    size_t i;

    for (i = 0; !stay && i < backup->ndisks; i++)
        g_ptr_array_add(volumes, &backup->disks[i].volume);

    return volumes;
}


/**
 * ferryBackupUnfiles:
 *
 * Removes the images, unless the backup is a completed push, and the checkpoint, unless
 * the backup completed. Also called without QEMU, and (op->vm is NULL) without a domain.
 * Sets op->stuck, with an error reported, when a volume or the checkpoint cannot be removed.
 */
void
ferryBackupUnfiles(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    bool completed = backup->result == FERRY_BACKUP_RESULT_COMPLETED;
    g_autoptr(GPtrArray) volumes = ferryBackupVolumes(op);
    g_autoptr(ferryUse) use = NULL;
    size_t i;

    if (!ferryBackupStoresAnswer(op))
        return;

    use = ferryOpFileUse(op);
    for (i = 0; i < backup->ndisks; i++) {
        ferryBackupDisk *disk = &backup->disks[i];

        /* the rest may have to wait, and a later backup may have an image of that name meanwhile */
        if ((!completed || ferryBackupIsPull(backup)) &&
            ferryOpFileRemove(op, use, op->vm, disk->def->store, disk->origin, disk->file))
            disk->origin = FERRY_IMAGE_FOREIGN;
    }

    if (completed && !ferryBackupIsPull(backup) && op->vm && op->vm->pid != 0 && !op->stopped) {
        for (i = 0; i < backup->ndisks && !ferryOpIsLost(op); i++)
            ferryOpFileKeep(op, backup->disks[i].def->store);
    }

    /* stopped() has deleted them in another way */
    if (op->vm && op->driven && ferryOpVolumeDiscard(op, volumes) < 0) {
        VIR_WARN("%s", virGetLastErrorMessage());
        op->stuck = true;
    }

    if (!op->vm || !backup->checkpoint || completed)
        return;

    if (ferryCheckpointRemove(op->vm, backup->checkpoint) == 0) {
        /* the rest may have to wait, and one of that name may be made meanwhile */
        g_clear_pointer(&backup->checkpoint, g_free);
    } else {
        VIR_WARN("checkpoint '%s' of a backup of domain '%s' that did not complete cannot be "
                 "removed yet: %s",
                 backup->checkpoint, op->vm->def->name, virGetLastErrorMessage());
        op->stuck = true;
    }
}
