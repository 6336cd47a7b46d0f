/*
 * wait.c: waits: for the QEMU jobs of an operation, and for anything else
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Whoever waits lets go of the domain's lock and (unless op->holdJob) of its job. An
 * event only ends a wait early: QEMU is asked again every second, so that an event
 * which was lost, with the daemon that should have received it or otherwise, costs a
 * second at most.
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

#define FERRY_WAIT_KILL_MS 30000


/**
 * ferryOpYield:
 *
 * Lets go of the domain's job, so that others get in, until ferryOpResume().
 * @op is driven by this thread: nobody else may go on with it meanwhile.
 */
void
ferryOpYield(ferryOp *op)
{
    /* whoever sees an event from now on must leave the operation to us */
    g_assert(op->driven || op->holdJob);

    if (!op->holdJob)
        virDomainObjEndJob(op->vm);
}


/**
 * ferryOpResume:
 *
 * Takes the domain's job again. Look at op->over afterwards.
 */
void
ferryOpResume(ferryOp *op)
{
    /* Without the job nothing may go on. Whoever holds it does so for a
     * bounded time, hence so do we. */
    while (!op->holdJob && virDomainObjBeginJob(op->vm, op->klass->job) < 0)
        VIR_WARN("still waiting for the job of domain '%s': %s",
                 op->vm->def->name, virGetLastErrorMessage());
}


/**
 * ferryOpSleep:
 * @timeout: milliseconds
 *
 * Sleeps until something about @op's domain changes, at most for @timeout,
 * without the domain's job. Look at op->over afterwards.
 *
 * Returns 0, or -1 with an error reported.
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
    ferryOpResume(op);

    return MIN(rc, 0);
}


/**
 * ferryAsyncEnter:
 * @vm: domain, locked, with an asynchronous job that this thread owns and that
 *      lets @job in
 *
 * Takes @job for an operation, whose waits give it back and take it again; they
 * must not find the thread to be the owner of the asynchronous one meanwhile.
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
 * Ends ferryAsyncEnter().
 */
void
ferryAsyncLeave(virDomainObj *vm)
{
    virDomainObjEndJob(vm);

    qemuDomainObjStartJobPhase(vm, vm->job->phase);
}


static int
ferryJobCheckAlive(ferryOp *op,
                   const char *what)
{
    if (!op->over && virDomainObjIsActive(op->vm) && !QEMU_DOMAIN_PRIVATE(op->vm)->beingDestroyed)
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


/* Waits until @done is true of all jobs of that name, or those whose names begin
 * so, and returns them: none, if QEMU knows none. */
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
        unsigned int events = op->events;
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
                           _("job '%1$s' of domain '%2$s' did not get on within %3$u ms"),
                           name, op->vm->def->name, timeout);
            return NULL;
        }

        if (events == op->events &&
            ferryOpSleep(op, MIN(deadline - now, FERRY_WAIT_REQUERY_MS)) < 0)
            return NULL;
    }
}


/**
 * ferryJobWait:
 * @jobname: job of @op
 * @states: FERRY_JOB_STATE()s that end the wait, besides the job being unknown
 * @timeout: longest wait in milliseconds, 0 for as long as QEMU lives
 * @info: filled with the job's state
 *
 * Waits with neither the domain's lock nor (unless op->holdJob) its job held;
 * has both again when it returns. Ends when QEMU dies.
 *
 * Returns 0 with @info filled, or -1 with an error reported; op->over then
 * tells whether the operation was settled meanwhile.
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
 * @what: begin of the names, as for ferryJobName()
 * @timeout: longest wait in milliseconds, 0 for as long as QEMU lives
 * @done: tells whether the jobs, an array of qemuMonitorJobInfo, are as wanted
 *
 * Waits as ferryJobWait() does; looks at the jobs once a second at least.
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
    g_autofree char *prefix = ferryJobName(op, what);

    return ferryJobAwait(op, prefix, FERRY_JOBS_BELOW, timeout, done, opaque);
}


/**
 * ferryJobConclude:
 * @what: begin of their names, as for ferryJobName()
 * @jobs: all of them, concluded
 * @failed: set to the rest of the name of a job that failed
 * @error: set to why it did; NULL when none did
 *
 * Dismisses them.
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
 * @what: begin of the names, as for ferryJobName()
 * @timeout: longest wait in milliseconds
 * @failed, @error: as for ferryJobConclude()
 *
 * Waits, as ferryJobWait() does, until all these jobs have concluded, and
 * dismisses them.
 *
 * Returns 0, or -1 with an error reported when they would not end.
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


/**
 * ferryJobKill:
 *
 * Makes sure that QEMU knows no job @jobname any more: cancels it by force,
 * waits for its end and dismisses it.
 *
 * Returns 0, or -1 with an error reported when it would not end.
 */
int
ferryJobKill(ferryOp *op,
             const char *jobname)
{
    g_auto(ferryJobInfo) info = { 0 };

    if (ferryJobQuery(op, jobname, &info) < 0)
        return -1;

    if (info.status != QEMU_MONITOR_JOB_STATUS_UNKNOWN &&
        info.status != QEMU_MONITOR_JOB_STATUS_CONCLUDED) {
        ferryJobCancel(op, jobname);

        if (ferryJobWait(op, jobname, FERRY_JOB_STATE(CONCLUDED), FERRY_WAIT_KILL_MS, &info) < 0)
            return -1;
    }

    if (info.status == QEMU_MONITOR_JOB_STATUS_CONCLUDED)
        ferryJobDismiss(op, jobname);
    return 0;
}


/**
 * ferryJobKillAll:
 * @what: begin of the names, as for ferryJobName()
 * @known: these jobs, as ferryJobList() returned them a moment ago; or NULL
 *
 * ferryJobKill() for all jobs of @op whose name begins so: all are told to end
 * before the first one is waited for.
 *
 * Returns 0, or -1 with an error reported when one would not end.
 */
int
ferryJobKillAll(ferryOp *op,
                const char *what,
                GPtrArray *known)
{
    g_autoptr(GPtrArray) jobs = known ? g_ptr_array_ref(known) : ferryJobList(op, what);
    g_autofree char *failed = NULL;
    g_autofree char *error = NULL;
    size_t i;

    if (!jobs)
        return -1;

    if (jobs->len == 0)
        return 0;

    for (i = 0; i < jobs->len; i++) {
        qemuMonitorJobInfo *job = g_ptr_array_index(jobs, i);

        if (job->status != QEMU_MONITOR_JOB_STATUS_CONCLUDED)
            ferryJobCancel(op, job->id);
    }

    return ferryJobWaitAll(op, what, FERRY_WAIT_KILL_MS, &failed, &error);
}
