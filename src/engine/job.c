/*
 * job.c: the QEMU jobs of an operation
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * All our jobs are started with auto-dismiss off, so that QEMU remembers how a job ended
 * until it is told to forget the job. The state of a job always comes from a query: an
 * event only says that it is time to query. wait.c waits for jobs.
 */

#include <config.h>

#include "block/qmp.h"
#include "engine/job.h"
#include "virerror.h"

/* Key of the object data that marks a monitor as disconnected. */
#define FERRY_JOB_LOST "ferry-connection-lost"


void
ferryJobInfoClear(ferryJobInfo *info)
{
    g_clear_pointer(&info->error, g_free);
    info->status = QEMU_MONITOR_JOB_STATUS_UNKNOWN;
}


/**
 * ferryJobConnectionLost:
 *
 * Marks @mon as disconnected. Called by the thread whose command got no reply.
 */
void
ferryJobConnectionLost(qemuMonitor *mon)
{
    g_object_set_data(G_OBJECT(mon), FERRY_JOB_LOST, GINT_TO_POINTER(true));
}


/* A job that is paused meanwhile (a drain) is in "standby". */
bool
ferryJobStatusIsReady(qemuMonitorJobStatus status)
{
    return status == QEMU_MONITOR_JOB_STATUS_READY ||
           status == QEMU_MONITOR_JOB_STATUS_STANDBY;
}


/**
 * ferryJobQEMUReachable:
 *
 * Returns false once the connection to QEMU is broken. QEMU may still run until the
 * driver kills it, or a restarted driver may connect to it again.
 */
bool
ferryJobQEMUReachable(ferryOp *op)
{
    qemuMonitor *mon = qemuDomainGetMonitor(op->vm);
    g_autoptr(virError) err = mon ? qemuMonitorLastError(mon) : NULL;

    return mon && !err && !g_object_get_data(G_OBJECT(mon), FERRY_JOB_LOST);
}


/**
 * ferryJobName:
 *
 * Returns the name of the job of @op for @what. The name begins with a prefix that stock
 * jobs do not have and with the name of the operation. The caller frees it.
 */
char *
ferryJobName(ferryOp *op,
             const char *what)
{
    return g_strdup_printf(FERRY_JOB_PREFIX "%s-%s", op->name, what);
}


/**
 * ferryJobIsOf:
 *
 * Returns whether the QEMU job @jobname is one of @op's, as ferryJobName() names them.
 */
bool
ferryJobIsOf(ferryOp *op,
             const char *jobname)
{
    g_autofree char *prefix = ferryJobName(op, "");

    return g_str_has_prefix(jobname, prefix);
}


/* Asks QEMU for the jobs that @name and @match select. If the query fails, repeats it:
 * a job that we fail to list would go on unsupervised. */
GPtrArray *
ferryJobFind(ferryOp *op,
             const char *name,
             ferryJobMatch match)
{
    g_autoptr(GPtrArray) found = g_ptr_array_new_with_free_func((GDestroyNotify) qemuMonitorJobInfoFree);
    qemuMonitorJobInfo **jobs = NULL;
    size_t njobs = 0;
    size_t i;
    int rc;

    qemuDomainObjEnterMonitor(op->vm);
    if ((rc = qemuMonitorGetJobInfo(qemuDomainGetMonitor(op->vm), &jobs, &njobs)) < 0 &&
        (rc = qemuMonitorGetJobInfo(qemuDomainGetMonitor(op->vm), &jobs, &njobs)) == 0)
        virResetLastError();
    qemuDomainObjExitMonitor(op->vm);

    for (i = 0; i < njobs; i++) {
        if (match == FERRY_JOB_NAMED ? STREQ(jobs[i]->id, name) : g_str_has_prefix(jobs[i]->id, name))
            g_ptr_array_add(found, jobs[i]);
        else
            qemuMonitorJobInfoFree(jobs[i]);
    }
    g_free(jobs);

    return rc < 0 ? NULL : g_steal_pointer(&found);
}


/**
 * ferryJobList:
 * @what: beginning of the job names, as for ferryJobName()
 *
 * Asks QEMU for these jobs of @op. Domain locked, job held.
 *
 * Returns an array of qemuMonitorJobInfo, or NULL with an error reported.
 */
GPtrArray *
ferryJobList(ferryOp *op,
             const char *what)
{
    g_autofree char *prefix = ferryJobName(op, what);

    return ferryJobFind(op, prefix, FERRY_JOBS_BELOW);
}


/**
 * ferryJobListAll:
 *
 * Like ferryJobList(), but for all jobs of ours in the domain of @op.
 */
GPtrArray *
ferryJobListAll(ferryOp *op)
{
    return ferryJobFind(op, FERRY_JOB_PREFIX, FERRY_JOBS_ALL);
}


void
ferryJobInfoFill(ferryJobInfo *info,
                 GPtrArray *jobs)
{
    ferryJobInfoClear(info);

    if (jobs->len > 0) {
        qemuMonitorJobInfo *job = g_ptr_array_index(jobs, 0);

        info->status = job->status;
        info->error = g_strdup(job->error);
    }
}


/**
 * ferryJobQuery:
 *
 * Asks QEMU for the state of @jobname. Domain locked, job held.
 *
 * Returns 0 with @info filled, or -1 with an error reported.
 */
int
ferryJobQuery(ferryOp *op,
              const char *jobname,
              ferryJobInfo *info)
{
    g_autoptr(GPtrArray) jobs = ferryJobFind(op, jobname, FERRY_JOB_NAMED);

    ferryJobInfoClear(info);
    if (!jobs)
        return -1;

    ferryJobInfoFill(info, jobs);
    return 0;
}


/**
 * ferryJobDismiss:
 *
 * Makes QEMU forget a job that has concluded. Reports no error, since the job may be gone
 * already. Tries twice: a job that stays would block the next one of the same name.
 */
void
ferryJobDismiss(ferryOp *op,
                const char *jobname)
{
    qemuDomainObjEnterMonitor(op->vm);
    if (qemuMonitorJobDismiss(qemuDomainGetMonitor(op->vm), jobname) < 0)
        ignore_value(qemuMonitorJobDismiss(qemuDomainGetMonitor(op->vm), jobname));
    qemuDomainObjExitMonitor(op->vm);

    virResetLastError();
}


/* block-job-cancel knows no job that formats an image. */
static int
ferryJobTellCancel(virDomainObj *vm,
                   const qemuMonitorJobInfo *job)
{
    g_autoptr(virJSONValue) args = NULL;
    int rc;

    if (job->type == QEMU_MONITOR_JOB_TYPE_CREATE) {
        if (virJSONValueObjectAdd(&args, "s:id", job->id, NULL) < 0)
            return -1;
        return ferryQMP(vm, "job-cancel", &args, /* reply= */ NULL);
    }

    qemuDomainObjEnterMonitor(vm);
    rc = qemuMonitorBlockJobCancel(qemuDomainGetMonitor(vm), job->id, /* force= */ true);
    qemuDomainObjExitMonitor(vm);

    return rc;
}


/**
 * ferryJobCancel:
 *
 * Tells QEMU to cancel a job by force. Domain locked, job held. Reports no error: a job
 * that has just concluded cannot be cancelled any more.
 */
void
ferryJobCancel(ferryOp *op,
               const qemuMonitorJobInfo *job)
{
    if (ferryJobTellCancel(op->vm, job) < 0)
        ignore_value(ferryJobTellCancel(op->vm, job));

    virResetLastError();
}
