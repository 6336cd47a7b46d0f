/*
 * perform.c: storage migration: within the perform phase
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What the stock driver's perform phase calls us for, in its own thread: see
 * source.c.
 */

#include <config.h>

#include "engine/engine.h"
#include "engine/plan.h"
#include "engine/wait.h"
#include "ops/migration/outgoing.h"
#include "ops/migration/perform.h"
#include "ops/migration/ready.h"
#include "ops/migration/source.h"
#include "qemu/qemu_alias.h"
#include "qemu/qemu_migration.h"
#include "qemu/qemu_security.h"
#include "virerror.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

/* Data in flight over all mirrors, and of each at least. QEMU gives the memory back
 * while the guest waits, 6 ms for 64 MiB, so it is no more than what keeps the
 * connections busy; which takes twice as much over TCP to a server that waits before
 * it sends an answer. */
#define FERRY_MIGRATION_BUF_SIZE (32ULL * 1024 * 1024)
#define FERRY_MIGRATION_BUF_SIZE_DELAYED (64ULL * 1024 * 1024)
#define FERRY_MIGRATION_BUF_SIZE_MIN (4ULL * 1024 * 1024)

/* The perform phase that this thread is in, if any. */
typedef struct {
    const ferryMigrationRequest *req;
    ferryOp *op;   /* once the storage is on its way: reference */
    bool arrived;  /* the memory has, and the stock driver knows */
    bool tried;    /* to finish the mirrors, whether or not with success */
} ferryMigrationCall;

static __thread ferryMigrationCall call;


/* Where the exports of @migration are. */
static int
ferryMigrationLocate(virDomainObj *vm,
                     ferryMigration *migration,
                     const ferryMigrationRequest *req,
                     qemuMigrationParams *params)
{
    virQEMUDriver *driver = QEMU_DOMAIN_PRIVATE(vm)->driver;
    g_autofree char *tlsAlias = NULL;
    size_t i;

    if (req->address.transport == VIR_STORAGE_NET_HOST_TRANS_UNIX) {
        if (qemuSecurityDomainSetPathLabel(driver, vm, req->address.socket, false) < 0)
            return -1;
    } else if (req->address.port == 0 || !req->address.name) {
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("the destination does not say where it takes the disks of domain '%1$s'"),
                       vm->def->name);
        return -1;
    }

    migration->server.transport = req->address.transport;
    migration->server.port = req->address.port;
    migration->server.name = g_strdup(req->numeric);
    migration->server.socket = g_strdup(req->address.socket);

    if (req->flags & VIR_MIGRATE_TLS)
        tlsAlias = qemuAliasTLSObjFromSrcAlias(FERRY_MIGRATION_TLS_BASE);

    for (i = 0; i < migration->ndisks; i++) {
        virDomainDiskDef *disk = virDomainDiskByTarget(vm->def, migration->disks[i].dst);
        virStorageSource *target = migration->disks[i].target;

        if (!(target->path = qemuAliasDiskDriveFromDisk(disk)))
            return -1;

        target->hosts = virStorageNetHostDefCopy(1, (virStorageNetHostDef *) &req->address);
        target->nhosts = 1;

        if (tlsAlias) {
            target->haveTLS = VIR_TRISTATE_BOOL_YES;
            target->tlsAlias = g_strdup(tlsAlias);
            target->tlsHostname = g_strdup(qemuMigrationParamsGetTLSHostname(params));
        }
    }

    return 0;
}


static unsigned long long
ferryMigrationBufSize(const ferryMigrationRequest *req,
                      size_t ndisks)
{
    bool prompt = req->nodelay || req->address.transport == VIR_STORAGE_NET_HOST_TRANS_UNIX;
    unsigned long long size = prompt ? FERRY_MIGRATION_BUF_SIZE : FERRY_MIGRATION_BUF_SIZE_DELAYED;

    return MAX(size / MAX(ndisks, 1), FERRY_MIGRATION_BUF_SIZE_MIN);
}


static ferryMigration *
ferryMigrationPrepare(virDomainObj *vm,
                      const ferryMigrationRequest *req,
                      qemuMigrationParams *params)
{
    ferryMigration *migration = g_new0(ferryMigration, 1);
    size_t i;

    migration->shallow = req->flags & VIR_MIGRATE_NON_SHARED_INC;
    migration->synchronous = req->flags & VIR_MIGRATE_NON_SHARED_SYNCHRONOUS_WRITES;
    if (QEMU_DOMAIN_PRIVATE(vm)->migMaxBandwidth < QEMU_DOMAIN_MIG_BANDWIDTH_MAX)
        migration->bandwidth = (unsigned long long) QEMU_DOMAIN_PRIVATE(vm)->migMaxBandwidth << 20;
    migration->disks = g_new0(ferryMigrationDisk, vm->def->ndisks);

    for (i = 0; i < vm->def->ndisks; i++) {
        virDomainDiskDef *disk = vm->def->disks[i];
        ferryMigrationDisk *ours = &migration->disks[migration->ndisks];

        if (!ferryMigrationWants(req, disk))
            continue;

        if (disk->src->readonly || virStorageSourceIsEmpty(disk->src)) {
            virReportError(VIR_ERR_OPERATION_UNSUPPORTED,
                           _("Cannot migrate empty or read-only disk %1$s"), disk->dst);
            goto error;
        }

        ours->dst = g_strdup(disk->dst);
        ours->target = ferryMigrationTargetNew(disk->dst);
        migration->ndisks++;
    }

    migration->bufSize = ferryMigrationBufSize(req, migration->ndisks);

    if (ferryMigrationLocate(vm, migration, req, params) < 0)
        goto error;

    return migration;

 error:
    ferryMigrationFree(migration);
    return NULL;
}


/**
 * ferryMigrationPerformBegin:
 *
 * This thread is about to call the stock driver's perform phase, without the
 * flags that ask for storage: what @req wants of it is ours. Until
 * ferryMigrationPerformEnd().
 */
void
ferryMigrationPerformBegin(const ferryMigrationRequest *req)
{
    call = (ferryMigrationCall) { .req = req };
}


/**
 * ferryMigrationCopyStorage:
 * @vm: domain, locked, with the asynchronous job of a migration that this
 *      thread owns
 *
 * Returns 0 once all mirrors are READY, or there are none to be; -1 with an
 * error reported and everything taken back.
 */
int
ferryMigrationCopyStorage(virDomainObj *vm,
                          qemuMigrationParams *params)
{
    ferryMigration *migration;
    int rc = -1;

    if (!call.req || call.op)
        return 0;

    if (!(migration = ferryMigrationPrepare(vm, call.req, params)))
        return -1;

    if (ferryAsyncEnter(vm, ferryMigrationClass.job) < 0) {
        ferryMigrationFree(migration);
        return -1;
    }

    call.op = ferryOpNew(vm, &ferryMigrationClass, FERRY_MIGRATION_NAME, migration);

    ferryOpDrive(call.op);
    rc = ferryPlanRun(call.op, &ferryMigrationStoragePlan);
    if (rc < 0 && !call.op->over && *ferryPlanProgress(call.op, &ferryMigrationStoragePlan) == 0)
        ferryOpEnd(call.op);
    ferryOpRelease(call.op);

    ferryAsyncLeave(vm);
    return rc;
}


static bool
ferryMigrationIsOn(virDomainObj *vm)
{
    return call.op && !call.op->over && call.op->vm == vm;
}


/**
 * ferryMigrationSwitchOver:
 * @vm: domain, locked; its QEMU is about to be told something
 *
 * Is the guest paused and its memory at the destination, so that QEMU will be
 * told to switch over next? Then finishes all mirrors. Returns 0, or -1 with an
 * error reported.
 */
int
ferryMigrationSwitchOver(virDomainObj *vm)
{
    ferryMigration *migration;
    int rc;

    if (!ferryMigrationIsOn(vm) || call.tried ||
        vm->job->current->status != VIR_DOMAIN_JOB_STATUS_PAUSED)
        return 0;

    /* The first thing said is a question about statistics, whose failure nobody heeds,
     * and whose job data would not outlive QEMU if that ended while we wait. */
    if (!call.arrived || virDomainObjGetState(vm, NULL) == VIR_DOMAIN_RUNNING) {
        call.arrived = true;
        return 0;
    }

    call.tried = true;
    migration = ferryMigrationOf(call.op);

    if (ferryAsyncEnter(vm, ferryMigrationClass.job) < 0)
        return -1;

    ferryOpDrive(call.op);
    if ((rc = ferryPlanRun(call.op, &ferryMigrationFinishPlan)) == 0) {
        ferryOpEnd(call.op);
    } else {
        if (!migration->error)
            migration->error = virSaveLastError();
        /* QEMU drains all nodes when the stock driver cancels, which is next */
        if (!call.op->over)
            ferryMigrationYank(call.op);
    }
    ferryOpRelease(call.op);

    ferryAsyncLeave(vm);
    return rc;
}


/**
 * ferryMigrationMayStop:
 * @vm: domain, locked; the stock driver is about to wait for the guest to stop
 *
 * Returns 0, or -1 with an error reported when it did stop, and goes on by now, since
 * the migration was cancelled under way.
 */
int
ferryMigrationMayStop(virDomainObj *vm)
{
    ferryMigration *migration;

    if (!ferryMigrationIsOn(vm))
        return 0;

    migration = ferryMigrationOf(call.op);
    if (!migration->error)
        return ferryMigrationClass.mayWait(call.op);

    virSetError(migration->error);
    return -1;
}


/**
 * ferryMigrationMaySwitchOver:
 *
 * This thread is about to tell QEMU to switch over. Returns 0 when the disks are
 * at the destination, or are not ours; -1 with an error reported when the guest
 * must go on here. Called with the monitor locked.
 */
int
ferryMigrationMaySwitchOver(void)
{
    ferryMigration *migration;

    if (!call.op)
        return 0;

    migration = ferryMigrationOf(call.op);

    if (*ferryPlanProgress(call.op, &ferryMigrationFinishPlan) > 0 && call.op->over &&
        !migration->error)
        return 0;

    if (migration->error)
        virSetError(migration->error);
    else
        virReportError(VIR_ERR_OPERATION_FAILED, "%s",
                       _("the disks have not arrived at the destination"));

    return -1;
}


/**
 * ferryMigrationGiveUp:
 * @vm: domain, locked, with the asynchronous job of a migration that failed
 *
 * Takes back what is left of its storage. Keeps the last error.
 */
void
ferryMigrationGiveUp(virDomainObj *vm)
{
    virErrorPtr err = NULL;

    if (!ferryMigrationIsOn(vm))
        return;

    virErrorPreserveLast(&err);

    if (ferryAsyncEnter(vm, ferryMigrationClass.job) == 0) {
        ferryOpDrive(call.op);
        if (ferryPlanUndo(call.op, &ferryMigrationStoragePlan) == 0 && !call.op->over)
            ferryOpEnd(call.op);
        ferryOpRelease(call.op);
        ferryAsyncLeave(vm);
    }

    virErrorRestore(&err);
}


/**
 * ferryMigrationPerformEnd:
 * @rc: what the stock driver's perform phase returned
 *
 * Ends ferryMigrationPerformBegin(). A mirror that failed is why the rest did:
 * the error says so.
 */
int
ferryMigrationPerformEnd(int rc)
{
    ferryMigration *migration = call.op ? ferryMigrationOf(call.op) : NULL;

    if (rc < 0 && migration && migration->error)
        virSetError(migration->error);

    g_clear_pointer(&call.op, ferryOpUnref);
    call = (ferryMigrationCall) { 0 };

    return rc;
}


/**
 * ferryMigrationStats:
 * @vm: domain, locked, with a job
 *
 * Fills in how far the mirrors are. Returns 1, 0 when there are none of ours,
 * or -1 with an error reported.
 */
int
ferryMigrationStats(virDomainObj *vm,
                    virDomainJobData *data)
{
    ferryOp *op = ferryMigrationFind(vm);
    g_autoptr(GPtrArray) jobs = NULL;

    if (!op)
        return 0;

    if (!(jobs = ferryJobList(op, "")))
        return -1;

    if (jobs->len > 0)
        ferryMigrationCount(jobs, data);
    return 1;
}


/**
 * ferryMigrationSetSpeed:
 * @bandwidth: bytes/s for all disks together; 0: unlimited
 *
 * Returns 0, also when no storage is on its way, or -1 with an error reported.
 */
int
ferryMigrationSetSpeed(virDomainObj *vm,
                       unsigned long long bandwidth)
{
    ferryOp *op = ferryMigrationFind(vm);
    g_autoptr(GPtrArray) jobs = NULL;

    if (!op)
        return 0;

    /* QEMU takes 0 for unlimited, too */
    ferryMigrationOf(op)->bandwidth = bandwidth;

    if (!(jobs = ferryJobList(op, "")))
        return -1;

    return ferryMigrationBalance(op, jobs);
}


/**
 * ferryMigrationAbort:
 * @vm: domain, locked; the stock driver is about to be told to abort its job
 *
 * Lets go of the destination first, if the memory moves by now: QEMU drains all
 * nodes when a migration is cancelled, and would wait for a network that is away.
 *
 * Returns true when that alone makes the migration fail.
 */
bool
ferryMigrationAbort(virDomainObj *vm)
{
    ferryOp *found = ferryMigrationFind(vm);
    g_autoptr(ferryOp) op = NULL;
    bool aborted = false;

    if (!found || !ferryPlanDone(found, &ferryMigrationStoragePlan) ||
        ferryPlanReached(found, &ferryMigrationFinishPlan, "disconnect"))
        return false;

    op = ferryOpRef(found);

    if (virDomainObjBeginJob(vm, VIR_JOB_ABORT) == 0) {
        if (!op->over && virDomainObjIsActive(vm)) {
            ferryMigrationOf(op)->aborted = true;
            ferryMigrationYank(op);
            aborted = true;
        }
        virDomainObjEndJob(vm);
    }

    virResetLastError();
    return aborted;
}
