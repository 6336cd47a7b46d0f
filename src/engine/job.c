/*
 * job.c: the QEMU jobs of an operation
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * All our jobs are started with auto-dismiss off, so that QEMU remembers how a job
 * ended until it is told to forget the job. Whoever wants to know how a job is doing
 * asks QEMU; an event only says that asking is worth while. wait.c waits for jobs.
 */

#include <config.h>

#include "engine/job.h"
#include "virerror.h"

/* Hangs on a monitor without a connection. */
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
 * A command got no reply. Called by whoever sent it.
 */
void
ferryJobConnectionLost(qemuMonitor *mon)
{
    g_object_set_data(G_OBJECT(mon), FERRY_JOB_LOST, GINT_TO_POINTER(true));
}


/**
 * ferryJobQEMUReachable:
 *
 * Returns false once the connection to QEMU is broken. QEMU may live on: until
 * the driver has killed it, or another driver has connected to it.
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
 * Returns the name of a job of @op: its prefix tells our jobs from the stock
 * driver's, the operation's name which operation it belongs to.
 */
char *
ferryJobName(ferryOp *op,
             const char *what)
{
    return g_strdup_printf(FERRY_JOB_PREFIX "%s-%s", op->name, what);
}


/* Asks QEMU for the jobs of that name, or those whose names begin so. Asks again
 * when it does not answer as it should: what runs on unknown is worse. */
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
 * @what: begin of the names, as for ferryJobName()
 *
 * Asks QEMU for the jobs of @op whose names begin so. Domain locked, job held.
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
 * The same for the jobs of all our operations on the domain of @op.
 */
GPtrArray *
ferryJobListAll(ferryOp *op)
{
    return ferryJobFind(op, FERRY_JOB_PREFIX, FERRY_JOBS_BELOW);
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
 * Lets QEMU forget a job that has concluded. Failure is not reported: a job
 * that is already gone is what was wanted. One that is not is told again, since
 * it would be in the way of the next of its name.
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


/* Fails when the job has concluded just now, which whoever waits for it sees. */
void
ferryJobCancel(ferryOp *op,
               const char *jobname)
{
    qemuDomainObjEnterMonitor(op->vm);
    if (qemuMonitorBlockJobCancel(qemuDomainGetMonitor(op->vm), jobname, true) < 0)
        ignore_value(qemuMonitorBlockJobCancel(qemuDomainGetMonitor(op->vm), jobname, true));
    qemuDomainObjExitMonitor(op->vm);

    virResetLastError();
}
