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
 * Slow work is done before the drain: the target's caches are flushed and its cache mode
 * is set while the guest still works on the source.
 *
 *  - As long as the journal does not have "finalize", the guest is on the source.
 *  - Afterwards, ask QEMU. If QEMU is gone, the target is as new as the source or newer,
 *    so use the target.
 */

#include <config.h>

#include "block/access.h"
#include "block/bitmap.h"
#include "block/cache.h"
#include "block/durable.h"
#include "block/identity.h"
#include "block/node.h"
#include "block/qmp.h"
#include "engine/wait.h"
#include "ops/copy/adopt.h"
#include "ops/copy/data.h"
#include "ops/copy/hold.h"
#include "ops/copy/pivot.h"
#include "ops/opfile.h"
#include "qemu/qemu_block.h"
#include "qemu/qemu_monitor.h"
#include "virerror.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.pivot");

#define FERRY_PIVOT_FINALIZE_TRIES 3

/* How long the guest's CPUs may be stopped for the drain. */
#define FERRY_PIVOT_PAUSE_MS (10 * 1000)


/* Gives the target's nodes the options for the mirror phase (@copying), or those of the
 * disk's definition. A reopen flushes the image. */
static int
ferryPivotReopenTarget(ferryOp *op,
                       virStorageSource *backing,
                       bool copying)
{
    virStorageSource *target = ferryCopyOf(op)->target;
    virDomainDiskDef *disk = ferryCopyDisk(op);
    int cachemode;
    int discard;
    int rc;

    /* the guest may have ejected the disk: then the target's own options hold */
    if (disk)
        ferryCopyTakeOptions(target, disk);
    cachemode = target->cachemode;
    discard = target->discard;

    if (copying)
        target->discard = ferryCopyDiscard(op);

    rc = ferryNodeReopen(op->vm, target, backing);

    /* ignored: storage that cannot bypass the cache did not do so before either */
    if (copying && ferryNodeMayBypassCache(op->vm, target)) {
        target->cachemode = VIR_DOMAIN_DISK_CACHE_DISABLE;
        ignore_value(ferryNodeReopenStorage(op->vm, target, /* autoreadonly= */ false));
    }

    target->cachemode = cachemode;
    target->discard = discard;
    return rc;
}


/* The configuration will name the target, so the name must lead to the file that has the
 * data: "flush" opens the target again, and the next QEMU opens it by this name. */
static int
ferryPivotCheckTarget(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);

    switch (ferryIdentityCheck(op->vm, copy->target)) {
    case FERRY_IDENTITY_SAME:
    case FERRY_IDENTITY_UNKNOWN:
        return 0;
    case FERRY_IDENTITY_SILENT:
        virReportError(VIR_ERR_OPERATION_TIMEOUT,
                       _("the storage of the target '%1$s' of disk '%2$s' of domain '%3$s' does not "
                         "answer; the disk stays on the source; try again, or abort the copy"),
                       copy->target->path, copy->dst, op->vm->def->name);
        return -1;
    case FERRY_IDENTITY_OTHER:
    default:
        break;
    }

    virReportError(VIR_ERR_OPERATION_FAILED,
                   _("the target '%1$s' of disk '%2$s' of domain '%3$s' was replaced or deleted: "
                     "its name does not lead to the file that was copied to any more; the disk "
                     "stays on the source; put the file back under its name, or abort the copy"),
                   copy->target->path, copy->dst, op->vm->def->name);
    return -1;
}


/* chain: opens the backing chain of a reused image; until now its owner could fill it */
static bool
ferryPivotHasLateChain(ferryCopy *copy)
{
    return copy->reuse && copy->shallow && virStorageSourceHasBacking(copy->target);
}


static int
ferryPivotAddChain(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    g_autoptr(virJSONValue) actions = virJSONValueNewArray();

    if (ferryPivotCheckTarget(op) < 0)
        return -1;

    if (!ferryPivotHasLateChain(copy))
        return 0;

    if (ferryNodeAddChain(op->vm, copy->target->backingStore) < 0 ||
        qemuMonitorTransactionSnapshotBlockdev(actions,
                                               copy->target->backingStore->nodeformat,
                                               copy->target->nodeformat) < 0)
        return -1;

    return ferryQMPTransaction(op->vm, &actions);
}


static void
ferryPivotRemoveChain(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    g_autoptr(virStorageSource) none = NULL;

    if (!ferryPivotHasLateChain(copy))
        return;

    none = virStorageSourceNew();
    if (ferryPivotReopenTarget(op, none, /* copying= */ true) < 0)
        VIR_WARN("target of disk '%s' keeps its backing chain: %s",
                 copy->dst, virGetLastErrorMessage());
    ferryNodeRemove(op->vm, copy->target->backingStore);
}


/* bitmaps: copies the checkpoints' bitmaps to the target */
static int
ferryPivotCarryBitmaps(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);

    if (ferryCopyRequireDisk(op) < 0)
        return -1;

    return ferryBitmapsCarry(op->vm, ferryCopyDisk(op)->src, copy->target, copy->shallow);
}


static void
ferryPivotDropBitmaps(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    virDomainDiskDef *disk = ferryCopyDisk(op);

    if (disk)
        ferryBitmapsDrop(op->vm, disk->src, copy->target);
}


/* flush: flushes the target, so that nothing is left to write while the guest's requests
 * wait, and sets the cache mode of the disk's definition */
static virStorageSource *
ferryPivotTargetBacking(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);

    if (ferryPivotHasLateChain(copy))
        return virObjectRef(copy->target->backingStore);

    return ferryCopyTargetBacking(op);
}


static int
ferryPivotSync(ferryOp *op)
{
    g_autoptr(virStorageSource) target = virObjectRef(ferryCopyOf(op)->target);
    int rc;

    /* The configuration will name the target, so the target's name must be on the disk. The
     * storage may hang, and other calls on the domain must not wait for it. */
    ferryOpYield(op);
    virObjectUnlock(op->vm);
    ferryImageSync(target);
    rc = ferryDurableImage(target);
    virObjectLock(op->vm);

    return ferryOpResume(op) < 0 || rc < 0 ? -1 : 0;
}


static int
ferryPivotFlush(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    g_autoptr(virStorageSource) backing = ferryPivotTargetBacking(op);

    if (ferryCopyRequireDisk(op) < 0)
        return -1;

    /* Recovery must find the old chain even after "adopt" took it out of the definition.
     * It is set here because the journal entry of "drain" is the last full one before the
     * point of no return. */
    if (!copy->old)
        copy->old = virObjectRef(ferryCopyDisk(op)->src);

    /* "level" may have waited for long since "chain" has looked at the target */
    if (ferryPivotSync(op) < 0 ||
        ferryPivotCheckTarget(op) < 0 ||
        ferryCopyRequireDisk(op) < 0 ||
        ferryPivotReopenTarget(op, backing, /* copying= */ false) < 0)
        return -1;

    /* in the journal before "pause" acts */
    copy->pause = ferryCopyMustPause(op);
    return 0;
}


static void
ferryPivotUnflush(ferryOp *op)
{
    g_autoptr(virStorageSource) backing = ferryPivotTargetBacking(op);

    ignore_value(ferryPivotReopenTarget(op, backing, /* copying= */ true));
    virResetLastError();
}


/* pause: stops the guest's CPUs where QEMU cannot hold its requests safely */
static int
ferryPivotPause(ferryOp *op)
{
    return ferryCopyOf(op)->pause ? ferryCopyPause(op) : 0;
}


static void
ferryPivotUnpause(ferryOp *op)
{
    if (ferryCopyOf(op)->pause)
        ferryCopyUnpause(op);
}


/* drain: makes both images the same and holds the guest's requests */
static bool
ferryPivotIsUnderWay(ferryOp *op)
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


static int
ferryPivotAwaitPending(ferryOp *op,
                       const char *jobname,
                       ferryJobInfo *info)
{
    unsigned int states = FERRY_JOB_STATE(PENDING) | FERRY_JOB_STATE(CONCLUDED);
    bool hold = op->holdJob;
    int rc;

    /* A target slower than the guest may never catch up. ferryCopyAbort() can end this
     * wait: the domain's job is not held meanwhile. */
    if (!ferryCopyOf(op)->pause)
        return ferryJobWait(op, jobname, states, /* timeout= */ 0, info);

    /* A client that got in now could let the guest go on. The guest does not write, so the
     * mirror has little left to do. */
    op->holdJob = true;
    rc = ferryJobWait(op, jobname, states, FERRY_PIVOT_PAUSE_MS, info);
    op->holdJob = hold;

    return rc;
}


static int
ferryPivotDrain(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    g_autofree char *jobname = ferryJobName(op, "mirror");
    g_auto(ferryJobInfo) info = { 0 };
    int rc;

    qemuDomainObjEnterMonitor(op->vm);
    rc = qemuMonitorJobComplete(qemuDomainGetMonitor(op->vm), jobname);
    qemuDomainObjExitMonitor(op->vm);

    /* a resumed step may have sent job-complete before, so that QEMU now refuses it */
    if (rc < 0 && !ferryPivotIsUnderWay(op))
        return -1;

    if (ferryPivotAwaitPending(op, jobname, &info) < 0)
        return -1;

    if (info.status == QEMU_MONITOR_JOB_STATUS_PENDING) {
        virResetLastError();
        return 0;
    }

    virReportError(VIR_ERR_OPERATION_FAILED,
                   _("block job '%1$s' failed while pivoting: %2$s; disk '%3$s' of domain '%4$s' "
                     "stays on the source"),
                   jobname, info.error ? info.error : _("it was cancelled"),
                   copy->dst, op->vm->def->name);
    return -1;
}


/* A guest whose CPUs are stopped must not go on while the mirror job drains its disk, so the
 * job goes first. If it does not end, "pause" is not undone either (op->stuck). */
static void
ferryPivotUndrain(ferryOp *op)
{
    g_autofree char *jobname = ferryJobName(op, "mirror");
    bool hold = op->holdJob;

    if (!ferryCopyOf(op)->pause || !ferryPivotIsUnderWay(op))
        return;

    op->holdJob = true;
    ignore_value(ferryJobKill(op, jobname));
    op->holdJob = hold;
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
     * but not if it is a copy-on-read filter, which stays on top of either image: then
     * take the error as a no. */
    if (info->status == QEMU_MONITOR_JOB_STATUS_CONCLUDED &&
        (!info->error || !disk || disk->copy_on_read == VIR_TRISTATE_SWITCH_ON))
        return !info->error;

    /* The guest has ejected the disk, so there is no node to ask for: what was past its
     * point of no return counts as done. */
    if (!disk)
        return 1;

    if (!(node = ferryQMPDiskNode(op->vm, disk)))
        return -1;

    return STREQ(node, copy->target->nodeformat);
}


/* Sends job-finalize, and again while the job stays PENDING: the guest waits as long as
 * the job does. Returns -1 if the job is PENDING after the last try, or on an error. */
static int
ferryPivotTellFinalize(ferryOp *op,
                       const char *jobname)
{
    size_t i;

    for (i = 0; i < FERRY_PIVOT_FINALIZE_TRIES; i++) {
        g_auto(ferryJobInfo) info = { 0 };
        int rc;

        if (i > 0 && ferryOpSleep(op, 1000) < 0)
            return -1;

        /* the caller's ferryJobWait() reports it */
        if (!virDomainObjIsActive(op->vm))
            return 0;

        qemuDomainObjEnterMonitor(op->vm);
        rc = qemuMonitorJobFinalize(qemuDomainGetMonitor(op->vm), jobname);
        qemuDomainObjExitMonitor(op->vm);

        if (rc == 0 || ferryJobQuery(op, jobname, &info) < 0 ||
            info.status != QEMU_MONITOR_JOB_STATUS_PENDING)
            return 0;
    }

    return -1;
}


/* finalize: the point of no return. The journal on the disk has this step already. */
static int
ferryPivotFinalize(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    g_autofree char *jobname = ferryJobName(op, "mirror");
    g_auto(ferryJobInfo) info = { 0 };
    bool hold = op->holdJob;
    int rc;

    /* The reply to job-finalize proves little: the job may still fail, the reply may be
     * lost, or this may be the second try. Ask for the job's result and disk's node. */
    /* a client that got in now could suspend or resume a guest whose CPUs are stopped */
    op->holdJob = hold || copy->pause;
    if ((rc = ferryPivotTellFinalize(op, jobname)) == 0)
        rc = ferryJobWait(op, jobname, FERRY_JOB_STATE(CONCLUDED),
                          copy->pause ? FERRY_PIVOT_PAUSE_MS : 0, &info);
    op->holdJob = hold;

    if (rc < 0)
        return FERRY_STEP_UNKNOWN;

    switch (ferryPivotHappened(op, &info)) {
    case 1:
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

    if (disk && disk->src != copy->target) {
        /* a shallow copy that we created uses the old image's backing chain; the owner of
         * a reused image chose its chain */
        if (copy->shallow && !copy->reuse &&
            !virStorageSourceIsBacking(copy->target->backingStore)) {
            virObjectUnref(copy->target->backingStore);
            copy->target->backingStore = g_steal_pointer(&copy->old->backingStore);
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
    virDomainDiskDef *disk;
    g_autofree char *jobname = ferryJobName(op, "mirror");
    virStorageSource *n;

    if (copy->old && ferryOpFileAnswers(op, copy->old) < 0)
        return FERRY_STEP_UNKNOWN;

    disk = ferryCopyDisk(op);

    /* after a restart copy->old comes from the journal, with images of the new chain */
    for (n = copy->old; virStorageSourceIsBacking(n); n = n->backingStore) {
        virStorageSource *m;

        for (m = disk ? disk->src : NULL; virStorageSourceIsBacking(m); m = m->backingStore) {
            if (n->backingStore && STREQ_NULLABLE(n->backingStore->nodeformat, m->nodeformat)) {
                g_clear_pointer(&n->backingStore, virObjectUnref);
                break;
            }
        }
    }

    ferryJobDismiss(op, jobname);
    if (copy->old)
        ferryNodeReleaseSource(op->vm, copy->old);
    ferryNodeRemove(op->vm, copy->old);
    ferryAccessRevoke(op->vm, copy->old);

    return 0;
}


const ferryPlan ferryCopyPivotPlan = {
    .name = "pivot",
    .steps = (const ferryStep[]) {
        { .name = "chain", .run = ferryPivotAddChain, .undo = ferryPivotRemoveChain },
        { .name = "bitmaps", .run = ferryPivotCarryBitmaps, .undo = ferryPivotDropBitmaps },
        { .name = "level", .run = ferryCopyAwaitLevel, .unrecorded = true },
        { .name = "flush", .run = ferryPivotFlush, .undo = ferryPivotUnflush },
        { .name = "pause", .run = ferryPivotPause, .undo = ferryPivotUnpause },
        { .name = "drain", .run = ferryPivotDrain, .undo = ferryPivotUndrain },
        { .name = "finalize", .run = ferryPivotFinalize, .durable = true },
        { .name = "unpause", .run = ferryPivotRunUnpause },
        { .name = "adopt", .run = ferryPivotAdopt },
        /* alone: the disk shows no copy any more that would keep others off it */
        { .name = "release", .run = ferryPivotRelease, .alone = true },
        { 0 },
    },
};
