/*
 * perform.c: storage migration: what the perform phase calls
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Most of these functions run within the stock perform phase: see source.c. Why `call` is
 * thread-local: our entry ferryDomainMigratePerform3Params() has the client's request,
 * but the work is done in seams (hook/seams.c). Stock functions call the seams in the
 * same thread while the stock entry runs, and pass only the domain and migration
 * parameters, or a monitor. So only the thread can take the request there and bring the
 * operation, with its error, back: an operation that has ended is off the domain's list.
 *
 * ferryMigrationPerformBegin() sets `call` just before our entry calls the stock entry,
 * ferryMigrationCopyStorage() adds the operation, and ferryMigrationPerformEnd() clears
 * `call` when the stock entry has returned. While it is empty the seams add nothing.
 */

#include <config.h>

#include "block/active.h"
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

/* Bytes in flight of all mirrors together, and the least of one mirror. QEMU frees these
 * buffers while the guest is paused (6 ms for 64 MiB), so they only keep the connections
 * busy. Over TCP that takes twice as much if the server has no TCP_NODELAY. */
#define FERRY_MIGRATION_BUF_SIZE (32ULL * 1024 * 1024)
#define FERRY_MIGRATION_BUF_SIZE_DELAYED (64ULL * 1024 * 1024)
#define FERRY_MIGRATION_BUF_SIZE_MIN (4ULL * 1024 * 1024)

/* The perform phase that this thread runs, if any. */
typedef struct {
    const ferryMigrationRequest *req; /* borrowed; NULL outside the phase */
    ferryOp *op;                      /* reference; NULL until the mirrors are started */
    bool arrived;                     /* the stock driver knows that QEMU waits for the switchover */
    bool tried;                       /* ferryMigrationFinishPlan was run, with or without success */
} ferryMigrationCall;

static __thread ferryMigrationCall call;


/* Sets where the destination's exports are, in @migration and for each disk. */
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
        if (qemuSecurityDomainSetPathLabel(driver, vm, req->address.socket,
                                           /* allowSubtree= */ false) < 0)
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
        if (ferryMigrationDetectsZeroes(req, disk->dst))
            ours->target->detect_zeroes = VIR_DOMAIN_DISK_DETECT_ZEROES_UNMAP;
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
 * To be called before the stock perform phase, which is not given the flags for storage.
 * Borrows @req until ferryMigrationPerformEnd().
 */
void
ferryMigrationPerformBegin(const ferryMigrationRequest *req)
{
    call = (ferryMigrationCall) { .req = req };
}


/**
 * ferryMigrationCopyStorage:
 * @vm: domain, locked, with the asynchronous job of a migration that this thread owns
 *
 * Runs ferryMigrationStoragePlan. Returns 0 when all mirrors are READY or Ferry migrates
 * no disks here, or -1 with an error reported and the plan undone.
 */
int
ferryMigrationCopyStorage(virDomainObj *vm,
                          qemuMigrationParams *params)
{
    ferryMigration *migration;
    ferryOp *earlier;
    int rc = -1;

    if (!call.req || call.op)
        return 0;

    if (!(migration = ferryMigrationPrepare(vm, call.req, params)))
        return -1;

    /* the disks were unplugged since the entry looked, before the stock phase began */
    if (migration->ndisks == 0) {
        ferryMigrationFree(migration);
        return 0;
    }

    if (ferryAsyncEnter(vm, ferryMigrationClass.job) < 0) {
        ferryMigrationFree(migration);
        return -1;
    }

    if ((earlier = ferryOpFind(vm, FERRY_MIGRATION_NAME))) {
        if (!earlier->driven)
            ignore_value(ferryEngineSubmit(earlier));
        virReportError(VIR_ERR_OPERATION_INVALID,
                       _("what an earlier migration of domain '%1$s' has left is not taken back yet: try again"),
                       vm->def->name);
    }

    if (earlier || ferryActiveTake(vm) < 0) {
        ferryMigrationFree(migration);
        ferryAsyncLeave(vm);
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
 * @vm: domain, locked; the stock driver is about to send QEMU a command
 *
 * Completes all mirrors if the guest is paused and the command is to switch over. Returns
 * 0, or -1 with an error reported.
 */
int
ferryMigrationSwitchOver(virDomainObj *vm)
{
    ferryMigration *migration;
    int rc;

    if (!ferryMigrationIsOn(vm) || call.tried ||
        vm->job->current->status != VIR_DOMAIN_JOB_STATUS_PAUSED)
        return 0;

    /* The first command in this state asks for statistics. The stock driver ignores its
     * failure, and would use job data that are freed if QEMU ends while we wait. */
    if (!call.arrived || virDomainObjGetState(vm, /* reason= */ NULL) == VIR_DOMAIN_RUNNING) {
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
        /* the stock driver cancels the migration next, and QEMU then drains all nodes */
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
 * Returns 0, or -1 with an error reported if the migration has failed: then the guest may
 * have stopped and resumed already, and the wait would not end.
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
 * This thread is about to tell QEMU to switch over; the monitor is locked. Returns 0, or
 * -1 with an error reported if disks that Ferry migrates have not arrived.
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
 * Undoes what was done for the disks, unless the operation has ended. Keeps the last error.
 */
void
ferryMigrationGiveUp(virDomainObj *vm)
{
    virErrorPtr err = NULL;

    if (!ferryMigrationIsOn(vm))
        return;

    virErrorPreserveLast(&err);

    if (ferryAsyncEnter(vm, ferryMigrationClass.job) == 0) {
        /* a worker may be at it, since a job ended late */
        if (!call.op->over && !call.op->driven) {
            ferryOpDrive(call.op);
            ferryMigrationTakeBack(call.op);
            ferryOpRelease(call.op);
        }
        ferryAsyncLeave(vm);
    } else if (!call.op->over) {
        call.op->stuck = true;
        ignore_value(ferryEngineSubmit(call.op));
    }

    virErrorRestore(&err);
}


/**
 * ferryMigrationPerformEnd:
 *
 * Ends what ferryMigrationPerformBegin() began. Returns @rc, the stock perform phase's
 * result. If that failed because the disks did, the error reported is the disks'.
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
 *
 * Fills @data with the progress of the mirrors. @vm is locked, with a job. Returns 1, 0
 * if Ferry migrates no disks of @vm, or -1 with an error reported.
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
 * @vm locked, job held. Returns 0, also if no disk moves, or -1 with an error reported.
 */
int
ferryMigrationSetSpeed(virDomainObj *vm,
                       unsigned long long bandwidth)
{
    /* borrowed: nobody can end the operation while this thread holds the domain's job */
    ferryOp *op = ferryMigrationFind(vm);
    g_autoptr(GPtrArray) jobs = NULL;

    if (!op)
        return 0;

    ferryMigrationOf(op)->bandwidth = bandwidth;

    if (!(jobs = ferryJobList(op, "")))
        return -1;

    return ferryMigrationBalance(op, jobs);
}


/**
 * ferryMigrationAbort:
 * @vm: domain, locked; the stock driver is about to be told to abort its job
 *
 * Once the memory moves, cuts the connections of the mirrors first: QEMU drains all nodes
 * when a migration is cancelled, and would wait for requests to a lost destination.
 * Returns true if it did, which alone makes the migration fail.
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
        ferryDomainEndJob(vm);
    }

    virResetLastError();
    return aborted;
}


/**
 * ferryMigrationLasts:
 * @vm: domain, locked; its asynchronous job is that of a migration from here
 *
 * Returns 1 if a storage migration keeps that job for long, 0 if it is switching over or ending,
 * -1 if there is none.
 */
int
ferryMigrationLasts(virDomainObj *vm)
{
    ferryOp *op = ferryMigrationFind(vm);

    if (!op)
        return -1;

    return !ferryOpIsLost(op) && !op->undoing && !vm->job->abortJob &&
           !ferryMigrationOf(op)->aborted && !ferryMigrationOf(op)->error &&
           *ferryPlanProgress(op, &ferryMigrationFinishPlan) == 0;
}
