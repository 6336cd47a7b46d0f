/*
 * pivot.c: block copy: the steps that move the guest to the target
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Theory of operation
 *
 * Once the guest writes to the target, the source is out of date: a guest that starts on
 * the source again loses these writes. QEMU, driver and host may die right after the
 * first such write, so the journal on the disk must name the move before. Therefore the
 * mirror job waits: job-complete drains the disk and leaves the job PENDING, both images
 * the same and the guest's requests held; then the driver writes the journal; then
 * job-finalize lets the guest go on, on the target.
 *
 * Slow work is done before the drain (pivot_prepare.c): the target's caches are flushed and its
 * cache mode is set while the guest still works on the source.
 *
 *  - As long as the journal does not have "finalize", the guest is on the source.
 *  - Afterwards, ask QEMU. If QEMU is gone, the target is as new as the source or newer,
 *    so use the target.
 */

#include <config.h>

#include "block/access.h"
#include "block/cache.h"
#include "block/node.h"
#include "block/nodename.h"
#include "block/qmp.h"
#include "engine/wait.h"
#include "ops/copy/adopt.h"
#include "ops/copy/data.h"
#include "ops/copy/hold.h"
#include "ops/copy/pivot.h"
#include "ops/copy/pivot_prepare.h"
#include "ops/opfile.h"
#include "ops/pause.h"
#include "qemu/qemu_block.h"
#include "qemu/qemu_monitor.h"
#include "virerror.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.pivot");

#define FERRY_PIVOT_FINALIZE_TRIES 3

/* How long the guest's CPUs may be stopped, its file systems frozen, or other disks held, for the
 * drain. */
#define FERRY_PIVOT_PAUSE_MS (10 * 1000)


/* freeze, thaw: the guest is frozen while its requests are held, if its policy says so */
static bool
ferryPivotNeedsNoFreeze(ferryOp *op)
{
    return !ferryCopyOf(op)->quiesce.wanted;
}


static int
ferryPivotFreeze(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);

    if (ferryQuiesceFreeze(op, &copy->quiesce) < 0 || ferryCopyRequireDisk(op) < 0)
        return -1;

    /* after the last wait, and in the journal before "pause" acts */
    copy->pause = ferryPauseIsNeeded(op->vm, ferryCopyDisk(op), copy->target->format);
    return 0;
}


static void
ferryPivotUnfreeze(ferryOp *op)
{
    ferryQuiesceThawAlways(op, &ferryCopyOf(op)->quiesce);
}


static int
ferryPivotThaw(ferryOp *op)
{
    ferryPivotUnfreeze(op);
    return 0;
}


/* pause: stops the guest's CPUs where QEMU cannot hold its requests safely */
static bool
ferryPivotNeedsNoPause(ferryOp *op)
{
    return !ferryCopyOf(op)->pause;
}


static int
ferryPivotPause(ferryOp *op)
{
    return ferryCopyOf(op)->pause ? ferryPauseBegin(op) : 0;
}


static void
ferryPivotUnpause(ferryOp *op)
{
    if (ferryCopyOf(op)->pause)
        ferryPauseEnd(op, ferryCopyOf(op)->dst);
}


/* Returns whether the mirror job of @op drains its disk, or has done so, or ended. Keeps the last error. */
static bool
ferryPivotDrains(ferryOp *op)
{
    g_autofree char *jobname = ferryJobName(op, "mirror");
    g_auto(ferryJobInfo) info = { 0 };
    virErrorPtr err = NULL;
    bool ready;

    virErrorPreserveLast(&err);
    ready = ferryJobQuery(op, jobname, &info) < 0 ||
            ferryJobStatusIsReady(info.status);
    virErrorRestore(&err);

    return !ready;
}


/**
 * ferryPivotTakeBack:
 *
 * If the mirror job of @op was told to complete, ends it by force: it would move the guest later, when
 * it has caught up. The guest stays on the source, and the copy has ended. Domain locked, job held.
 * Returns 0, or -1 if the job does not end. Keeps the last error.
 */
int
ferryPivotTakeBack(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    g_autofree char *jobname = ferryJobName(op, "mirror");
    bool hold = op->holdJob;
    virErrorPtr err = NULL;
    int rc;

    if (!copy->told && (!copy->pause || !ferryPivotDrains(op)))
        return 0;

    virErrorPreserveLast(&err);
    /* a guest whose CPUs are stopped must not go on before that */
    op->holdJob = hold || copy->pause;
    rc = ferryJobKill(op, jobname);
    op->holdJob = hold;
    virErrorRestore(&err);

    if (rc == 0)
        copy->told = false;
    return rc;
}


/* Returns whether the mirror job of @member waits PENDING, or has ended. */
static bool
ferryPivotIsHeld(ferryOp *member,
                 GPtrArray *jobs)
{
    g_autofree char *jobname = ferryJobName(member, "mirror");
    size_t i;

    ferryCopyOf(member)->held = false;

    for (i = 0; i < jobs->len; i++) {
        qemuMonitorJobInfo *job = g_ptr_array_index(jobs, i);

        if (STREQ(job->id, jobname) && job->status != QEMU_MONITOR_JOB_STATUS_CONCLUDED)
            return ferryCopyOf(member)->held = job->status == QEMU_MONITOR_JOB_STATUS_PENDING;
    }

    return true;
}


/* Asks for all members, so that each knows whether it is held. */
static bool
ferryPivotAllHeld(GPtrArray *jobs,
                  void *opaque)
{
    GPtrArray *group = opaque;
    bool all = true;
    size_t i;

    for (i = 0; i < group->len; i++) {
        ferryOp *member = g_ptr_array_index(group, i);

        if (!ferryPivotIsHeld(member, jobs)) {
            ferryCopyLosePatience(member);
            all = false;
        }
    }

    return all;
}


/* Returns whether no client may get in while the disks of the group of @op are held: it could let a guest
 * go on that must not run. */
static bool
ferryPivotKeepsJob(ferryOp *op)
{
    g_autoptr(GPtrArray) group = ferryOpGroup(op);
    size_t i;

    for (i = 0; i < group->len; i++) {
        ferryOp *member = g_ptr_array_index(group, i);
        virDomainDiskDef *disk = ferryCopyDisk(member);

        if (ferryCopyOf(member)->pause ||
            (disk && ferryPauseHoldIsUnsafe(op->vm->def, disk, ferryCopyOf(member)->target->format)))
            return true;
    }

    return false;
}


/* Waits for all members of the group that @op leads: QEMU is asked for all at once, since the guest
 * waits meanwhile. */
static int
ferryPivotAwaitHeld(ferryOp *op)
{
    g_autoptr(GPtrArray) group = ferryOpGroup(op);
    g_autoptr(GPtrArray) jobs = NULL;
    bool keep = ferryPivotKeepsJob(op);
    bool hold = op->holdJob;
    unsigned int timeout = 0;

    /* A target slower than the guest may never catch up. ferryCopyAbort() can end this wait: the
     * domain's job is not held meanwhile. Other disks of a group are held by then. */
    if (op->leader || ferryCopyOf(op)->quiesce.frozen || keep)
        timeout = FERRY_PIVOT_PAUSE_MS;

    /* a guest that does not run does not write: the mirror has little left to do */
    op->holdJob = hold || keep;
    jobs = ferryJobWaitUntil(op, /* what= */ NULL, timeout, ferryPivotAllHeld, group);
    op->holdJob = hold;

    return jobs ? 0 : -1;
}


/* Tells the mirror jobs of the group of @op to complete, so that they do so at the same time. */
static int
ferryPivotTellComplete(ferryOp *op)
{
    g_autoptr(GPtrArray) group = ferryOpGroup(op);
    size_t i;

    for (i = 0; i < group->len; i++) {
        ferryOp *member = g_ptr_array_index(group, i);
        g_autofree char *jobname = ferryJobName(member, "mirror");
        int rc;

        ferryCopyBePatient(member);

        qemuDomainObjEnterMonitor(op->vm);
        rc = qemuMonitorJobComplete(qemuDomainGetMonitor(op->vm), jobname);
        qemuDomainObjExitMonitor(op->vm);

        /* a resumed step may have sent job-complete before, so that QEMU now refuses it */
        if (rc < 0 && !ferryPivotDrains(member))
            return -1;
        ferryCopyOf(member)->told = true;
    }

    return 0;
}


/* drain: makes both images the same and holds the guest's requests */
static int
ferryPivotDrain(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    g_autofree char *jobname = ferryJobName(op, "mirror");
    g_auto(ferryJobInfo) info = { 0 };

    if (ferryOpLeads(op) && (ferryPivotTellComplete(op) < 0 || ferryPivotAwaitHeld(op) < 0))
        return -1;

    if (copy->held) {
        virResetLastError();
        return 0;
    }

    if (ferryJobQuery(op, jobname, &info) < 0)
        return -1;

    virReportError(VIR_ERR_OPERATION_FAILED,
                   _("block job '%1$s' failed while pivoting: %2$s; disk '%3$s' of domain '%4$s' "
                     "stays on the source"),
                   jobname, info.error ? info.error : _("it was cancelled"),
                   copy->dst, op->vm->def->name);
    return -1;
}


/* If the job does not end, "pause" is not undone either (op->stuck). */
static void
ferryPivotUndrain(ferryOp *op)
{
    ignore_value(ferryPivotTakeBack(op));
}


/* Asks QEMU whether the guest is on the target. Returns 1: yes, 0: no, -1: unknown. */
static int
ferryPivotHappened(ferryOp *op,
                   const ferryJobInfo *info)
{
    ferryCopy *copy = ferryCopyOf(op);
    virDomainDiskDef *disk = ferryCopyDisk(op);
    g_autofree char *node = NULL;

    /* A concluded job without an error has pivoted. After an error the disk's node tells,
     * but not if it is a filter, which stays on top of either image: then take the error as
     * a no. */
    if (info->status == QEMU_MONITOR_JOB_STATUS_CONCLUDED &&
        (!info->error || !disk || ferryNodeHasFilter(disk)))
        return !info->error;

    /* The guest has ejected the disk, so there is no node to ask for: what was past its
     * point of no return counts as done. */
    if (!disk)
        return 1;

    /* "adopt" comes before the job is dismissed: without a job, the definition tells */
    if (ferryNodeHasFilter(disk))
        return STREQ(ferryNodeName(disk->src), ferryNodeName(copy->target)) ? 1 : -1;

    if (!(node = ferryQMPDiskNode(op->vm, disk)))
        return -1;

    return STREQ(node, ferryNodeName(copy->target));
}


static int
ferryPivotSendFinalize(ferryOp *op)
{
    g_autofree char *jobname = ferryJobName(op, "mirror");
    int rc;

    qemuDomainObjEnterMonitor(op->vm);
    rc = qemuMonitorJobFinalize(qemuDomainGetMonitor(op->vm), jobname);
    qemuDomainObjExitMonitor(op->vm);

    return rc;
}


/* Lets the guest go on, on all disks of the group that @op leads: that which was held first goes on
 * first. Each member then makes sure of its own. Returns 0 if QEMU took the command for @op. */
static int
ferryPivotFinalizeGroup(ferryOp *op)
{
    g_autoptr(GPtrArray) group = ferryOpGroup(op);
    int rc = ferryPivotSendFinalize(op);
    size_t i;

    for (i = 1; i < group->len; i++)
        ignore_value(ferryPivotSendFinalize(g_ptr_array_index(group, i)));

    return rc;
}


/* Sends job-finalize, and again while the job stays PENDING: the guest waits as long as
 * the job does. Returns -1 if the job is PENDING after the last try, or on an error. */
static int
ferryPivotTellFinalize(ferryOp *op,
                       const char *jobname)
{
    size_t sent = 0;

    if (ferryOpLeads(op)) {
        if (ferryPivotFinalizeGroup(op) == 0)
            return 0;
        sent++;
    }

    /* the caller's ferryJobWait() reports that the domain has ended, or that QEMU does not answer */
    for (; virDomainObjIsActive(op->vm); sent++) {
        g_auto(ferryJobInfo) info = { 0 };

        if (ferryJobQuery(op, jobname, &info) < 0 || info.status != QEMU_MONITOR_JOB_STATUS_PENDING)
            return 0;

        if (sent == FERRY_PIVOT_FINALIZE_TRIES || (sent > 0 && ferryOpSleep(op, 1000) < 0))
            return -1;

        if (ferryPivotSendFinalize(op) == 0)
            return 0;
    }

    return 0;
}


/* finalize: the point of no return. The journal on the disk has this step already. */
static int
ferryPivotFinalize(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    g_autofree char *jobname = ferryJobName(op, "mirror");
    g_auto(ferryJobInfo) info = { 0 };
    bool keep = ferryPivotKeepsJob(op);
    bool hold = op->holdJob;
    int rc;

    /* The reply to job-finalize proves little: the job may still fail, the reply may be
     * lost, or this may be the second try. Ask for the job's result and disk's node. */
    op->holdJob = hold || keep;
    if ((rc = ferryPivotTellFinalize(op, jobname)) == 0)
        rc = ferryJobWait(op, jobname, FERRY_JOB_STATE(CONCLUDED),
                          keep ? FERRY_PIVOT_PAUSE_MS : 0, &info);
    op->holdJob = hold;

    if (rc < 0)
        return FERRY_STEP_UNKNOWN;

    switch (ferryPivotHappened(op, &info)) {
    case 1:
        copy->moved = true;
        virResetLastError();
        return 0;
    case 0:
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("block job '%1$s' failed while pivoting: %2$s; disk '%3$s' of domain '%4$s' "
                         "stays on the source"),
                       jobname, NULLSTR(info.error), copy->dst, op->vm->def->name);
        return FERRY_STEP_FAILED;
    default:
        return FERRY_STEP_UNKNOWN;
    }
}


/* unpause: the guest goes on, on the target */
static int
ferryPivotRunUnpause(ferryOp *op)
{
    ferryPivotUnpause(op);
    return 0;
}


/* adopt: makes the live and the persistent definition name the target */
static int
ferryPivotAdopt(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    virDomainDiskDef *disk = ferryCopyDisk(op);

    /* when it is tried again, the disk may have moved on since: by a snapshot */
    if (disk && copy->old && disk->src == copy->old) {
        if (copy->granted)
            ferryAccessAdopt(op->vm, copy->target);
        copy->granted = false;

        /* a shallow copy that we created uses the old image's backing chain, or what is left
         * of it; the owner of a reused image chose its chain */
        if (copy->shallow && !ferryCopyOpensLate(copy) &&
            !virStorageSourceIsBacking(copy->target->backingStore)) {
            virStorageSource *above = copy->base ? ferryCopyImageAbove(copy->old, copy->base) : copy->old;

            virObjectUnref(copy->target->backingStore);
            copy->target->backingStore = above ? g_steal_pointer(&above->backingStore) : NULL;
        }

        if (copy->old->readonly) {
            copy->target->readonly = true;
            if (ferryNodeReopen(op->vm, copy->target, copy->target->backingStore) < 0) {
                VIR_WARN("disk '%s' of domain '%s' is not read-only in QEMU: %s",
                         copy->dst, op->vm->def->name, virGetLastErrorMessage());
                virResetLastError();
            }
        }

        virObjectUnref(disk->src);
        disk->src = virObjectRef(copy->target);
    }

    ferryCopyClearMirror(op);

    if (ferryCopyAdoptConfig(op) < 0)
        return FERRY_STEP_UNKNOWN;

    return 0;
}


/* release: removes nodes and access of the old images that the new chain does not use */
static int
ferryPivotRelease(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    g_autofree char *jobname = ferryJobName(op, "mirror");

    if (copy->old && ferryOpFileAnswers(op, copy->old) < 0)
        return FERRY_STEP_UNKNOWN;

    ferryCopyCutOld(op);
    ferryJobDismiss(op, jobname);
    if (copy->old)
        ferryNodeReleaseSource(op->vm, copy->old);
    ferryNodeRemove(op->vm, copy->old);
    ferryAccessDrop(op->vm, copy->old);

    return 0;
}


const ferryPlan ferryCopyPivotPlan = {
    .name = "pivot",
    .steps = (const ferryStep[]) {
        { .name = "chain", .run = ferryPivotAddChain, .undo = ferryPivotRemoveChain },
        { .name = "bitmaps", .run = ferryPivotCarryBitmaps, .undo = ferryPivotDropBitmaps },
        { .name = "level", .run = ferryCopyAwaitLevel, .unrecorded = true },
        { .name = "flush", .run = ferryPivotFlush, .undo = ferryPivotUnflush },
        { .name = "freeze", .run = ferryPivotFreeze, .undo = ferryPivotUnfreeze, .idle = ferryPivotNeedsNoFreeze },
        { .name = "pause", .run = ferryPivotPause, .undo = ferryPivotUnpause, .idle = ferryPivotNeedsNoPause },
        { .name = "drain", .run = ferryPivotDrain, .undo = ferryPivotUndrain },
        { .name = "finalize", .run = ferryPivotFinalize, .durable = true },
        { .name = "unpause", .run = ferryPivotRunUnpause, .unrecorded = true },
        { .name = "thaw", .run = ferryPivotThaw, .unrecorded = true },
        { .name = "adopt", .run = ferryPivotAdopt },
        /* alone: the disk shows no copy any more that would keep others off it */
        { .name = "release", .run = ferryPivotRelease, .alone = true },
        { 0 },
    },
};
