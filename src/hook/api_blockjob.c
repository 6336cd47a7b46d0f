/*
 * api_blockjob.c: our entries of the QEMU driver's API table: block copy, and block jobs
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "datatypes.h"
#include "engine/report.h"
#include "engine/wait.h"
#include "hook/api_blockjob.h"
#include "ops/blockjob.h"
#include "ops/copy/copy.h"
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
                      VIR_DOMAIN_BLOCK_COPY_SYNCHRONOUS_WRITES,
                  -1);

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
    target->type = (flags & VIR_DOMAIN_BLOCK_REBASE_COPY_DEV) ? VIR_STORAGE_TYPE_BLOCK :
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


/* Ends the block jobs of several disks at once, if @path names several. Returns 1; 0 if it does
 * not; -1 with an error reported. */
static int
ferryApiAbortGroup(virDomainObj *vm,
                   const char *path,
                   unsigned int flags)
{
    g_autoptr(GPtrArray) ops = g_ptr_array_new_with_free_func((GDestroyNotify) ferryOpUnref);
    const ferryBlockJobHandler *handler;
    int rc = 0;

    if (!ferryBlockJobGroup(vm, path, ops))
        return 0;

    if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0)
        return -1;

    /* some may have ended meanwhile */
    g_ptr_array_set_size(ops, 0);
    if ((handler = ferryBlockJobGroup(vm, path, ops)))
        rc = handler->group(ops, flags & VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT,
                            flags & VIR_DOMAIN_BLOCK_JOB_ABORT_ASYNC) < 0 ?
                 -1 :
                 1;

    ferryDomainEndJob(vm);
    return rc;
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
                      VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT,
                  -1);

    if (!(vm = qemuDomainObjFromDomain(dom)))
        return -1;

    if (virDomainBlockJobAbortEnsureACL(dom->conn, vm->def) < 0)
        goto cleanup;

    if ((ret = ferryApiAbortGroup(vm, path, flags)) != 0) {
        ret = MIN(ret, 0);
        goto cleanup;
    }

    ret = -1;
    if (ferryApiFindJob(vm, VIR_JOB_MODIFY, path, &job) < 0)
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


/**
 * ferryApiInstallBlockJob:
 *
 * Replaces entries of @table, and keeps the stock entries to delegate to.
 */
void
ferryApiInstallBlockJob(virHypervisorDriver *table)
{
    stock = *table;

    table->domainBlockCopy = ferryDomainBlockCopy;               /* 1.2.9 */
    table->domainBlockRebase = ferryDomainBlockRebase;           /* 0.9.10 */
    table->domainBlockJobAbort = ferryDomainBlockJobAbort;       /* 0.9.4 */
    table->domainGetBlockJobInfo = ferryDomainGetBlockJobInfo;   /* 0.9.4 */
    table->domainBlockJobSetSpeed = ferryDomainBlockJobSetSpeed; /* 0.9.4 */
}
