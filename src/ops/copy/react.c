/*
 * react.c: block copy: what follows when the mirror job has changed its state
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "engine/plan.h"
#include "engine/wait.h"
#include "ops/copy/control.h"
#include "ops/copy/data.h"
#include "ops/copy/layers_next.h"
#include "ops/copy/pivot.h"
#include "ops/copy/react.h"
#include "ops/event.h"
#include "virerror.h"

#define VIR_FROM_THIS VIR_FROM_QEMU


static void
ferryCopyReady(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    virDomainDiskDef *disk = ferryCopyDisk(op);

    /* the job leaves and enters READY at every reopen: tell clients only once */
    if (copy->ready)
        return;

    copy->ready = true;
    if (disk) {
        disk->mirrorState = ferryCopyState(copy);
        qemuDomainSaveStatus(op->vm);
    }
    ferryEventBlockJobNamed(op->vm, copy->dst, VIR_DOMAIN_BLOCK_JOB_TYPE_COPY,
                            VIR_DOMAIN_BLOCK_JOB_READY);
}


/**
 * ferryCopyJobMatters:
 *
 * Returns true if ferryCopyJobChanged(), or a waiting thread, must react to @status.
 * While the goal is to mirror, READY matters only the first time.
 */
bool
ferryCopyJobMatters(ferryOp *op,
                    int status)
{
    ferryCopy *copy = ferryCopyOf(op);

    if (ferryJobStatusIsReady(status))
        return !copy->ready || copy->goal != FERRY_COPY_GOAL_MIRROR;

    return status == QEMU_MONITOR_JOB_STATUS_PENDING ||
           status == QEMU_MONITOR_JOB_STATUS_CONCLUDED;
}


/**
 * ferryCopyRewind:
 * @info: the state of the mirror job; changed if the job is ended
 *
 * A driver has died during a pivot: steps before its point of no return are undone, and are taken
 * again if it is still wanted; unless both images are the same already. Domain locked, job held.
 *
 * Returns 0, or -1 if that has to be tried again.
 */
int
ferryCopyRewind(ferryOp *op,
                ferryJobInfo *info)
{
    ferryCopy *copy = ferryCopyOf(op);
    bool alive = info->status != QEMU_MONITOR_JOB_STATUS_CONCLUDED &&
                 info->status != QEMU_MONITOR_JOB_STATUS_UNKNOWN;

    /* QEMU cannot take back that the job was told to complete: the pivot goes on from there */
    if (ferryPlanPastReturn(op, &ferryCopyPivotPlan) ||
        (copy->told && alive && copy->goal == FERRY_COPY_GOAL_PIVOT))
        return 0;

    if (copy->told && alive) {
        if (ferryPivotTakeBack(op) < 0)
            return -1;
        info->status = QEMU_MONITOR_JOB_STATUS_UNKNOWN;
    }

    return ferryPlanUndo(op, &ferryCopyPivotPlan);
}


/**
 * ferryCopyJobChanged:
 *
 * Does what the mirror job's state and the goal require, after events and in recovery.
 * Domain locked, job held, QEMU runs. May wait for the job.
 */
void
ferryCopyJobChanged(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    g_autofree char *jobname = ferryJobName(op, "mirror");
    g_auto(ferryJobInfo) info = { 0 };
    bool ended;

    if (ferryJobQuery(op, jobname, &info) < 0)
        return;

    ended = info.status == QEMU_MONITOR_JOB_STATUS_CONCLUDED ||
            info.status == QEMU_MONITOR_JOB_STATUS_UNKNOWN;

    if (ferryJobStatusIsReady(info.status))
        ferryCopyReady(op);

    if (copy->rewind) {
        copy->rewind = false;
        if (ferryCopyRewind(op, &info) < 0)
            return;
    }

    if (ferryLayersGoOn(op, &info))
        return;

    /* Behind the point of no return there is only one way, whatever the goal says. */
    if (ferryPlanPastReturn(op, &ferryCopyPivotPlan)) {
        ignore_value(ferryCopyPivotFinish(op, /* again= */ true));
        return;
    }

    switch (copy->goal) {
    case FERRY_COPY_GOAL_PIVOT:
        ignore_value(ferryCopyPivotFinish(op, /* again= */ true));
        break;

    case FERRY_COPY_GOAL_ABORT:
        /* the driver may have died before its cancel; a second one does no harm */
        if (!ended && info.status != QEMU_MONITOR_JOB_STATUS_PENDING &&
            ferryCopyCancel(op) < 0)
            virResetLastError();
        ignore_value(ferryCopyAwaitEnd(op));
        break;

    case FERRY_COPY_GOAL_MIRROR:
        /* PENDING: somebody else sent job-complete. The guest's requests wait for
         * job-finalize, but the journal has no pivot: end the job. */
        if (info.status == QEMU_MONITOR_JOB_STATUS_PENDING)
            ignore_value(ferryJobKill(op, jobname));
        if (ended || info.status == QEMU_MONITOR_JOB_STATUS_PENDING)
            ferryCopySettle(op);
        break;

    case FERRY_COPY_GOAL_LAST:
    default:
        break;
    }
}
