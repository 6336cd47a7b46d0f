/*
 * backup_control.c: backup: what clients do with it
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "ops/backup.h"
#include "qemu/qemu_domainjob.h"
#include "qemu/qemu_monitor.h"
#include "virerror.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.backup");


/**
 * ferryBackupFind:
 *
 * Returns the backup of @vm, borrowed, or NULL.
 */
ferryOp *
ferryBackupFind(virDomainObj *vm)
{
    return ferryOpFind(vm, FERRY_BACKUP_NAME);
}


/**
 * ferryBackupForgetCheckpoint:
 * @vm: domain, locked, with a job; its checkpoint @name is being deleted
 *
 * It may have been made with the backup that runs. One of that name that is made
 * later was not, and stays when the backup fails.
 */
void
ferryBackupForgetCheckpoint(virDomainObj *vm,
                            const char *name)
{
    ferryOp *op = ferryBackupFind(vm);
    ferryBackup *backup = op ? op->data : NULL;

    if (!backup || STRNEQ_NULLABLE(backup->checkpoint, name))
        return;

    g_clear_pointer(&backup->checkpoint, g_free);
    g_clear_pointer(&backup->chkdef, virObjectUnref);
}


/* A backup is an asynchronous job of the domain: others wait for its end, but
 * those that change something elsewhere are let in. Nobody owns it: every step
 * takes a modify job inside it, and so does whoever ends it. */
static int
ferryBackupBeginJob(virDomainObj *vm,
                    unsigned int flags)
{
    /* it is we who remove what we created, not the stock driver */
    if (virDomainObjBeginAsyncJob(vm, VIR_ASYNC_JOB_BACKUP, VIR_DOMAIN_JOB_OPERATION_BACKUP,
                                  flags | VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL) < 0)
        return -1;

    qemuDomainObjSetAsyncJobMask(vm, FERRY_BACKUP_JOB_MASK);
    qemuDomainJobSetStatsType(vm->job->current, QEMU_DOMAIN_JOB_STATS_TYPE_BACKUP);
    qemuDomainObjReleaseAsyncJob(vm);

    if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0) {
        virDomainObjEndAsyncJob(vm);
        return -1;
    }

    return 0;
}


/* Is there no backup already? One that has just come to its end, while no
 * driver looked or since, is out of the way afterwards, or soon. */
static int
ferryBackupCheckNone(virDomainObj *vm)
{
    g_autoptr(ferryOp) op = NULL;
    int rc = 0;

    if (!ferryBackupFind(vm))
        return 0;

    if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0)
        return -1;

    if (ferryBackupFind(vm))
        op = ferryOpRef(ferryBackupFind(vm));

    if (op && !op->driven && virDomainObjIsActive(vm)) {
        ferryOpDrive(op);
        ferryBackupJobChanged(op);
        ferryOpRelease(op);
    }

    if (op && !op->over && ((ferryBackup *) op->data)->result == FERRY_BACKUP_RESULT_NONE) {
        virReportError(VIR_ERR_OPERATION_INVALID, "%s",
                       _("another backup job is already running"));
        rc = -1;
    }

    virDomainObjEndJob(vm);
    return rc;
}


static int
ferryBackupRun(virDomainObj *vm,
               ferryBackup *backup)
{
    g_autoptr(ferryOp) op = ferryOpNew(vm, &ferryBackupClass, FERRY_BACKUP_NAME, backup);
    int rc;

    ferryOpDrive(op);
    rc = ferryPlanRun(op, &ferryBackupBeginPlan);

    if (rc == 0 && backup->extras.idleTimeout > 0)
        ferryBackupWatch(op);
    else if (rc < 0 && (op->over || *ferryPlanProgress(op, &ferryBackupBeginPlan) == 0))
        ferryBackupEnd(op, FERRY_BACKUP_RESULT_NONE);

    ferryOpRelease(op);
    return rc;
}


/**
 * ferryBackupBegin:
 * @vm: domain, locked, without a job
 *
 * Begins the backup that @backupXML describes and makes the checkpoint of
 * @checkpointXML with it. Returns 0 once it runs, or -1 with an error reported
 * and everything as it was.
 */
int
ferryBackupBegin(virDomainObj *vm,
                 const char *backupXML,
                 const char *checkpointXML,
                 unsigned int flags)
{
    virQEMUDriver *driver = QEMU_DOMAIN_PRIVATE(vm)->driver;
    ferryBackupExtras extras = { 0 };
    virDomainBackupDef *def;
    ferryBackup *backup;
    int rc = -1;

    if (!(def = ferryBackupParseXML(driver, backupXML, &extras)))
        return -1;

    if (ferryBackupCheckNone(vm) < 0 ||
        ferryBackupBeginJob(vm, flags) < 0) {
        virDomainBackupDefFree(def);
        return -1;
    }

    if ((backup = ferryBackupPrepare(vm, def, &extras, checkpointXML, flags)))
        rc = ferryBackupRun(vm, backup);
    else
        virDomainObjEndAsyncJob(vm);

    virDomainObjEndJob(vm);
    return rc;
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
    ferryBackup *backup = op->data;
    bool pull = ferryBackupIsPull(backup);

    if (op->driven) {
        virReportError(VIR_ERR_OPERATION_INVALID,
                       _("backup of domain '%s' is still being started or ended; try again"),
                       op->vm->def->name);
        return -1;
    }

    ferryOpDrive(op);
    ferryBackupEnd(op, pull ? FERRY_BACKUP_RESULT_COMPLETED : FERRY_BACKUP_RESULT_CANCELED);
    ferryOpRelease(op);

    return 0;
}


/**
 * ferryBackupFillStats:
 *
 * Writes what is known of the progress into @data.
 */
void
ferryBackupFillStats(ferryOp *op,
                     virDomainJobData *data)
{
    ferryBackup *backup = op->data;
    qemuDomainJobDataPrivate *priv = data->privateData;
    qemuDomainBackupStats *stats = &priv->stats.backup;

    if (ferryBackupIsPull(backup)) {
        stats->tmp_used = backup->cur;
        stats->tmp_total = backup->end;
    } else {
        stats->transferred = backup->cur;
        stats->total = backup->end;
    }
}


/**
 * ferryBackupStats:
 *
 * Fills in @data as it is now. Domain locked, job held.
 */
int
ferryBackupStats(ferryOp *op,
                 virDomainJobData *data)
{
    if (qemuDomainJobDataUpdateTime(data) < 0)
        return -1;

    data->status = VIR_DOMAIN_JOB_STATUS_ACTIVE;

    if (ferryBackupProgress(op) < 0)
        return -1;

    ferryBackupFillStats(op, data);
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

    if (virDomainBackupDefFormat(&buf, ((ferryBackup *) op->data)->def, false,
                                 op->driver->xmlopt) < 0)
        return NULL;

    return virBufferContentAndReset(&buf);
}


static ferryBackupDisk *
ferryBackupFindDisk(ferryOp *op,
                    const char *dst)
{
    ferryBackup *backup = op->data;
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
    .klass = &ferryBackupClass,
    .type = VIR_DOMAIN_BLOCK_JOB_TYPE_BACKUP,
    .jobName = ferryBackupJobName,
    .jobEnded = ferryBackupJobEnded,
    .abort = ferryBackupAbort,
};
