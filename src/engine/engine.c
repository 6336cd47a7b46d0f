/*
 * engine.c: events, workers and recovery for the operations of all domains
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Events come in the monitor's thread, which must not wait. The monitor's thread
 * counts them and wakes up the thread that carries the operation on. When there is
 * no such thread it hands the operation to a worker, which takes the domain's job.
 *
 * After a restart of the driver the operations are read from the journals. If QEMU still
 * runs, they are recovered when the stock driver recovers its own jobs, else at start-up.
 */

#include <config.h>

#include "engine/engine.h"
#include "engine/job.h"
#include "engine/journal.h"
#include "engine/reap.h"
#include "engine/report.h"
#include "engine/retry.h"
#include "engine/wait.h"
#include "virerror.h"
#include "virlog.h"
#include "virthread.h"
#include "virtime.h"

VIR_LOG_INIT("ferry.engine");

/* How long the driver waits for operations when it stops. */
#define FERRY_STOP_MS 5000

/* Begins the name of an operation that has outlived its QEMU. */
#define FERRY_ENGINE_GONE "gone-"

static struct {
    virMutex lock; /* of the next three */
    bool running;
    size_t workers; /* A thread each, so that none waits for another one's storage. virThreadPool may
                     * start no thread when two works come at once. */
    size_t driven;  /* operations that a thread carries on, of all domains */
    virCond idle;   /* workers or driven became 0 */
    const ferryOpClass *const *classes;
} engine = { .lock = VIR_MUTEX_INITIALIZER, .idle = { .cond = PTHREAD_COND_INITIALIZER } };

typedef struct {
    virDomainObj *vm; /* NULL: look up the domain, and settle @op */
    ferryOp *op;
    unsigned char uuid[VIR_UUID_BUFLEN];
} ferryWork;


/**
 * ferryOpEnd:
 *
 * Ends an operation that is settled: removes it from the domain and from the journal, and
 * wakes up the threads that wait for it. Domain locked. The caller needs its own
 * reference to go on using @op.
 */
void
ferryOpEnd(ferryOp *op)
{
    virDomainObj *vm = op->vm;
    bool durable = op->durable;
    virErrorPtr err = NULL;

    op->over = true;
    ferryRetryCancel(op);

    if (!ferryOpRemove(op))
        return;

    /* else a driver that reads the journal after a power loss would undo the operation */
    virErrorPreserveLast(&err);
    if (ferryJournalWrite(vm, durable) < 0)
        VIR_WARN("journal of domain '%s' not updated: %s",
                 vm->def->name, virGetLastErrorMessage());
    virErrorRestore(&err);

    virDomainObjBroadcast(vm);
}


/**
 * ferryOpDrive:
 *
 * Until ferryOpRelease(), only this thread carries @op on, also while it waits without
 * the domain's job: events wake it up and start no worker. Domain locked, job held; no
 * other thread drives @op.
 */
void
ferryOpDrive(ferryOp *op)
{
    VIR_LOCK_GUARD lock = virLockGuardLock(&engine.lock);

    g_assert(!op->driven);
    op->driven = true;
    op->again = false;
    g_atomic_int_set(&op->events, 0);
    engine.driven++;
}


/**
 * ferryOpRelease:
 *
 * Ends ferryOpDrive(). This thread may not have handled all events that came meanwhile,
 * so a worker looks at @op if there were any. Domain locked.
 */
void
ferryOpRelease(ferryOp *op)
{
    op->driven = false;

    VIR_WITH_MUTEX_LOCK_GUARD(&engine.lock) {
        if (--engine.driven == 0)
            virCondBroadcast(&engine.idle);
    }

    if (!ferryOpIsLost(op) && (g_atomic_int_get(&op->events) > 0 || op->again))
        ignore_value(ferryEngineSubmit(op));

    ferryRetryUnfinished(op, ferryEngineSubmitAgain);
}


/* Goes on with @op, whose domain may be gone by now. */
static void
ferryWorkSettle(ferryOp *op,
                const unsigned char *uuid)
{
    virDomainObj *vm = virDomainObjListFindByUUID(op->driver->domains, uuid);
    bool sent = false;

    /* without the job, the stock driver may be in the middle of starting or ending QEMU */
    if (vm && op->stopped && virDomainObjBeginJob(vm, op->klass->job) == 0) {
        if (op->stopped && !op->over)
            op->klass->stopped(op);
        ferryDomainEndJob(vm);
    } else if (vm && !op->stopped && !op->over &&
               /* what is tried again does not wait for hours until a migration has ended */
               (!ferryRetryIsDue(op) || virDomainNestedJobAllowed(vm->job, op->klass->job))) {
        sent = ferryEngineSubmit(op) == 0;
    }

    if (vm && !sent)
        ferryRetryUnfinished(op, ferryEngineSubmitAgain);

    virResetLastError();
    ferryOpUnref(op);
    virDomainObjEndAPI(&vm);
}


static void
ferryWorkGoOn(virDomainObj *vm,
              ferryOp *op)
{
    virObjectLock(vm);

    if (ferryOpTakeJob(op)) {
        /* an event that comes from now on needs another worker */
        g_atomic_int_set(&op->queued, 0);

        if (op->driven) { /* whoever drives it looks once more */
            g_atomic_int_inc(&op->events);
            op->again = true;
        }

        if (!ferryOpIsLost(op) && !op->driven && virDomainObjIsActive(vm)) {
            ferryOpDrive(op);
            op->klass->jobChanged(op);
            ferryOpRelease(op);
        }
        ferryDomainEndJob(vm);
    }

    ferryOpUnref(op);
    virDomainObjEndAPI(&vm);
}


static void
ferryWorkRun(void *opaque)
{
    g_autofree ferryWork *work = opaque;

    if (work->vm)
        ferryWorkGoOn(work->vm, work->op);
    else
        ferryWorkSettle(work->op, work->uuid);

    VIR_WITH_MUTEX_LOCK_GUARD(&engine.lock) {
        if (--engine.workers == 0)
            virCondBroadcast(&engine.idle);
    }
}


/* Gives a worker @op to look at; @vm may be NULL, see ferryWork. Returns 0 or -1. */
static int
ferryEngineSend(virDomainObj *vm,
                ferryOp *op,
                const unsigned char *uuid)
{
    ferryWork *work;
    virThread thread;

    /* the driver is stopping; the next one finds the operation in the journal */
    if (!engine.running)
        return -1;

    work = g_new0(ferryWork, 1);
    work->vm = vm ? virObjectRef(vm) : NULL;
    work->op = ferryOpRef(op);
    memcpy(work->uuid, uuid, VIR_UUID_BUFLEN);

    if (virThreadCreateFull(&thread, /* joinable= */ false, ferryWorkRun, "ferry", /* worker= */ true, work) == 0) {
        engine.workers++;
        return 0;
    }

    VIR_ERROR(_("cannot start a thread for operation '%1$s' (%2$s): it goes on when its QEMU job changes, or "
                "the driver is started again"),
              op->name, g_strerror(errno));
    virObjectUnref(work->vm);
    ferryOpUnref(work->op);
    g_free(work);
    return -1;
}


/**
 * ferryEngineSubmit:
 *
 * Lets a worker call jobChanged of @op, as soon as the worker gets the domain's job, and
 * once for all calls until then. Domain locked; does not wait. Returns 0 or -1.
 */
int
ferryEngineSubmit(ferryOp *op)
{
    VIR_LOCK_GUARD lock = virLockGuardLock(&engine.lock);

    if (g_atomic_int_get(&op->queued))
        return 0;

    g_atomic_int_set(&op->queued, 1);

    if (ferryEngineSend(op->vm, op, op->vm->def->uuid) == 0)
        return 0;

    g_atomic_int_set(&op->queued, 0);
    return -1;
}


/**
 * ferryEngineSubmitAgain:
 * @op: could not go on, or be settled after the end of its QEMU, before its storage answered
 * @uuid: of its domain, which may be locked or gone: nothing of @op is looked at
 *
 * Lets a worker call stopped() of @op again, or jobChanged() if QEMU still runs. Does not wait.
 */
void
ferryEngineSubmitAgain(ferryOp *op,
                       const unsigned char *uuid)
{
    VIR_LOCK_GUARD lock = virLockGuardLock(&engine.lock);

    ignore_value(ferryEngineSend(/* vm= */ NULL, op, uuid));
}


/**
 * ferryEngineJobEvent:
 *
 * A QEMU job of @vm changed its state. Called in the monitor's thread with @vm locked.
 *
 * Returns true when the name of the job has our prefix.
 */
bool
ferryEngineJobEvent(virDomainObj *vm,
                    const char *jobname,
                    int status)
{
    GPtrArray *ops;
    size_t i;

    if (!g_str_has_prefix(jobname, FERRY_JOB_PREFIX))
        return false;

    ops = ferryOpList(vm);

    for (i = 0; ops && i < ops->len; i++) {
        ferryOp *op = g_ptr_array_index(ops, i);

        if (!ferryJobIsOf(op, jobname))
            continue;

        VIR_DEBUG("job=%s status=%d driven=%d", jobname, status, op->driven);

        if (!op->klass->jobMatters || !op->klass->jobMatters(op, status))
            continue;

        g_atomic_int_inc(&op->events);

        if (op->driven)
            virDomainObjBroadcast(vm);
        else
            ignore_value(ferryEngineSubmit(op));
    }

    return true;
}


/**
 * ferryEngineReconnected:
 *
 * The driver was restarted and found @vm's QEMU alive. Called with @vm locked and its job
 * held. Never fails: the stock driver would kill QEMU if it could not reconnect.
 */
void
ferryEngineReconnected(virDomainObj *vm)
{
    g_autoptr(GPtrArray) found = g_ptr_array_new_with_free_func((GDestroyNotify) ferryOpUnref);
    GPtrArray *ops = ferryOpList(vm);
    size_t known = ops ? ops->len : 0;
    size_t i;

    for (i = 0; engine.classes[i]; i++) {
        if (engine.classes[i]->revive)
            engine.classes[i]->revive(engine.classes[i], vm);
    }

    ops = ferryOpList(vm);

    if (ops && ops->len > known && ferryJournalWrite(vm, /* durable= */ true) < 0)
        VIR_WARN("domain '%s' is recovered without a journal: %s",
                 vm->def->name, virGetLastErrorMessage());

    /* recover() may remove operations from the list: copy it */
    for (i = 0; ops && i < ops->len; i++) {
        g_ptr_array_add(found, ferryOpRef(g_ptr_array_index(ops, i)));
        if (i >= known)
            ferryOpRecall(g_ptr_array_index(ops, i));
    }

    for (i = 0; i < found->len; i++) {
        ferryOp *op = g_ptr_array_index(found, i);

        /* of an earlier QEMU: see ferryEngineKeep() */
        if (op->stopped)
            continue;

        op->holdJob = true;
        op->klass->recover(op);
        op->holdJob = false;
        /* else that is for the worker */
        if (!g_atomic_int_get(&op->queued))
            ferryRetryUnfinished(op, ferryEngineSubmitAgain);
        ferryReportRecovered(op, vm->def->name);
    }

    ferryReapJobs(vm);
    virResetLastError();
}


/**
 * ferryEngineStopped:
 *
 * The QEMU process of the domain with private data @priv is gone, or the domain itself
 * is. Called with the domain locked. An operation that cannot be settled now stays in the
 * list of the domain: see settle.c.
 */
void
ferryEngineStopped(qemuDomainObjPrivate *priv)
{
    GPtrArray *ops = ferryOpListOf(priv);
    ferryOp *left;
    size_t i = 0;

    if (!ops)
        return;

    while (i < ops->len) {
        g_autoptr(ferryOp) op = ferryOpRef(g_ptr_array_index(ops, i));

        /* Left by an earlier QEMU. To settle it may mean to release the domain's lock: not before
         * QEMU's end is complete, or a definition that comes meanwhile would be lost. */
        if (op->stopped)
            ferryEngineSubmitAgain(op, op->vm->def->uuid);
        else
            op->klass->stopped(op);

        if (op->over) {
            ferryReportStopped(op);
        } else {
            op->stopped = true;
            ferryRetryUnfinished(op, ferryEngineSubmitAgain);
            i++;
        }
    }

    left = ops->len > 0 ? g_ptr_array_index(ops, 0) : NULL;
    if (!left)
        ferryOpListDrop(priv);
    else if (ferryJournalWrite(left->vm, /* durable= */ true) < 0)
        VIR_WARN("%s", virGetLastErrorMessage());
    virResetLastError();
}


/**
 * ferryEngineKeep:
 * @op: could not be settled after the end of its QEMU
 * @vm: its domain, locked, which runs another QEMU now or is about to
 *
 * Renames @op, so that it is not taken for an operation of the new QEMU. It is tried again
 * after a while (retry.c), when that QEMU has ended, and by the next driver.
 */
void
ferryEngineKeep(virDomainObj *vm,
                ferryOp *op)
{
    g_autofree char *name = g_steal_pointer(&op->name);

    if (g_str_has_prefix(name, FERRY_ENGINE_GONE))
        op->name = g_strdup(name);
    else
        op->name = g_strdup_printf(FERRY_ENGINE_GONE "%s", name);

    /* it has its own way by now; what leads a group later may have the same name */
    g_clear_pointer(&op->leader, g_free);

    VIR_WARN("domain '%s': operation '%s' of an earlier QEMU is not settled yet: %s",
             vm->def->name, name, virGetLastErrorMessage());
    virResetLastError();
}


/* Settles @op, which was read from a journal and whose QEMU does not run (any more). */
static void
ferryEngineLoadStopped(virDomainObj *vm,
                       const char *name,
                       ferryOp *op)
{
    op->vm = vm;
    op->stopped = true;
    op->klass->stopped(op);

    if (op->over)
        ferryReportRecovered(op, vm ? vm->def->name : name);

    if (!vm || op->over)
        return;

    if (vm->pid != 0)
        ferryEngineKeep(vm, op);
    ferryOpAdd(vm, op);
}


/* Reads a journal at start-up. If the QEMU that it is about still runs, its operations
 * wait until the driver reconnects or finds QEMU gone; else they are settled now. */
static void
ferryEngineLoad(const unsigned char *uuid,
                const char *name,
                void *opaque)
{
    virQEMUDriver *driver = opaque;
    virDomainObj *vm = virDomainObjListFindByUUID(driver->domains, uuid);
    g_autoptr(GPtrArray) ops = g_ptr_array_new_with_free_func((GDestroyNotify) ferryOpUnref);
    /* as qemuProcessReconnectHelper() decides whether to reconnect */
    bool running = vm && vm->pid != 0;
    g_autoptr(GPtrArray) stopped = g_ptr_array_new();
    bool left = false;
    size_t i;

    if (ferryJournalRead(driver, uuid, engine.classes, ops) < 0)
        goto cleanup;

    for (i = 0; i < ops->len; i++) {
        ferryOp *op = g_ptr_array_index(ops, i);

        if (running && !op->stopped && !ferryRunIsOther(&op->run, vm->pid)) {
            ferryOpAdd(vm, op);
            ferryOpRecall(op);
        } else {
            g_ptr_array_add(stopped, op);
        }
    }

    /* what these take back must not be what the others use */
    for (i = 0; i < stopped->len; i++) {
        ferryOp *op = g_ptr_array_index(stopped, i);

        ferryEngineLoadStopped(vm, name, op);
        left = left || !op->over;
    }

    /* the journal must not be written while one of them is not in the list */
    for (i = 0; i < stopped->len; i++)
        ferryRetryUnfinished(g_ptr_array_index(stopped, i), ferryEngineSubmitAgain);

    /* what waits for storage, the next driver tries again */
    if (!vm && !left)
        ferryJournalRemove(driver, uuid, /* durable= */ true);
    else if (vm && (stopped->len > 0 || ops->len == 0) && ferryJournalWrite(vm, /* durable= */ true) < 0)
        VIR_WARN("%s", virGetLastErrorMessage());
    virResetLastError();

cleanup:
    virDomainObjEndAPI(&vm);
}


/**
 * ferryEngineStart:
 * @driver: the driver, which has loaded its domains but reconnected to none of them
 * @classes: all operation classes; ends with NULL
 *
 * Returns 0, or -1 with an error reported.
 */
int
ferryEngineStart(virQEMUDriver *driver,
                 const ferryOpClass *const *classes)
{
    engine.classes = classes;
    ferryWaitStopAll(/* stop= */ false);
    ferryOpTableOpen();

    VIR_WITH_MUTEX_LOCK_GUARD(&engine.lock) {
        engine.running = true;
    }

    return ferryJournalForEach(driver, ferryEngineLoad, driver);
}


/* Waits a few seconds until @count, of the engine, is 0. Engine locked. Returns 0 or -1. */
static int
ferryEngineAwaitNone(const size_t *count)
{
    unsigned long long now;
    int rc = virTimeMillisNow(&now);

    while (rc == 0 && *count > 0)
        rc = virCondWaitUntil(&engine.idle, &engine.lock, now + FERRY_STOP_MS);

    return rc;
}


/**
 * ferryEnginePrepareStop:
 *
 * The driver is about to stop. Ends the waits of all threads that carry operations on, and
 * gives these threads a few seconds to leave QEMU alone: when the stock driver has stopped
 * the threads of its monitors, a command to QEMU gets no reply any more. No domain may be
 * locked by this thread.
 *
 * Returns 0, or -1 when a thread is still at work.
 */
int
ferryEnginePrepareStop(void)
{
    VIR_LOCK_GUARD lock = virLockGuardLock(&engine.lock);

    ferryWaitStopAll(/* stop= */ true);

    return ferryEngineAwaitNone(&engine.driven);
}


/**
 * ferryEngineStop:
 *
 * The driver stops. Operations stay in the journals and in QEMU. No domain may be locked.
 */
void
ferryEngineStop(void)
{
    int rc = ferryEnginePrepareStop();

    VIR_WITH_MUTEX_LOCK_GUARD(&engine.lock) {
        engine.running = false;

        /* they need the operations until they have ended */
        if (rc == 0)
            rc = ferryEngineAwaitNone(&engine.workers);
    }

    if (rc < 0)
        VIR_WARN("an operation hangs in QEMU or on storage and is left to the next driver");
    else
        ferryOpTableClose();
}
