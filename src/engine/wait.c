/*
 * wait.c: wait for the QEMU jobs of an operation, or for a change of its domain
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A waiting thread releases the domain's lock and (unless op->holdJob) its job. An event
 * only ends a wait early: the thread queries QEMU every second, so that a lost event (the
 * daemon was restarted, for example) costs one second at most.
 */

#include <config.h>

#include "engine/wait.h"
#include "qemu/qemu_domainjob.h"
#include "virerror.h"
#include "virlog.h"
#include "virtime.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.wait");

#define FERRY_WAIT_REQUERY_MS 1000

/* How long a cancelled job may take to end. Nobody else gets at the domain while its job is
 * kept. */
#define FERRY_WAIT_KILL_MS 30000
#define FERRY_WAIT_KILL_KEPT_MS 5000

/* Not 0: the driver is about to end (atomic). */
static int stopping;


/**
 * ferryWaitStopAll:
 * @stop: end all waits, or allow waits again
 *
 * When the driver is about to end no wait may hold it up. Waiting threads notice within
 * a second. They leave their operations as they are, for the next driver to recover.
 * Locks nothing.
 */
void
ferryWaitStopAll(bool stop)
{
    g_atomic_int_set(&stopping, stop);
}


/**
 * ferryOpIsLost:
 *
 * Returns true when this thread must not do anything about @op any more: the operation
 * was settled while the thread waited, its domain was removed, or the driver is about to
 * end. The thread may not hold the domain's job then.
 */
bool
ferryOpIsLost(ferryOp *op)
{
    return op->over || op->stopped || op->vm->removing || g_atomic_int_get(&stopping);
}


/**
 * ferryOpReportLost:
 *
 * Reports why @op, which ferryOpIsLost(), does not go on.
 */
void
ferryOpReportLost(ferryOp *op)
{
    if (g_atomic_int_get(&stopping))
        virReportError(VIR_ERR_OPERATION_ABORTED,
                       _("the driver is about to end; what was begun on domain '%1$s' is "
                         "settled when it starts again"),
                       op->vm->def->name);
    else
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("domain '%1$s' ended meanwhile"), op->vm->def->name);
}


/**
 * ferryOpTakeJob:
 *
 * Takes the domain's job for @op, however long other threads hold it. Domain locked; the
 * lock is released while this waits.
 *
 * Returns true with the job held. Returns false without the job, when @op is lost.
 */
bool
ferryOpTakeJob(ferryOp *op)
{
    virDomainObj *vm = op->vm;
    unsigned long long now;

    while (!ferryOpIsLost(op)) {
        if (virDomainObjBeginJob(vm, op->klass->job) == 0)
            return true;

        if (ferryOpIsLost(op))
            break;

        VIR_WARN("operation '%s' still waits for the job of domain '%s': %s",
                 op->name, vm->def->name, virGetLastErrorMessage());
        virResetLastError();

        /* too many jobs are queued, say: BeginJob did not wait */
        if (virTimeMillisNow(&now) < 0 ||
            virDomainObjWaitUntil(vm, now + FERRY_WAIT_REQUERY_MS) < 0)
            break;
    }

    virResetLastError();
    return false;
}


/**
 * ferryDomainHasJob:
 *
 * Returns true if this thread holds the job of @vm, which is locked.
 */
bool
ferryDomainHasJob(virDomainObj *vm)
{
    return vm->job->active != VIR_JOB_NONE && vm->job->owner == virThreadSelfID();
}


/**
 * ferryDomainEndJob:
 *
 * Ends the job of @vm, which is locked, if this thread still holds it: a wait does not
 * get the job back when the domain is removed, or the driver ends, meanwhile. Every
 * thread that has called something which waits must end its job by this function.
 */
void
ferryDomainEndJob(virDomainObj *vm)
{
    if (ferryDomainHasJob(vm))
        virDomainObjEndJob(vm);
}


/**
 * ferryOpYield:
 *
 * Releases the domain's job (unless op->holdJob) until ferryOpResume(). This thread must
 * drive @op, so that no worker goes on with @op meanwhile. Domain locked.
 */
void
ferryOpYield(ferryOp *op)
{
    /* an event that comes from now on must not let a worker take the operation */
    g_assert(op->driven || op->holdJob);

    if (!op->holdJob)
        ferryDomainEndJob(op->vm);
}


/**
 * ferryOpResume:
 *
 * Takes the domain's job again and may release the lock meanwhile.
 *
 * Returns 0, or -1 with an error reported when @op is lost: the thread has no job then,
 * must leave QEMU and @op alone, and return to its caller.
 */
int
ferryOpResume(ferryOp *op)
{
    if (!op->holdJob)
        ignore_value(ferryOpTakeJob(op));

    if (!ferryOpIsLost(op))
        return 0;

    ferryOpReportLost(op);
    return -1;
}


/**
 * ferryOpSleep:
 * @timeout: milliseconds
 *
 * Releases the domain's lock and (unless op->holdJob) its job, and sleeps until the
 * domain is signalled or @timeout is over. Takes both again, unless @op is lost.
 *
 * Returns 0, also after @timeout, or -1 with an error reported: check ferryOpIsLost().
 */
int
ferryOpSleep(ferryOp *op,
             unsigned int timeout)
{
    unsigned long long now;
    int rc;

    if (virTimeMillisNow(&now) < 0)
        return -1;

    ferryOpYield(op);
    rc = virDomainObjWaitUntil(op->vm, now + timeout);

    return ferryOpResume(op) < 0 || rc < 0 ? -1 : 0;
}


/**
 * ferryOpAwaitEnd:
 * @op: driven by another thread, which is about to end it; the caller has a reference
 *
 * Waits without the domain's job until the operation is over. Domain locked.
 *
 * Returns 0, or -1 with an error reported when the operation will not end by that thread.
 * This thread may not have the domain's job any more.
 */
int
ferryOpAwaitEnd(ferryOp *op)
{
    unsigned long long now;

    ferryDomainEndJob(op->vm);

    while (!ferryOpIsLost(op) && op->driven && virTimeMillisNow(&now) == 0) {
        if (virDomainObjWaitUntil(op->vm, now + FERRY_WAIT_REQUERY_MS) < 0)
            break;
    }

    if (op->over)
        return 0;

    virReportError(VIR_ERR_OPERATION_FAILED,
                   _("operation '%1$s' of domain '%2$s' has not ended; look at it again"),
                   op->name, op->vm->def->name);
    return -1;
}


/**
 * ferryAsyncEnter:
 * @vm: domain, locked; this thread owns its asynchronous job, whose mask allows @job
 *
 * Takes @job, which waits of an operation release and take again. This thread does not
 * own the asynchronous job until ferryAsyncLeave(), since libvirt warns when the owner
 * enters the monitor without a nested job.
 *
 * Returns 0, or -1 with an error reported and everything as it was.
 */
int
ferryAsyncEnter(virDomainObj *vm,
                virDomainJob job)
{
    qemuDomainObjReleaseAsyncJob(vm);

    if (virDomainObjBeginJob(vm, job) == 0)
        return 0;

    qemuDomainObjStartJobPhase(vm, vm->job->phase);
    return -1;
}


/**
 * ferryAsyncLeave:
 *
 * Ends the job that ferryAsyncEnter() took; this thread owns the asynchronous job again.
 */
void
ferryAsyncLeave(virDomainObj *vm)
{
    ferryDomainEndJob(vm);

    qemuDomainObjStartJobPhase(vm, vm->job->phase);
}


static int
ferryJobCheckAlive(ferryOp *op,
                   const char *what)
{
    if (!ferryOpIsLost(op) && virDomainObjIsActive(op->vm) &&
        !QEMU_DOMAIN_PRIVATE(op->vm)->beingDestroyed)
        return op->klass->mayWait && !op->undoing ? op->klass->mayWait(op) : 0;

    virReportError(VIR_ERR_OPERATION_FAILED,
                   _("domain stopped while waiting for job '%1$s'"), what);
    return -1;
}


static bool
ferryJobAllIn(GPtrArray *jobs,
              void *opaque)
{
    unsigned int states = *(unsigned int *) opaque;
    size_t i;

    for (i = 0; i < jobs->len; i++) {
        qemuMonitorJobInfo *job = g_ptr_array_index(jobs, i);

        if (!(states & (1U << job->status)))
            return false;
    }

    return true;
}


/* Returns a number that changes when one of the jobs does that @match selects. */
static int
ferryJobEvents(ferryOp *op,
               ferryJobMatch match)
{
    GPtrArray *ops = match == FERRY_JOBS_ALL ? ferryOpList(op->vm) : NULL;
    int events = 0;
    size_t i;

    if (!ops)
        return g_atomic_int_get(&op->events);

    for (i = 0; i < ops->len; i++)
        events += g_atomic_int_get(&((ferryOp *) g_ptr_array_index(ops, i))->events);

    return events;
}


/* Waits until @done returns true for the jobs that @name and @match select. Returns these
 * jobs (an empty array if QEMU knows none), or NULL with an error reported. */
static GPtrArray *
ferryJobAwait(ferryOp *op,
              const char *name,
              ferryJobMatch match,
              unsigned int timeout,
              ferryJobsDone done,
              void *opaque)
{
    unsigned long long deadline = ULLONG_MAX;

    if (timeout > 0) {
        if (virTimeMillisNow(&deadline) < 0)
            return NULL;
        deadline += timeout;
    }

    while (true) {
        int events = ferryJobEvents(op, match);
        g_autoptr(GPtrArray) jobs = NULL;
        unsigned long long now;

        if (ferryJobCheckAlive(op, name) < 0 || !(jobs = ferryJobFind(op, name, match)))
            return NULL;

        if (done(jobs, opaque))
            return g_steal_pointer(&jobs);

        if (virTimeMillisNow(&now) < 0)
            return NULL;

        if (now >= deadline) {
            virReportError(VIR_ERR_OPERATION_TIMEOUT,
                           _("job '%1$s' of domain '%2$s' did not reach the next state within %3$u ms"),
                           name, op->vm->def->name, timeout);
            return NULL;
        }

        if (events == ferryJobEvents(op, match) &&
            ferryOpSleep(op, MIN(deadline - now, FERRY_WAIT_REQUERY_MS)) < 0)
            return NULL;
    }
}


/**
 * ferryJobWait:
 * @jobname: job of @op
 * @states: FERRY_JOB_STATE()s that end the wait; so does a job that QEMU does not know
 * @timeout: longest wait in milliseconds, 0 for as long as QEMU lives
 * @info: filled with the job's state
 *
 * Releases the domain's lock and (unless op->holdJob) its job during the wait, and takes
 * both again, unless the operation is lost. The wait ends when QEMU dies.
 *
 * Returns 0 with @info filled, or -1 with an error reported: check ferryOpIsLost().
 */
int
ferryJobWait(ferryOp *op,
             const char *jobname,
             unsigned int states,
             unsigned int timeout,
             ferryJobInfo *info)
{
    g_autoptr(GPtrArray) jobs = ferryJobAwait(op, jobname, FERRY_JOB_NAMED, timeout, ferryJobAllIn, &states);

    if (!jobs)
        return -1;

    ferryJobInfoFill(info, jobs);
    return 0;
}


/**
 * ferryJobWaitUntil:
 * @what: beginning of the job names, as for ferryJobName(); NULL: all jobs of ours in the domain
 * @timeout: longest wait in milliseconds, 0 for as long as QEMU lives
 * @done: returns true when the jobs, an array of qemuMonitorJobInfo, are as wanted
 *
 * Waits like ferryJobWait(), and queries the jobs at least once a second.
 *
 * Returns the jobs, or NULL with an error reported.
 */
GPtrArray *
ferryJobWaitUntil(ferryOp *op,
                  const char *what,
                  unsigned int timeout,
                  ferryJobsDone done,
                  void *opaque)
{
    g_autofree char *prefix = what ? ferryJobName(op, what) : g_strdup(FERRY_JOB_PREFIX);

    return ferryJobAwait(op, prefix, what ? FERRY_JOBS_BELOW : FERRY_JOBS_ALL, timeout, done, opaque);
}


/**
 * ferryJobConclude:
 * @what: beginning of the job names, as for ferryJobName()
 * @jobs: array of qemuMonitorJobInfo; all of these jobs have concluded
 * @failed: set to the rest of the name of the first job that failed
 * @error: *error must be NULL; set to the error of that job
 *
 * Dismisses @jobs. The caller frees both strings. Domain locked, job held.
 */
void
ferryJobConclude(ferryOp *op,
                 const char *what,
                 GPtrArray *jobs,
                 char **failed,
                 char **error)
{
    g_autofree char *prefix = ferryJobName(op, what);
    size_t i;

    for (i = 0; i < jobs->len; i++) {
        qemuMonitorJobInfo *job = g_ptr_array_index(jobs, i);

        if (job->error && !*error) {
            *error = g_strdup(job->error);
            *failed = g_strdup(job->id + strlen(prefix));
        }
        ferryJobDismiss(op, job->id);
    }
}


/**
 * ferryJobWaitAll:
 * @what: beginning of the job names, as for ferryJobName()
 * @timeout: longest wait in milliseconds, 0 for as long as QEMU lives
 * @failed, @error: as for ferryJobConclude()
 *
 * Waits like ferryJobWait() until all these jobs have concluded, and dismisses them.
 *
 * Returns 0 even if a job failed, or -1 with an error reported when they did not end.
 */
int
ferryJobWaitAll(ferryOp *op,
                const char *what,
                unsigned int timeout,
                char **failed,
                char **error)
{
    g_autofree char *prefix = ferryJobName(op, what);
    unsigned int states = FERRY_JOB_STATE(CONCLUDED);
    g_autoptr(GPtrArray) jobs = ferryJobAwait(op, prefix, FERRY_JOBS_BELOW, timeout, ferryJobAllIn, &states);

    if (!jobs)
        return -1;

    ferryJobConclude(op, what, jobs, failed, error);
    return 0;
}


/* Waits until the cancelled jobs that @name and @match select have concluded. Returns
 * them, or NULL with an error reported. If they do not end, their undo must be repeated
 * when they do (op->stuck). */
static GPtrArray *
ferryJobAwaitEnd(ferryOp *op,
                 const char *name,
                 ferryJobMatch match)
{
    unsigned int states = FERRY_JOB_STATE(CONCLUDED);
    unsigned int timeout = op->holdJob ? FERRY_WAIT_KILL_KEPT_MS : FERRY_WAIT_KILL_MS;
    GPtrArray *jobs = ferryJobAwait(op, name, match, timeout, ferryJobAllIn, &states);

    if (!jobs && !ferryOpIsLost(op))
        op->stuck = true;

    return jobs;
}


/* Cancels those of @jobs that run. */
static void
ferryJobCancelAll(ferryOp *op,
                  GPtrArray *jobs)
{
    size_t i;

    for (i = 0; i < jobs->len; i++) {
        qemuMonitorJobInfo *job = g_ptr_array_index(jobs, i);

        if (job->status != QEMU_MONITOR_JOB_STATUS_CONCLUDED)
            ferryJobCancel(op, job);
    }
}


/**
 * ferryJobKill:
 *
 * Makes sure that QEMU has no job @jobname any more: cancels the job by force, waits for
 * its end and dismisses it. Domain locked, job held.
 *
 * Returns 0, or -1 with an error reported when the job does not end; op->stuck is set
 * then.
 */
int
ferryJobKill(ferryOp *op,
             const char *jobname)
{
    g_autoptr(GPtrArray) jobs = ferryJobFind(op, jobname, FERRY_JOB_NAMED);
    g_autoptr(GPtrArray) ended = NULL;

    if (!jobs)
        return -1;

    if (jobs->len == 0)
        return 0;

    if (((qemuMonitorJobInfo *) g_ptr_array_index(jobs, 0))->status !=
        QEMU_MONITOR_JOB_STATUS_CONCLUDED) {
        ferryJobCancelAll(op, jobs);

        if (!(ended = ferryJobAwaitEnd(op, jobname, FERRY_JOB_NAMED)))
            return -1;

        if (ended->len == 0)
            return 0;
    }

    ferryJobDismiss(op, jobname);
    return 0;
}


/**
 * ferryJobKillAll:
 * @what: beginning of the names, as for ferryJobName()
 * @known: these jobs, as ferryJobList() has just returned them; or NULL
 *
 * Like ferryJobKill() for all jobs of @op whose names begin so: all are cancelled before
 * the first one is waited for.
 *
 * Returns 0, or -1 with an error reported when a job does not end; op->stuck is set then.
 */
int
ferryJobKillAll(ferryOp *op,
                const char *what,
                GPtrArray *known)
{
    g_autoptr(GPtrArray) jobs = known ? g_ptr_array_ref(known) : ferryJobList(op, what);
    g_autoptr(GPtrArray) ended = NULL;
    g_autofree char *prefix = ferryJobName(op, what);
    g_autofree char *failed = NULL;
    g_autofree char *error = NULL;

    if (!jobs)
        return -1;

    if (jobs->len == 0)
        return 0;

    ferryJobCancelAll(op, jobs);

    if (!(ended = ferryJobAwaitEnd(op, prefix, FERRY_JOBS_BELOW)))
        return -1;

    ferryJobConclude(op, what, ended, &failed, &error);
    return 0;
}
