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
#include "block/identity.h"
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


/* Gives the target's nodes the options for the mirror phase (@copying), or those of the
 * disk's definition. A reopen flushes the image. */
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

    /* ignored: storage that cannot bypass the cache did not do so before either */
    if (copying && ferryNodeMayBypassCache(op->vm, target)) {
        target->cachemode = VIR_DOMAIN_DISK_CACHE_DISABLE;
        ignore_value(ferryNodeReopenStorage(op->vm, target));
    }

    target->cachemode = disk->cachemode;
    target->discard = disk->discard;
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
                   _("the target '%1$s' of disk '%2$s' of domain '%3$s' was replaced: its name does not "
                     "lead to the file that was copied to any more; the disk stays on the source; put "
                     "the file back under its name, or abort the copy"),
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

    return ferryBitmapsCarry(op->vm, ferryCopyDisk(op)->src, copy->target, copy->shallow);
}


static void
ferryPivotDropBitmaps(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);

    ferryBitmapsDrop(op->vm, ferryCopyDisk(op)->src, copy->target);
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
ferryPivotFlush(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    g_autoptr(virStorageSource) backing = ferryPivotTargetBacking(op);

    /* Recovery must find the old chain even after "adopt" took it out of the definition.
     * It is set here because the journal entry of "drain", the next step, is the last
     * full one before the point of no return. */
    if (!copy->old)
        copy->old = virObjectRef(ferryCopyDisk(op)->src);

    virObjectUnlock(op->vm);
    ferryImageSync(copy->target);
    virObjectLock(op->vm);

    return ferryPivotReopenTarget(op, backing, /* copying= */ false);
}


static void
ferryPivotUnflush(ferryOp *op)
{
    g_autoptr(virStorageSource) backing = ferryPivotTargetBacking(op);

    ignore_value(ferryPivotReopenTarget(op, backing, /* copying= */ true));
    virResetLastError();
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

    /* a resumed step may have sent job-complete before, so that QEMU now refuses it */
    if (rc < 0 && !ferryPivotIsUnderWay(op))
        return -1;

    /* A target slower than the guest may never catch up. ferryCopyAbort() can end this
     * wait: the domain's job is not held meanwhile. */
    if (ferryJobWait(op, jobname, FERRY_JOB_STATE(PENDING) | FERRY_JOB_STATE(CONCLUDED),
                     /* timeout= */ 0, &info) < 0)
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
        (!info->error || disk->copy_on_read == VIR_TRISTATE_SWITCH_ON))
        return !info->error;

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

    /* The reply to job-finalize proves little: the job may still fail, the reply may be
     * lost, or this may be the second try. Ask for the job's result and disk's node. */
    if (ferryPivotTellFinalize(op, jobname) < 0 ||
        ferryJobWait(op, jobname, FERRY_JOB_STATE(CONCLUDED), /* timeout= */ 0, &info) < 0)
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


/* Returns the persistent definition, NULL for a transient domain. While the domain runs,
 * and right after QEMU has ended, it is vm->newDef. */
static virDomainDef *
ferryPivotConfig(virDomainObj *vm)
{
    if (!vm->persistent)
        return NULL;

    return virDomainObjIsActive(vm) || vm->newDef ? vm->newDef : vm->def;
}


/* Returns the copied disk in @def, or NULL if its source is not the old image. */
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
 * Makes the persistent definition name the target, if it names the source. Domain locked;
 * it may be shut off.
 *
 * Returns 0, or -1 with an error reported: the definition on the disk may still name the
 * source then, so keep the journal, or tell the user.
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
            virStorageSourceInitChainElement(src, disk->src, /* transferLabels= */ true) < 0)
            return -1;

        virObjectUnref(disk->src);
        disk->src = g_steal_pointer(&src);
    }

    /* also when the disk names the target already: an earlier save may have failed */
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


/* adopt: makes the live and the persistent definition name the target */
static int
ferryPivotAdopt(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    virDomainDiskDef *disk = ferryCopyDisk(op);

    if (disk->src != copy->target) {
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

    g_clear_pointer(&disk->mirror, virObjectUnref);
    disk->mirrorJob = VIR_DOMAIN_BLOCK_JOB_TYPE_UNKNOWN;
    disk->mirrorState = VIR_DOMAIN_DISK_MIRROR_STATE_NONE;
    qemuDomainSaveStatus(op->vm);

    if (ferryCopyAdoptConfig(op) < 0)
        return FERRY_STEP_UNKNOWN;

    return 0;
}


/* release: removes nodes and access of the old images that the new chain does not use */
static int
ferryPivotRelease(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    virDomainDiskDef *disk = ferryCopyDisk(op);
    g_autofree char *jobname = ferryJobName(op, "mirror");
    virStorageSource *n;

    /* after a restart copy->old comes from the journal, with images of the new chain */
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
        { .name = "flush", .run = ferryPivotFlush, .undo = ferryPivotUnflush },
        { .name = "drain", .run = ferryPivotDrain },
        { .name = "finalize", .run = ferryPivotFinalize, .durable = true },
        { .name = "adopt", .run = ferryPivotAdopt },
        { .name = "release", .run = ferryPivotRelease },
        { 0 },
    },
};
