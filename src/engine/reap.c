/*
 * reap.c: QEMU jobs that belong to no operation
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "engine/job.h"
#include "engine/op.h"
#include "engine/reap.h"
#include "engine/wait.h"
#include "virlog.h"

VIR_LOG_INIT("ferry.reap");


/* Returns true when the job @jobname belongs to an operation of @vm. */
static bool
ferryReapIsOwned(virDomainObj *vm,
                 const char *jobname)
{
    GPtrArray *ops = ferryOpList(vm);
    size_t i;

    for (i = 0; ops && i < ops->len; i++) {
        if (ferryJobIsOf(g_ptr_array_index(ops, i), jobname))
            return true;
    }

    return false;
}


/**
 * ferryReapJobs:
 *
 * Kills our jobs that belong to no operation, because the journal was lost: the guest may
 * be waiting for such a job, and no other code would ever end it. Domain locked, its job held
 * by this thread, which keeps it. May report an error.
 */
void
ferryReapJobs(virDomainObj *vm)
{
    static const ferryOpClass nobody = { .name = "nobody" };
    ferryOp op = { .klass = &nobody, .vm = vm, .name = (char *) "", .holdJob = true };
    g_autoptr(GPtrArray) jobs = ferryJobListAll(&op);
    size_t i;

    for (i = 0; jobs && i < jobs->len; i++) {
        qemuMonitorJobInfo *job = g_ptr_array_index(jobs, i);

        if (ferryReapIsOwned(vm, job->id))
            continue;

        VIR_WARN("domain '%s': ending job '%s', which belongs to no operation",
                 vm->def->name, job->id);
        ignore_value(ferryJobKill(&op, job->id));
    }
}
