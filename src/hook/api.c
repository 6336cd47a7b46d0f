/*
 * api.c: our entries of the QEMU driver's API table
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Every entry checks its flags, finds the domain, asks the access driver, and does the
 * work. If the request, or the job that it is about, is the stock driver's, the entry
 * calls the stock entry that it replaced.
 */

#include <config.h>

#include "datatypes.h"
#include "engine/checkpoints.h"
#include "engine/report.h"
#include "engine/wait.h"
#include "hook/api.h"
#include "hook/api_blockjob.h"
#include "hook/api_migration.h"
#include "hook/api_snapshot.h"
#include "ops/backup/backup.h"
#include "ops/backup/control.h"
#include "ops/backup/data.h"
#include "ops/checkpoint/checkpoint.h"
#include "ops/checkpoint/metadata.h"
#include "ops/migration/perform.h"
#include "qemu/qemu_checkpoint.h"
#include "viraccessapicheck.h"
#include "virerror.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

static virHypervisorDriver stock;


static int
ferryDomainBackupBegin(virDomainPtr dom,
                       const char *backupXML,
                       const char *checkpointXML,
                       unsigned int flags)
{
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL, -1);

    if (!(vm = qemuDomainObjFromDomain(dom)))
        return -1;

    if (virDomainBackupBeginEnsureACL(dom->conn, vm->def) == 0)
        ret = ferryBackupBegin(vm, backupXML, checkpointXML, flags);

    virDomainObjEndAPI(&vm);
    return ferryReportResult(dom->name, ret);
}


static char *
ferryDomainBackupGetXMLDesc(virDomainPtr dom,
                            unsigned int flags)
{
    virDomainObj *vm;
    ferryOp *op = NULL;
    char *ret = NULL;
    bool allowed;

    virCheckFlags(0, NULL);

    if (!(vm = qemuDomainObjFromDomain(dom)))
        return NULL;

    allowed = virDomainBackupGetXMLDescEnsureACL(dom->conn, vm->def) == 0;

    if (allowed && (op = ferryBackupFind(vm)))
        ret = ferryBackupGetXML(op);

    virDomainObjEndAPI(&vm);

    /* no backup, or one that the stock driver began before Ferry was installed */
    return allowed && !op ? stock.domainBackupGetXMLDesc(dom, flags) : ret;
}


/* Ends @vm's backup. Returns 1; 0 when Ferry runs none; -1 with an error reported. */
static int
ferryApiAbortBackup(virDomainObj *vm)
{
    g_autoptr(ferryOp) op = NULL;
    int ret;

    if (!ferryBackupFind(vm))
        return 0;

    if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0)
        return -1;

    /* the backup may have ended while we waited for the domain's job */
    if (!(op = ferryBackupFind(vm))) {
        virReportError(VIR_ERR_OPERATION_INVALID, "%s", _("no job is active on the domain"));
        ret = -1;
    } else {
        ferryOpRef(op);
        ret = ferryBackupAbort(op, /* async= */ false) < 0 ? -1 : 1;
    }

    ferryDomainEndJob(vm);
    return ret;
}


static int
ferryDomainAbortJobFlags(virDomainPtr dom,
                         unsigned int flags)
{
    virDomainObj *vm;
    bool aborted = false;
    int rc = -1;

    virCheckFlags(VIR_DOMAIN_ABORT_JOB_POSTCOPY, -1);

    if (!(vm = qemuDomainObjFromDomain(dom)))
        return -1;

    if (virDomainAbortJobFlagsEnsureACL(dom->conn, vm->def) == 0)
        rc = flags == 0 ? ferryApiAbortBackup(vm) : 0;

    if (rc == 0 && flags == 0)
        aborted = ferryMigrationAbort(vm);

    virDomainObjEndAPI(&vm);

    if (rc != 0)
        return ferryReportResult(dom->name, rc < 0 ? -1 : 0);

    rc = stock.domainAbortJobFlags(dom, flags);

    if (ferryBackupTakeMet() && rc == 0) {
        virReportError(VIR_ERR_OPERATION_INVALID, "%s",
                       _("the backup is still being started; try again"));
        rc = -1;
    }

    /* the job is gone already: ferryMigrationAbort() alone made the migration fail */
    if (rc < 0 && aborted && virGetLastErrorCode() == VIR_ERR_OPERATION_INVALID) {
        virResetLastError();
        rc = 0;
    }

    return ferryReportResult(dom->name, rc);
}


static int
ferryDomainAbortJob(virDomainPtr dom)
{
    return ferryDomainAbortJobFlags(dom, /* flags= */ 0);
}


/* Returns false, with an error reported, if an operation is working on the domain's
 * checkpoints and waits without the domain's job. */
static bool
ferryApiCheckpointsAreFree(virDomainPtr dom)
{
    virDomainObj *vm = qemuDomainObjFromDomain(dom);
    bool result = vm &&
                  virDomainCheckpointCreateXMLEnsureACL(dom->conn, vm->def,
                                                        VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE) == 0 &&
                  ferryCheckpointsCheckFree(vm, /* except= */ NULL) == 0;

    virDomainObjEndAPI(&vm);
    return result;
}


static virDomainCheckpointPtr
ferryDomainCheckpointCreateXML(virDomainPtr dom,
                               const char *xml,
                               unsigned int flags)
{
    virDomainCheckpointPtr ret = NULL;
    g_autofree char *name = NULL;
    virDomainObj *vm;

    /* REDEFINE changes definitions only, not the images */
    if (flags & VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE)
        return ferryApiCheckpointsAreFree(dom) ?
                   stock.domainCheckpointCreateXML(dom, xml, flags) :
                   NULL;

    virCheckFlags(VIR_DOMAIN_CHECKPOINT_CREATE_QUIESCE, NULL);

    if (!(vm = qemuDomainObjFromDomain(dom)))
        return NULL;

    if (virDomainCheckpointCreateXMLEnsureACL(dom->conn, vm->def, flags) == 0 &&
        ferryCheckpointCreate(vm, xml, flags & VIR_DOMAIN_CHECKPOINT_CREATE_QUIESCE, &name) == 0)
        ret = virGetDomainCheckpoint(dom, name);

    ignore_value(ferryReportResult(dom->name, ret ? 0 : -1));
    virDomainObjEndAPI(&vm);
    return ret;
}


static int
ferryDomainCheckpointDelete(virDomainCheckpointPtr checkpoint,
                            unsigned int flags)
{
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_CHECKPOINT_DELETE_CHILDREN |
                      VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY |
                      VIR_DOMAIN_CHECKPOINT_DELETE_CHILDREN_ONLY,
                  -1);

    if (!(vm = qemuDomainObjFromDomain(checkpoint->domain)))
        return -1;

    if (virDomainCheckpointDeleteEnsureACL(checkpoint->domain->conn, vm->def) == 0)
        ret = ferryCheckpointDelete(vm, checkpoint->name, flags);

    virDomainObjEndAPI(&vm);
    return ferryReportResult(checkpoint->domain->name, ret);
}


/* The stock driver looks up the definition and waits for QEMU before it uses the
 * definition. Another thread may delete the checkpoint meanwhile, so hold a reference. */
static char *
ferryDomainCheckpointGetXMLDesc(virDomainCheckpointPtr checkpoint,
                                unsigned int flags)
{
    virDomainObj *vm;
    char *xml = NULL;

    if (!(vm = qemuDomainObjFromDomain(checkpoint->domain)))
        return NULL;

    if (virDomainCheckpointGetXMLDescEnsureACL(checkpoint->domain->conn, vm->def, flags) == 0) {
        g_autoptr(virDomainCheckpointDef) def = ferryCheckpointFind(vm, checkpoint->name);

        xml = qemuCheckpointGetXMLDesc(vm, checkpoint, flags);
    }

    virDomainObjEndAPI(&vm);
    return xml;
}


/**
 * ferryApiInstall:
 *
 * Replaces entries of @table, the QEMU driver's API table, and keeps the stock entries
 * to delegate to. Called once, before the driver is registered.
 */
void
ferryApiInstall(virHypervisorDriver *table)
{
    stock = *table;
    ferryApiInstallBlockJob(table);
    ferryApiInstallMigration(table);
    ferryApiInstallSnapshot(table);

    table->domainBackupBegin = ferryDomainBackupBegin;                   /* 6.0.0 */
    table->domainBackupGetXMLDesc = ferryDomainBackupGetXMLDesc;         /* 6.0.0 */
    table->domainAbortJob = ferryDomainAbortJob;                         /* 0.7.7 */
    table->domainAbortJobFlags = ferryDomainAbortJobFlags;               /* 8.5.0 */
    table->domainCheckpointCreateXML = ferryDomainCheckpointCreateXML;   /* 5.6.0 */
    table->domainCheckpointDelete = ferryDomainCheckpointDelete;         /* 5.6.0 */
    table->domainCheckpointGetXMLDesc = ferryDomainCheckpointGetXMLDesc; /* 5.6.0 */
}
