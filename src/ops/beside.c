/*
 * beside.c: what must not begin while an operation has the domain's asynchronous job
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A backup and a migration have the domain's asynchronous job for as long as they run, which
 * may be hours. The stock driver lets a call that this job forbids (save, a snapshot, a
 * migration) wait for half a minute, and then says only that it could not get a lock. Here the
 * call is refused at once, and told what runs and how to end it. It still waits for an
 * operation that is just ending, and for a request that may be refused.
 *
 * Threads of the driver, which handle events of QEMU, wait as before: nobody would tell them to
 * try again.
 */

#include <config.h>

#include "ops/backup/beside.h"
#include "ops/beside.h"
#include "ops/migration/perform.h"
#include "virerror.h"
#include "virthreadjob.h"
#include "virtime.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

/* How long a call waits for the end of an operation: as long as the stock driver's calls. */
#define FERRY_BESIDE_WAIT_MS (30 * 1000)


/* Returns whether this thread makes a client's call: one that the daemon has dispatched, or one
 * of a process that embeds the driver. The driver's own threads have other names. */
static bool
ferryBesideIsClient(void)
{
    const char *name = virThreadJobGet();

    return !name || STRPREFIX(name, "remoteDispatch") || STRPREFIX(name, "qemuDispatch");
}


/* What an operation of ours that has the asynchronous job does: 1: it keeps the job for long, 0: it
 * is just ending or beginning, -1: there is none. Locks as for ferryBesideMayBegin(). */
static int
ferryBesideLasts(virDomainObj *vm)
{
    if (vm->job->asyncJob == VIR_ASYNC_JOB_BACKUP)
        return ferryBackupLasts(vm);

    return vm->job->asyncJob == VIR_ASYNC_JOB_MIGRATION_OUT ? ferryMigrationLasts(vm) : -1;
}


static void
ferryBesideRefuse(virDomainObj *vm,
                  virDomainAsyncJob wanted)
{
    const char *name = vm->def->name;
    const char *what = wanted == VIR_ASYNC_JOB_NONE ? _("the call") :
                                                      virDomainAsyncJobTypeToString(wanted);
    g_autofree char *since = virTimeStringThen(vm->job->asyncStarted);

    if (wanted == VIR_ASYNC_JOB_START)
        virReportError(VIR_ERR_OPERATION_INVALID, _("domain '%1$s' is already running"), name);
    else if (vm->job->asyncJob == VIR_ASYNC_JOB_BACKUP && ferryBackupIsStuck(vm))
        virReportError(VIR_ERR_OPERATION_INVALID,
                       _("%1$s is not possible now: the backup of domain '%2$s' has ended, but its "
                         "jobs, images or checkpoint cannot be removed yet; the log says why: mend "
                         "that, and try again"),
                       what, name);
    else if (wanted == VIR_ASYNC_JOB_BACKUP && vm->job->asyncJob == VIR_ASYNC_JOB_BACKUP)
        virReportError(VIR_ERR_OPERATION_INVALID,
                       _("another backup job is already running: domain '%1$s' has one since "
                         "%2$s; wait until it ends, or end it with 'virsh domjobabort %1$s'"),
                       name, NULLSTR(since));
    else if (vm->job->asyncJob == VIR_ASYNC_JOB_BACKUP)
        virReportError(VIR_ERR_OPERATION_INVALID,
                       _("%1$s is not possible now: domain '%2$s' has a backup job since %3$s; "
                         "wait until it ends, or end it with 'virsh domjobabort %2$s'"),
                       what, name, NULLSTR(since));
    else
        virReportError(VIR_ERR_OPERATION_INVALID,
                       _("%1$s is not possible now: domain '%2$s' is being migrated since %3$s; "
                         "wait until that ends, or end it with 'virsh domjobabort %2$s'"),
                       what, name, NULLSTR(since));
}


/* Returns whether a job would have to wait for the end of the asynchronous job. */
static bool
ferryBesideHasToWait(virDomainObj *vm,
                     virDomainJob job)
{
    return !virDomainNestedJobAllowed(vm->job, job) && !vm->removing;
}


/**
 * ferryBesideMayBegin:
 * @vm: domain, locked, without a job of this thread; the lock may be released meanwhile
 * @job: what this thread is about to begin
 * @asyncJob: if that is VIR_JOB_ASYNC: which one; otherwise VIR_ASYNC_JOB_NONE
 *
 * Returns 0 if the job may be begun, or waited for as in the stock driver. Returns -1 with an
 * error reported if a backup or a migration of ours is in the way; waits for one that is just
 * ending.
 */
int
ferryBesideMayBegin(virDomainObj *vm,
                    virDomainJob job,
                    virDomainAsyncJob asyncJob)
{
    unsigned long long deadline;

    if (!ferryBesideHasToWait(vm, job) || !ferryBesideIsClient())
        return 0;

    if (virTimeMillisNow(&deadline) < 0)
        return -1;
    deadline += FERRY_BESIDE_WAIT_MS;

    do {
        int lasts = ferryBesideLasts(vm);

        /* the lock was released: what was in the way may be gone */
        if (lasts < 0 || !ferryBesideHasToWait(vm, job))
            return 0;

        if (lasts > 0) {
            ferryBesideRefuse(vm, asyncJob);
            return -1;
        }

        if (virCondWaitUntil(&vm->job->asyncCond, &vm->parent.lock, deadline) < 0) {
            virReportError(VIR_ERR_OPERATION_TIMEOUT,
                           _("the backup or migration of domain '%1$s' is just beginning or "
                             "ending, which takes more than %2$d s; try again"),
                           vm->def->name, FERRY_BESIDE_WAIT_MS / 1000);
            return -1;
        }
    } while (ferryBesideHasToWait(vm, job));

    return 0;
}
