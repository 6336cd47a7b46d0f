/*
 * pivot.c: block copy: the steps that move the guest to the target
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Theory of operation
 *
 * Once the guest writes to the target, the source is old, and whoever takes it
 * for the disk again loses those writes. So "the guest moved" must be known
 * for good before the first such write, even if QEMU, the driver and the host
 * die right after it. The mirror job therefore waits for us: job-complete
 * makes it drain the disk and stop in state PENDING, both images the same and
 * the guest's requests held back; we write to the journal that it goes
 * forward; job-finalize lets the guest on, on the target.
 *
 * What takes time is done before the drain: the target's caches are flushed
 * and its cache mode set while the guest still works on the source.
 *
 *  - Before "finalize" is in the journal, the guest is on the source.
 *  - After it, QEMU tells; a QEMU that is gone had both images the same, or
 *    the target newer: forward.
 */

#include <config.h>

#include "block/access.h"
#include "block/bitmap.h"
#include "block/node.h"
#include "block/qmp.h"
#include "block/source.h"
#include "engine/wait.h"
#include "ops/copy/data.h"
#include "ops/copy/pivot.h"
#include "qemu/qemu_block.h"
#include "qemu/qemu_monitor.h"
#include "virerror.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.pivot");

#define FERRY_PIVOT_FINALIZE_TRIES 3


/* Gives the target's nodes the options of a copy under way, or those of the
 * disk's definition. QEMU flushes the image while it does so. */
static int
ferryPivotReopenTarget(ferryOp *op,
                       virStorageSource *backing,
                       bool copying)
{
    virStorageSource *target = ferryCopyOf(op)->target;
    virDomainDiskDef *disk = ferryCopyDisk(op);
    int rc;

    target->cachemode = disk->cachemode;
    target->iomode = disk->iomode;
    target->discard = disk->discard;
    target->detect_zeroes = disk->detect_zeroes;

    if (copying)
        target->discard = ferryCopyDiscard(op);

    rc = ferryNodeReopen(op->vm, target, backing);

    /* where the storage cannot, it was not so before either */
    if (copying && ferryNodeMayBypassCache(target)) {
        target->cachemode = VIR_DOMAIN_DISK_CACHE_DISABLE;
        ignore_value(ferryNodeReopenStorage(op->vm, target));
    }

    target->cachemode = disk->cachemode;
    target->discard = disk->discard;
    return rc;
}


/* chain: open what lies below a reused image, which its owner was free to fill
 * until now */
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
    if (ferryPivotReopenTarget(op, none, true) < 0)
        VIR_WARN("target of disk '%s' keeps its backing chain: %s",
                 copy->dst, virGetLastErrorMessage());
    ferryNodeRemove(op->vm, copy->target->backingStore);
}


/* bitmaps: checkpoints go on with the target */
static int
ferryPivotCarryBitmaps(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);

    return ferryBitmapsCarry(op->vm, ferryCopyDisk(op)->src, copy->target, copy->shallow);
}


static void
ferryPivotDropBitmaps(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);

    ferryBitmapsDrop(op->vm, ferryCopyDisk(op)->src, copy->target);
}


/* flush: nothing may be left to write out while the guest is drained, and the
 * disk's own cache mode holds from here on */
static virStorageSource *
ferryPivotTargetBacking(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);

    if (ferryPivotHasLateChain(copy))
        return virObjectRef(copy->target->backingStore);

    return ferryCopyTargetBacking(op);
}


static int
ferryPivotFlush(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    g_autoptr(virStorageSource) backing = ferryPivotTargetBacking(op);

    /* Recovery must find the chain that is to go even when the definition no
     * longer has it: the next step's journal entry, the last full one before
     * the point of no return, takes it along. */
    if (!copy->old)
        copy->old = virObjectRef(ferryCopyDisk(op)->src);

    virObjectUnlock(op->vm);
    ferryImageSync(copy->target);
    virObjectLock(op->vm);

    return ferryPivotReopenTarget(op, backing, false);
}


static void
ferryPivotUnflush(ferryOp *op)
{
    g_autoptr(virStorageSource) backing = ferryPivotTargetBacking(op);

    ignore_value(ferryPivotReopenTarget(op, backing, true));
    virResetLastError();
}


/* drain: the guest's requests wait, both images are the same */
static bool
ferryPivotIsUnderWay(ferryOp *op)
{
    g_autofree char *jobname = ferryJobName(op, "mirror");
    g_auto(ferryJobInfo) info = { 0 };
    virErrorPtr err = NULL;
    bool ready;

    virErrorPreserveLast(&err);
    ready = ferryJobQuery(op, jobname, &info) < 0 ||
            info.status == QEMU_MONITOR_JOB_STATUS_READY ||
            info.status == QEMU_MONITOR_JOB_STATUS_STANDBY;
    virErrorRestore(&err);

    return !ready;
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

    /* a step that is resumed may have said so already */
    if (rc < 0 && !ferryPivotIsUnderWay(op))
        return -1;

    /* A target slower than the guest may never catch up: an abort gets in
     * while this waits, and ends it. */
    if (ferryJobWait(op, jobname, FERRY_JOB_STATE(PENDING) | FERRY_JOB_STATE(CONCLUDED),
                     0, &info) < 0)
        return -1;

    if (info.status == QEMU_MONITOR_JOB_STATUS_PENDING) {
        virResetLastError();
        return 0;
    }

    virReportError(VIR_ERR_OPERATION_FAILED,
                   _("block job '%1$s' failed while pivoting: %2$s; disk '%3$s' of domain '%4$s' "
                     "stays where it was"),
                   jobname, info.error ? info.error : _("it was cancelled"),
                   copy->dst, op->vm->def->name);
    return -1;
}


/* Asks QEMU whether the guest is on the target. 1: yes, 0: no, -1: unknown. */
static int
ferryPivotHappened(ferryOp *op,
                   const ferryJobInfo *info)
{
    ferryCopy *copy = ferryCopyOf(op);
    virDomainDiskDef *disk = ferryCopyDisk(op);
    g_autofree char *node = NULL;

    /* A job that was finalized and has no error did what it was for. One that
     * failed did not, as far as can be told under a copy-on-read filter, which
     * stays on top of whichever image it is. */
    if (info->status == QEMU_MONITOR_JOB_STATUS_CONCLUDED &&
        (!info->error || disk->copy_on_read == VIR_TRISTATE_SWITCH_ON))
        return !info->error;

    if (!(node = ferryQMPDiskNode(op->vm, disk)))
        return -1;

    return STREQ(node, copy->target->nodeformat);
}


/* A job that QEMU was not told to end waits for ever, and the guest with it: is told
 * again as long as it waits, up to a few times. Returns -1 if it still does. */
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

        /* whoever waits for it sees that */
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


/* finalize: the point of no return; that this step was begun is on the disk */
static int
ferryPivotFinalize(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    g_autofree char *jobname = ferryJobName(op, "mirror");
    g_auto(ferryJobInfo) info = { 0 };

    /* The reply says little: a job may be finalized and fail, or the reply be
     * lost, or this be the second try. How the job ended counts, and where the
     * disk is. */
    if (ferryPivotTellFinalize(op, jobname) < 0 ||
        ferryJobWait(op, jobname, FERRY_JOB_STATE(CONCLUDED), 0, &info) < 0)
        return FERRY_STEP_UNKNOWN;

    switch (ferryPivotHappened(op, &info)) {
    case 1:
        virResetLastError();
        return 0;
    case 0:
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("block job '%1$s' failed while pivoting: %2$s; disk '%3$s' of domain '%4$s' "
                         "stays where it was"),
                       jobname, NULLSTR(info.error), copy->dst, op->vm->def->name);
        return FERRY_STEP_FAILED;
    default:
        return FERRY_STEP_UNKNOWN;
    }
}


/* The persistent definition: beside the live one while the domain runs or QEMU
 * has only just gone. NULL for a transient domain. */
static virDomainDef *
ferryPivotConfig(virDomainObj *vm)
{
    if (!vm->persistent)
        return NULL;

    return virDomainObjIsActive(vm) || vm->newDef ? vm->newDef : vm->def;
}


/* Its disk, if it is still the one that was copied. */
static virDomainDiskDef *
ferryPivotConfigDisk(ferryOp *op,
                     virDomainDef *def)
{
    ferryCopy *copy = ferryCopyOf(op);
    virDomainDiskDef *disk = virDomainDiskByTarget(def, copy->dst);

    if (!disk || !copy->old || !virStorageSourceIsSameLocation(disk->src, copy->old))
        return NULL;

    return disk;
}


/**
 * ferryCopyAdoptConfig:
 *
 * Makes the persistent definition name the target, if it named the source.
 * Domain locked; it may be shut off, and QEMU gone.
 *
 * Returns 0, or -1 with an error reported when it could not be saved: then it
 * still names the source on the disk, and the journal must not be dropped.
 */
int
ferryCopyAdoptConfig(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    g_autoptr(virQEMUDriverConfig) cfg = virQEMUDriverGetConfig(op->driver);
    virDomainDef *def = ferryPivotConfig(op->vm);
    g_autoptr(virStorageSource) src = NULL;
    virDomainDiskDef *disk;

    if (!def)
        return 0;

    if ((disk = ferryPivotConfigDisk(op, def))) {
        if (!(src = ferrySourceAsConfig(copy->target, op->driver->xmlopt)) ||
            virStorageSourceInitChainElement(src, disk->src, true) < 0)
            return -1;

        virObjectUnref(disk->src);
        disk->src = g_steal_pointer(&src);
    }

    /* Also when the disk was changed before: that it was saved is not sure. */
    if (virDomainDefSave(def, op->driver->xmlopt, cfg->configDir) < 0) {
        virErrorPtr err = NULL;

        virErrorPreserveLast(&err);
        VIR_ERROR(_("disk '%1$s' of domain '%2$s' is on '%3$s' now, but the configuration could not "
                    "be saved"), copy->dst, op->vm->def->name, NULLSTR(copy->target->path));
        virErrorRestore(&err);
        return -1;
    }

    return 0;
}


/* adopt: the definitions say what is */
static int
ferryPivotAdopt(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    virDomainDiskDef *disk = ferryCopyDisk(op);

    if (disk->src != copy->target) {
        /* a shallow copy that we created goes on with the chain below the old
         * image; what is below one that was given to us, its owner knows */
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

    g_clear_pointer(&disk->mirror, virObjectUnref);
    disk->mirrorJob = VIR_DOMAIN_BLOCK_JOB_TYPE_UNKNOWN;
    disk->mirrorState = VIR_DOMAIN_DISK_MIRROR_STATE_NONE;
    qemuDomainSaveStatus(op->vm);

    if (ferryCopyAdoptConfig(op) < 0)
        return FERRY_STEP_UNKNOWN;

    return 0;
}


/* release: the old image's nodes and rights go, except for what the new chain
 * uses */
static int
ferryPivotRelease(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    virDomainDiskDef *disk = ferryCopyDisk(op);
    g_autofree char *jobname = ferryJobName(op, "mirror");
    virStorageSource *n;

    /* after a restart the old chain is a copy that still has the shared part */
    for (n = copy->old; virStorageSourceIsBacking(n); n = n->backingStore) {
        virStorageSource *m;

        for (m = disk->src; virStorageSourceIsBacking(m); m = m->backingStore) {
            if (n->backingStore && STREQ_NULLABLE(n->backingStore->nodeformat, m->nodeformat)) {
                g_clear_pointer(&n->backingStore, virObjectUnref);
                break;
            }
        }
    }

    ferryJobDismiss(op, jobname);
    ferryNodeRemove(op->vm, copy->old);
    ferryAccessRevoke(op->vm, copy->old);

    return 0;
}


const ferryPlan ferryCopyPivotPlan = {
    .name = "pivot",
    .steps = (const ferryStep[]) {
        { .name = "chain", .run = ferryPivotAddChain, .undo = ferryPivotRemoveChain },
        { .name = "bitmaps", .run = ferryPivotCarryBitmaps, .undo = ferryPivotDropBitmaps },
        { .name = "flush", .run = ferryPivotFlush, .undo = ferryPivotUnflush },
        { .name = "drain", .run = ferryPivotDrain },
        { .name = "finalize", .run = ferryPivotFinalize, .durable = true },
        { .name = "adopt", .run = ferryPivotAdopt },
        { .name = "release", .run = ferryPivotRelease },
        { 0 },
    },
};
