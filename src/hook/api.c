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

#include "block/volume.h"
#include "datatypes.h"
#include "engine/report.h"
#include "engine/wait.h"
#include "hook/api.h"
#include "hook/api_migration.h"
#include "ops/backup/backup.h"
#include "ops/backup/control.h"
#include "ops/backup/data.h"
#include "ops/blockjob.h"
#include "ops/checkpoint/checkpoint.h"
#include "ops/checkpoint/metadata.h"
#include "ops/copy/copy.h"
#include "ops/migration/perform.h"
#include "qemu/qemu_checkpoint.h"
#include "viraccessapicheck.h"
#include "virerror.h"
#include "virtypedparam.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

/* The flags that virDomainBlockRebase accepts together with COPY. */
#define FERRY_REBASE_FLAGS \
    (VIR_DOMAIN_BLOCK_REBASE_COPY | VIR_DOMAIN_BLOCK_REBASE_COPY_DEV | \
     VIR_DOMAIN_BLOCK_REBASE_COPY_RAW | VIR_DOMAIN_BLOCK_REBASE_SHALLOW | \
     VIR_DOMAIN_BLOCK_REBASE_REUSE_EXT | VIR_DOMAIN_BLOCK_REBASE_RELATIVE | \
     VIR_DOMAIN_BLOCK_REBASE_BANDWIDTH_BYTES)

static virHypervisorDriver stock;

/* This thread is inside a stock entry for block jobs. */
static __thread bool delegating;


/**
 * ferryApiIsDelegating:
 *
 * Returns whether this thread is inside a stock entry that works on the block job of a disk,
 * which was called because Ferry had no such job. Ferry may have one by now, since the entry
 * takes the domain's job anew.
 */
bool
ferryApiIsDelegating(void)
{
    return delegating;
}


/* Converts @bandwidth to bytes/s. Older API calls have it in MiB/s, unless @bytes. */
static int
ferryApiBandwidth(unsigned long bandwidth,
                  bool bytes,
                  unsigned long long *result)
{
    *result = bandwidth;

    if (bytes)
        return 0;

    if (bandwidth > LLONG_MAX >> 20) {
        virReportError(VIR_ERR_OVERFLOW,
                       _("bandwidth must be less than %1$llu"), LLONG_MAX >> 20);
        return -1;
    }

    *result <<= 20;
    return 0;
}


static int
ferryApiCopy(virDomainObj *vm,
             ferryCopyRequest *req)
{
    g_autoptr(GPtrArray) aliases = NULL;
    int ret;

    if (ferryCopyAskAhead(vm, req, &aliases) < 0 ||
        virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0)
        return -1;

    ret = ferryCopyStart(vm, req);
    ferryDomainEndJob(vm);

    return ret;
}


static int
ferryApiCopyParams(virTypedParameterPtr params,
                   int nparams,
                   ferryCopyRequest *req)
{
    if (virTypedParamsValidate(params, nparams,
                               VIR_DOMAIN_BLOCK_COPY_BANDWIDTH, VIR_TYPED_PARAM_ULLONG,
                               VIR_DOMAIN_BLOCK_COPY_GRANULARITY, VIR_TYPED_PARAM_UINT,
                               VIR_DOMAIN_BLOCK_COPY_BUF_SIZE, VIR_TYPED_PARAM_ULLONG,
                               NULL) < 0 ||
        virTypedParamsGetULLong(params, nparams, VIR_DOMAIN_BLOCK_COPY_BANDWIDTH,
                                &req->bandwidth) < 0 ||
        virTypedParamsGetUInt(params, nparams, VIR_DOMAIN_BLOCK_COPY_GRANULARITY,
                              &req->granularity) < 0 ||
        virTypedParamsGetULLong(params, nparams, VIR_DOMAIN_BLOCK_COPY_BUF_SIZE,
                                &req->bufSize) < 0)
        return -1;

    if ((req->granularity & (req->granularity - 1)) != 0) {
        virReportError(VIR_ERR_INVALID_ARG, "%s", _("granularity must be power of 2"));
        return -1;
    }

    return 0;
}


static int
ferryDomainBlockCopy(virDomainPtr dom,
                     const char *path,
                     const char *destxml,
                     virTypedParameterPtr params,
                     int nparams,
                     unsigned int flags)
{
    virQEMUDriver *driver = dom->conn->privateData;
    g_autoptr(virStorageSource) target = NULL;
    ferryCopyRequest req = { .path = path, .flags = flags };
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_BLOCK_COPY_SHALLOW |
                  VIR_DOMAIN_BLOCK_COPY_REUSE_EXT |
                  VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB |
                  VIR_DOMAIN_BLOCK_COPY_SYNCHRONOUS_WRITES, -1);

    if (!(vm = qemuDomainObjFromDomain(dom)))
        return -1;

    if (virDomainBlockCopyEnsureACL(dom->conn, vm->def) == 0 &&
        ferryApiCopyParams(params, nparams, &req) == 0 &&
        (target = virDomainDiskDefParseSource(destxml, driver->xmlopt,
                                              VIR_DOMAIN_DEF_PARSE_INACTIVE))) {
        req.target = target;
        ret = ferryApiCopy(vm, &req);
    }

    virDomainObjEndAPI(&vm);
    return ferryReportResult(dom->name, ret);
}


/* Returns the target of a copy that virDomainBlockRebase describes by path and flags. */
static virStorageSource *
ferryApiRebaseTarget(const char *base,
                     unsigned int flags)
{
    g_autoptr(virStorageSource) target = virStorageSourceNew();

    if (flags & VIR_DOMAIN_BLOCK_REBASE_RELATIVE) {
        virReportError(VIR_ERR_ARGUMENT_UNSUPPORTED, "%s",
                       _("Relative backing during copy not supported yet"));
        return NULL;
    }

    target->path = g_strdup(base);
    target->type = flags & VIR_DOMAIN_BLOCK_REBASE_COPY_DEV ? VIR_STORAGE_TYPE_BLOCK :
                                                              VIR_STORAGE_TYPE_FILE;
    if (flags & VIR_DOMAIN_BLOCK_REBASE_COPY_RAW)
        target->format = VIR_STORAGE_FILE_RAW;

    return g_steal_pointer(&target);
}


static int
ferryDomainBlockRebase(virDomainPtr dom,
                       const char *path,
                       const char *base,
                       unsigned long bandwidth,
                       unsigned int flags)
{
    g_autoptr(virStorageSource) target = NULL;
    ferryCopyRequest req = { .path = path, .keepLabel = true };
    virDomainObj *vm;
    int ret = -1;

    /* without COPY the call is a block pull, which the stock driver checks and does */
    if (!(flags & VIR_DOMAIN_BLOCK_REBASE_COPY))
        return stock.domainBlockRebase(dom, path, base, bandwidth, flags);

    virCheckFlags(FERRY_REBASE_FLAGS, -1);

    if (!(vm = qemuDomainObjFromDomain(dom)))
        return -1;

    if (flags & VIR_DOMAIN_BLOCK_REBASE_SHALLOW)
        req.flags |= VIR_DOMAIN_BLOCK_COPY_SHALLOW;
    if (flags & VIR_DOMAIN_BLOCK_REBASE_REUSE_EXT)
        req.flags |= VIR_DOMAIN_BLOCK_COPY_REUSE_EXT;

    if (virDomainBlockRebaseEnsureACL(dom->conn, vm->def) == 0 &&
        ferryApiBandwidth(bandwidth, flags & VIR_DOMAIN_BLOCK_REBASE_BANDWIDTH_BYTES,
                          &req.bandwidth) == 0 &&
        (target = ferryApiRebaseTarget(base, flags))) {
        req.target = target;
        ret = ferryApiCopy(vm, &req);
    }

    virDomainObjEndAPI(&vm);
    return ferryReportResult(dom->name, ret);
}


/* Begins domain job @job and fills in @found with the block job on disk @path. If that is
 * not Ferry's, found->op is NULL and @job has been ended: the stock driver must answer.
 * Returns 0, or -1 with an error reported and without the job. */
static int
ferryApiFindJob(virDomainObj *vm,
                virDomainJob job,
                const char *path,
                ferryBlockJob *found)
{
    if ((job == VIR_JOB_MODIFY && ferryBlockJobMayChange(vm, path) < 0) ||
        virDomainObjBeginJob(vm, job) < 0)
        return -1;

    if (virDomainObjIsActive(vm))
        ferryBlockJobFind(vm, path, found);

    if (!found->op)
        ferryDomainEndJob(vm);

    return 0;
}


static int
ferryDomainBlockJobAbort(virDomainPtr dom,
                         const char *path,
                         unsigned int flags)
{
    g_auto(ferryBlockJob) job = { 0 };
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_BLOCK_JOB_ABORT_ASYNC |
                  VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT, -1);

    if (!(vm = qemuDomainObjFromDomain(dom)))
        return -1;

    if (virDomainBlockJobAbortEnsureACL(dom->conn, vm->def) < 0 ||
        ferryApiFindJob(vm, VIR_JOB_MODIFY, path, &job) < 0)
        goto cleanup;

    if (!job.op) {
        virDomainObjEndAPI(&vm);
        delegating = true;
        ret = stock.domainBlockJobAbort(dom, path, flags);
        delegating = false;
        return ferryReportResult(dom->name, ret);
    }

    ret = ferryBlockJobAbort(&job, flags & VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT,
                             flags & VIR_DOMAIN_BLOCK_JOB_ABORT_ASYNC);
    ferryDomainEndJob(vm);

 cleanup:
    virDomainObjEndAPI(&vm);
    return ferryReportResult(dom->name, ret);
}


static int
ferryDomainGetBlockJobInfo(virDomainPtr dom,
                           const char *path,
                           virDomainBlockJobInfoPtr info,
                           unsigned int flags)
{
    g_auto(ferryBlockJob) job = { 0 };
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES, -1);

    if (!(vm = qemuDomainObjFromDomain(dom)))
        return -1;

    if (virDomainGetBlockJobInfoEnsureACL(dom->conn, vm->def) < 0 ||
        ferryApiFindJob(vm, VIR_JOB_QUERY, path, &job) < 0)
        goto cleanup;

    if (!job.op) {
        virDomainObjEndAPI(&vm);
        delegating = true;
        ret = stock.domainGetBlockJobInfo(dom, path, info, flags);
        delegating = false;
        return ferryReportResult(dom->name, ret);
    }

    ret = ferryBlockJobInfo(&job, info, flags & VIR_DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES);
    ferryDomainEndJob(vm);

 cleanup:
    virDomainObjEndAPI(&vm);
    return ferryReportResult(dom->name, ret);
}


static int
ferryDomainBlockJobSetSpeed(virDomainPtr dom,
                            const char *path,
                            unsigned long bandwidth,
                            unsigned int flags)
{
    g_auto(ferryBlockJob) job = { 0 };
    unsigned long long speed;
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_BLOCK_JOB_SPEED_BANDWIDTH_BYTES, -1);

    if (ferryApiBandwidth(bandwidth, flags & VIR_DOMAIN_BLOCK_JOB_SPEED_BANDWIDTH_BYTES,
                          &speed) < 0 ||
        !(vm = qemuDomainObjFromDomain(dom)))
        return ferryReportResult(dom->name, -1);

    if (virDomainBlockJobSetSpeedEnsureACL(dom->conn, vm->def) < 0 ||
        ferryApiFindJob(vm, VIR_JOB_MODIFY, path, &job) < 0)
        goto cleanup;

    if (!job.op) {
        virDomainObjEndAPI(&vm);
        delegating = true;
        ret = stock.domainBlockJobSetSpeed(dom, path, bandwidth, flags);
        delegating = false;
        return ferryReportResult(dom->name, ret);
    }

    ret = ferryBlockJobSetSpeed(&job, speed);
    ferryDomainEndJob(vm);

 cleanup:
    virDomainObjEndAPI(&vm);
    return ferryReportResult(dom->name, ret);
}


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
        ferryCheckpointCheckFree(vm) == 0;

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
               stock.domainCheckpointCreateXML(dom, xml, flags) : NULL;

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
                  VIR_DOMAIN_CHECKPOINT_DELETE_CHILDREN_ONLY, -1);

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
    ferryApiInstallMigration(table);

    table->domainBlockCopy = ferryDomainBlockCopy; /* 1.2.9 */
    table->domainBlockRebase = ferryDomainBlockRebase; /* 0.9.10 */
    table->domainBlockJobAbort = ferryDomainBlockJobAbort; /* 0.9.4 */
    table->domainGetBlockJobInfo = ferryDomainGetBlockJobInfo; /* 0.9.4 */
    table->domainBlockJobSetSpeed = ferryDomainBlockJobSetSpeed; /* 0.9.4 */
    table->domainBackupBegin = ferryDomainBackupBegin; /* 6.0.0 */
    table->domainBackupGetXMLDesc = ferryDomainBackupGetXMLDesc; /* 6.0.0 */
    table->domainAbortJob = ferryDomainAbortJob; /* 0.7.7 */
    table->domainAbortJobFlags = ferryDomainAbortJobFlags; /* 8.5.0 */
    table->domainCheckpointCreateXML = ferryDomainCheckpointCreateXML; /* 5.6.0 */
    table->domainCheckpointDelete = ferryDomainCheckpointDelete; /* 5.6.0 */
    table->domainCheckpointGetXMLDesc = ferryDomainCheckpointGetXMLDesc; /* 5.6.0 */
}
