/*
 * hold.c: block copy: how long the guest's disk is held
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * While a mirror job is PENDING its disk is drained: the guest waits. So the mirror must have caught
 * up before (ferryCopyAwaitLevel()). Some guests must not run meanwhile: see ops/pause.c.
 */

#include <config.h>

#include "block/feature.h"
#include "block/qmp.h"
#include "engine/wait.h"
#include "ops/copy/data.h"
#include "ops/copy/hold.h"
#include "virerror.h"
#include "virlog.h"
#include "virtime.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.copy");

/* The mirror has caught up when it needs this long for what is left. */
#define FERRY_COPY_LEVEL_MS 250

/* How often it is asked, beside when something happens. */
#define FERRY_COPY_LEVEL_POLL_MS 100


/* A mirror that has not caught up after this time writes what the guest writes at once, where QEMU
 * can change that. */
#define FERRY_COPY_PATIENCE_MS 2000


/* Returns whether all members of the group of @op are still to end as @op is. */
static bool
ferryCopyAgrees(ferryOp *op)
{
    g_autoptr(GPtrArray) group = ferryOpGroup(op);
    size_t i;

    for (i = 0; i < group->len; i++) {
        if (ferryCopyOf(g_ptr_array_index(group, i))->goal != ferryCopyOf(op)->goal)
            return false;
    }

    return true;
}


/**
 * ferryCopyBePatient:
 *
 * To be called when a wait for the mirror job of @op begins: see ferryCopyLosePatience().
 */
void
ferryCopyBePatient(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);

    if (copy->impatient != ULLONG_MAX)
        copy->impatient = 0;
}


/**
 * ferryCopyLosePatience:
 *
 * To be called again and again while the mirror job of @op does not catch up with the guest: after a
 * while makes the guest's writes wait for the target, if QEMU can. Domain locked, job held; may ask
 * QEMU. Reports no error.
 */
void
ferryCopyLosePatience(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    g_autofree char *jobname = ferryJobName(op, "mirror");
    unsigned long long now;

    if (copy->synchronous || copy->impatient == ULLONG_MAX || virTimeMillisNowRaw(&now) < 0)
        return;

    if (copy->impatient == 0)
        copy->impatient = now + FERRY_COPY_PATIENCE_MS;

    if (now < copy->impatient)
        return;

    copy->impatient = ULLONG_MAX;

    if (!ferryFeatureHas(op->vm, FERRY_FEATURE_COPY_MODE))
        return;

    if (ferryQMPMirrorBlockWrites(op->vm, jobname) == 0) {
        copy->synchronous = true;
    } else {
        VIR_WARN("disk '%s' of domain '%s' is written as fast as it is copied, and QEMU does not change "
                 "that: %s",
                 copy->dst, op->vm->def->name, virGetLastErrorMessage());
        virResetLastError();
    }
}


/**
 * ferryCopyAwaitLevel:
 *
 * Waits until the mirror job of @op needs FERRY_COPY_LEVEL_MS or less for what it has
 * still to copy: a flush or a drain of the disk takes that long, and QEMU answers nothing
 * meanwhile. A target that is slower than the guest never catches up, unless QEMU can make the
 * guest's writes wait for it (ferryCopyLosePatience()). ferryCopyAbort() can
 * end this wait, since the domain's job is not held while waiting.
 *
 * Returns 0, also when the job has ended, or -1 with an error reported.
 */
int
ferryCopyAwaitLevel(ferryOp *op)
{
    g_autofree char *jobname = ferryJobName(op, "mirror");
    unsigned long long lastTime = 0;
    unsigned long long lastDone = 0;

    ferryCopyBePatient(op);

    while (true) {
        g_autoptr(GPtrArray) jobs = ferryJobFind(op, jobname, FERRY_JOB_NAMED);
        qemuMonitorJobInfo *job;
        unsigned long long now;
        unsigned long long left;

        if (!jobs || virTimeMillisNow(&now) < 0)
            return -1;

        if (jobs->len == 0)
            return 0;

        job = g_ptr_array_index(jobs, 0);
        left = job->progressTotal - MIN(job->progressCurrent, job->progressTotal);

        if (left == 0 || job->status == QEMU_MONITOR_JOB_STATUS_CONCLUDED ||
            job->status == QEMU_MONITOR_JOB_STATUS_PENDING)
            return 0;

        /* bytes left <= bytes/ms copied of late * FERRY_COPY_LEVEL_MS */
        if (lastTime > 0 && now > lastTime && job->progressCurrent > lastDone &&
            left <= (job->progressCurrent - lastDone) / (now - lastTime) * FERRY_COPY_LEVEL_MS)
            return 0;

        lastTime = now;
        lastDone = job->progressCurrent;

        ferryCopyLosePatience(op);

        if (ferryOpSleep(op, FERRY_COPY_LEVEL_POLL_MS) < 0)
            return -1;

        /* a client has aborted another member */
        if (!ferryCopyAgrees(op))
            return 0;

        if (!virDomainObjIsActive(op->vm)) {
            virReportError(VIR_ERR_OPERATION_FAILED,
                           _("domain '%1$s' ended while disk '%2$s' waited for its copy"),
                           op->vm->def->name, ferryCopyOf(op)->dst);
            return -1;
        }
    }
}
