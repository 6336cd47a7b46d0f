/*
 * layers_next.c: block copy: from one image of the chain to the next
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * See layers.c.
 */

#include <config.h>

#include "block/nodename.h"
#include "engine/journal.h"
#include "engine/plan.h"
#include "engine/report.h"
#include "engine/wait.h"
#include "ops/copy/data.h"
#include "ops/copy/layers.h"
#include "ops/copy/layers_next.h"
#include "ops/copy/pivot.h"
#include "ops/copy/start.h"
#include "virerror.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.copy");


/* An image is copied: begins with that above it. The top one is for the mirror job. */
static int
ferryLayersNext(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    g_autofree char *jobname = ferryJobName(op, "mirror");
    virStorageSource *next;

    if (ferryCopyRequireDisk(op) < 0)
        return -1;

    if (!(next = ferryCopyImageAbove(ferryCopyDisk(op)->src, copy->layer))) {
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("disk '%1$s' of domain '%2$s' is not the one that it was when its copy began: the copy ends"),
                       copy->dst, op->vm->def->name);
        return -1;
    }

    ferryJobDismiss(op, jobname);
    if (ferryLayersClear(op) < 0)
        return -1;

    if (next == ferryCopyDisk(op)->src)
        return ferryPlanRunTo(op, &ferryCopyStartPlan, "mirror");

    g_free(copy->layer);
    copy->layer = g_strdup(ferryNodeName(next));
    return ferryPlanRepeat(op, &ferryCopyStartPlan);
}


/**
 * ferryLayersGoOn:
 * @info: of the copy's job
 *
 * Begins with the next image when one is copied, or again with one whose job a driver that died has
 * not started. Domain locked, job held.
 *
 * Returns whether that is all that the state of the job requires.
 */
bool
ferryLayersGoOn(ferryOp *op,
                const ferryJobInfo *info)
{
    ferryCopy *copy = ferryCopyOf(op);
    bool gone = info->status == QEMU_MONITOR_JOB_STATUS_UNKNOWN;
    virDomainDiskDef *disk;
    int rc;

    /* not a copy that is still to be undone, or of which nobody knows what its target has */
    if (!copy->layer || copy->goal != FERRY_COPY_GOAL_MIRROR || info->error || copy->refused || op->stuck ||
        !ferryPlanReached(op, &ferryCopyStartPlan, "layer"))
        return false;

    /* the mirror job is the last one */
    if (ferryPlanDone(op, &ferryCopyStartPlan) &&
        (!gone || copy->ready || ferryPlanReached(op, &ferryCopyPivotPlan, "chain")))
        return false;

    if (gone)
        rc = ferryPlanRepeat(op, &ferryCopyStartPlan);
    else if (info->status == QEMU_MONITOR_JOB_STATUS_CONCLUDED)
        rc = ferryLayersNext(op);
    else
        return true;

    if (rc == 0 || ferryOpIsLost(op))
        return true;

    /* the call that began it is over */
    disk = ferryCopyDisk(op);
    ferryReportEnded(op, virGetLastErrorMessage(), disk ? disk->src->path : NULL);
    return false;
}


/**
 * ferryLayersKeepSpeed:
 * @speed: bytes/s
 *
 * A client has set the speed of the copy. Domain locked, job held. Returns whether other jobs follow
 * that of now, which get it.
 */
bool
ferryLayersKeepSpeed(ferryOp *op,
                     unsigned long long speed)
{
    ferryCopy *copy = ferryCopyOf(op);

    if (!copy->layer || copy->goal != FERRY_COPY_GOAL_MIRROR || ferryPlanDone(op, &ferryCopyStartPlan))
        return false;

    copy->bandwidth = speed;
    if (ferryJournalWrite(op->vm, /* durable= */ false) < 0) {
        VIR_WARN("domain '%s': if the driver is restarted now, the speed of the copy of disk '%s' is forgotten: %s",
                 op->vm->def->name, copy->dst, virGetLastErrorMessage());
        virResetLastError();
    }

    return true;
}


/**
 * ferryLayersScale:
 *
 * Changes progress @cur of @end, of the job that runs, to that of the whole copy: each image is taken for
 * as large as any other. Domain locked, job held.
 */
void
ferryLayersScale(ferryOp *op,
                 unsigned long long *cur,
                 unsigned long long *end)
{
    ferryCopy *copy = ferryCopyOf(op);
    virDomainDiskDef *disk = ferryCopyDisk(op);
    const char *now = ferryPlanDone(op, &ferryCopyStartPlan) && disk ? ferryNodeName(disk->src) : copy->layer;
    unsigned long long before = 0;
    unsigned long long all = 0;
    virStorageSource *n;

    /* the copies to come are above the image of now, those that are done below it */
    for (n = disk ? disk->src : NULL; virStorageSourceIsBacking(n) && copy->base &&
                                      STRNEQ(ferryNodeName(n), copy->base);
         n = n->backingStore) {
        before = STREQ_NULLABLE(ferryNodeName(n), now) ? 0 : before + 1;
        all++;
    }

    if (all == 0)
        return;

    *cur += before * *end;
    *end *= all;
}
