/*
 * recover.c: backup: after the driver or QEMU went away
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "block/socket.h"
#include "engine/engine.h"
#include "ops/backup/begin.h"
#include "ops/backup/data.h"
#include "ops/backup/end.h"
#include "ops/backup/recover.h"
#include "ops/backup/watch.h"
#include "ops/checkpoint/bitmaps.h"
#include "qemu/qemu_domainjob.h"
#include "virlog.h"

VIR_LOG_INIT("ferry.backup");


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
    ferryBackup *backup = ferryBackupOf(op);
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

    VIR_WARN("domain '%s': its backup is in no journal and cannot go on; look for images "
             "that it may have left", vm->def->name);

    op = ferryOpNew(vm, klass, FERRY_BACKUP_NAME, ferryBackupGuess(priv));
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
    ferryBackup *backup = ferryBackupOf(op);
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
