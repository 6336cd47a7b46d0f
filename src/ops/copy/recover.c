/*
 * recover.c: block copy: recovery after the driver or QEMU ended
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "block/access.h"
#include "block/nodename.h"
#include "block/qmp.h"
#include "engine/engine.h"
#include "engine/journal.h"
#include "engine/plan.h"
#include "engine/wait.h"
#include "ops/copy/adopt.h"
#include "ops/copy/control.h"
#include "ops/copy/data.h"
#include "ops/copy/pivot.h"
#include "ops/copy/react.h"
#include "ops/copy/recover.h"
#include "ops/copy/start.h"
#include "ops/event.h"
#include "ops/opfile.h"
#include "ops/opvolume.h"
#include "ops/pause.h"
#include "virerror.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.copy");


/* Finds out onto which image of its own chain @disk is copied: QEMU knows how many there are below the
 * target. Which images are copied already, nobody knows: copy->layer stays NULL. */
static void
ferryCopyGuessBase(virDomainObj *vm,
                   virDomainDiskDef *disk,
                   ferryCopy *copy)
{
    int depth;
    int below = 0;
    virStorageSource *n;

    if (!virStorageSourceHasBacking(disk->src) || virStorageSourceHasBacking(copy->target) ||
        (depth = ferryQMPBackingDepth(vm, ferryNodeName(copy->target))) == 0)
        return;

    copy->shallow = copy->own = true;

    for (n = disk->src->backingStore; virStorageSourceIsBacking(n); n = n->backingStore)
        below++;

    for (n = disk->src->backingStore; virStorageSourceIsBacking(n) && below > depth; n = n->backingStore)
        below--;

    if (n != disk->src->backingStore && below == depth)
        copy->base = g_strdup(ferryNodeName(n));
}


/* Makes up the data of a copy of @disk to its mirror that no journal has. What was at the
 * target before is unknown, so undo must not remove the target: FERRY_IMAGE_FOREIGN. */
static ferryCopy *
ferryCopyGuess(virDomainObj *vm,
               virDomainDiskDef *disk,
               bool moved)
{
    ferryCopy *copy = g_new0(ferryCopy, 1);

    copy->dst = g_strdup(disk->dst);
    copy->target = virObjectRef(disk->mirror);
    copy->origin = FERRY_IMAGE_FOREIGN;
    ferryCopyGuessBase(vm, disk, copy);

    if (moved) {
        copy->goal = FERRY_COPY_GOAL_PIVOT;
        copy->old = virObjectRef(disk->src);
    }

    return copy;
}


/* Makes up the operation. With the guest on the source, the copy goes on if its mirror
 * job still runs; with the guest on the target, a pivot has to be finished. */
static void
ferryCopyReviveDisk(const ferryOpClass *klass,
                    virDomainObj *vm,
                    virDomainDiskDef *disk,
                    const char *name)
{
    g_autofree char *node = ferryQMPDiskNode(vm, disk);
    bool moved = STREQ_NULLABLE(node, ferryNodeName(disk->mirror));
    g_autoptr(ferryOp) op = NULL;

    if (!node || ferryNodeHasFilter(disk)) {
        VIR_ERROR(_("domain '%1$s': the journal of the copy of disk '%2$s' to '%3$s' was lost; find out "
                    "which image the guest uses before you shut it off"),
                  vm->def->name, disk->dst, NULLSTR(disk->mirror->path));
        return;
    }

    VIR_WARN("domain '%s': the journal of the copy of disk '%s' to '%s' was lost; the guest uses '%s'",
             vm->def->name, disk->dst, NULLSTR(disk->mirror->path),
             NULLSTR(moved ? disk->mirror->path : disk->src->path));

    op = ferryOpNew(vm, klass, name, ferryCopyGuess(vm, disk, moved));

    ferryPlanAssume(op, &ferryCopyStartPlan, /* last= */ NULL);
    if (moved)
        ferryPlanAssume(op, &ferryCopyPivotPlan, "finalize");
}


/**
 * ferryCopyRevive:
 *
 * The driver was restarted, QEMU still runs: makes up an operation for every disk that
 * has a copy's mirror but neither a stock block job nor an operation in the journal.
 */
void
ferryCopyRevive(const ferryOpClass *klass,
                virDomainObj *vm)
{
    size_t i;

    for (i = 0; i < vm->def->ndisks; i++) {
        virDomainDiskDef *disk = vm->def->disks[i];
        g_autofree char *name = g_strdup_printf("copy-%s", disk->dst);

        if (disk->mirror && disk->mirrorJob == VIR_DOMAIN_BLOCK_JOB_TYPE_COPY &&
            !QEMU_DOMAIN_DISK_PRIVATE(disk)->blockjob && !ferryOpFind(vm, name))
            ferryCopyReviveDisk(klass, vm, disk, name);
    }
}


/* After a restart the disk's images come from the status file, those of the copy from
 * the journal: makes both use the same objects again. */
static void
ferryCopyRejoin(ferryOp *op,
                virDomainDiskDef *disk)
{
    ferryCopy *copy = ferryCopyOf(op);
    virStorageSource *live = NULL;

    if (STREQ_NULLABLE(ferryNodeName(disk->src), ferryNodeName(copy->target)))
        live = disk->src;
    else if (disk->mirror && STREQ_NULLABLE(ferryNodeName(disk->mirror), ferryNodeName(copy->target)))
        live = disk->mirror;

    if (live) {
        if (ferryCopyIsDetected(copy->target))
            ferryCopySetDetected(live);
        virObjectUnref(copy->target);
        copy->target = virObjectRef(live);
    }

    ferryCopyTakeOptions(copy->target, disk);

    /* not after "adopt": disk->src is the target by then, or what somebody has put onto the target since,
     * by a snapshot */
    if (copy->old && STREQ_NULLABLE(ferryNodeName(copy->old), ferryNodeName(disk->src))) {
        virObjectUnref(copy->old);
        copy->old = virObjectRef(disk->src);
    }

    copy->granted = ferryPlanReached(op, &ferryCopyStartPlan, "access");
    copy->ready = disk->mirrorState != VIR_DOMAIN_DISK_MIRROR_STATE_NONE;
}


/* The disk is gone: takes back what does not need it, or after the point of no return goes
 * on to the configuration. If that cannot be saved, the end of QEMU or the next driver
 * tries again. */
static void
ferryCopyRecoverGone(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    bool forward = ferryPlanPastReturn(op, &ferryCopyPivotPlan);

    VIR_WARN("domain '%s' has no disk '%s' any more: its copy to '%s' is %s",
             op->vm->def->name, copy->dst, NULLSTR(copy->target->path),
             forward ? "finished without it" : "taken back");

    copy->granted = ferryPlanReached(op, &ferryCopyStartPlan, "access");

    if (forward && ferryPlanResume(op, &ferryCopyPivotPlan) < 0) {
        /* the mirror job may have failed after all: then the pivot is undone by now */
        if ((forward = ferryPlanPastReturn(op, &ferryCopyPivotPlan)))
            return;
    }

    if (!forward && (ferryPlanUndo(op, &ferryCopyPivotPlan) < 0 ||
                     ferryPlanUndo(op, &ferryCopyStartPlan) < 0))
        return;

    if (op->over)
        return;

    ferryOpEnd(op);
    ferryEventBlockJobNamed(op->vm, copy->dst, VIR_DOMAIN_BLOCK_JOB_TYPE_COPY,
                            forward ? VIR_DOMAIN_BLOCK_JOB_COMPLETED : VIR_DOMAIN_BLOCK_JOB_FAILED);
}


/**
 * ferryCopyRecall:
 *
 * The driver was restarted: QEMU may still use the target. Domain locked.
 */
void
ferryCopyRecall(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    virStorageSource *backing = copy->target->backingStore;

    if (!ferryPlanReached(op, &ferryCopyStartPlan, "access"))
        return;

    /* what is below such a target is opened by the pivot */
    if (copy->overlay && !ferryPlanReached(op, &ferryCopyPivotPlan, "chain"))
        copy->target->backingStore = NULL;
    ferryAccessRecall(op->vm, copy->target);
    copy->target->backingStore = backing;
}


/**
 * ferryCopyRecover:
 *
 * The driver was restarted, QEMU still runs. A running copy goes on. A copy that was being
 * started is undone, unless the step of its first job had begun: its client has got no answer. A
 * requested abort or pivot is carried out; if the mirror job still runs, by a worker,
 * because the caller, the reconnecting thread, must not wait long. Domain locked, job held.
 */
void
ferryCopyRecover(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    virDomainDiskDef *disk = ferryCopyDisk(op);
    bool started = ferryPlanReached(op, &ferryCopyStartPlan, ferryCopyFirstJob(copy));
    g_autofree char *jobname = ferryJobName(op, "mirror");
    g_auto(ferryJobInfo) info = { 0 };

    if (!disk) {
        ferryCopyRecoverGone(op);
        return;
    }

    ferryCopyRejoin(op, disk);
    copy->moved = ferryPlanReached(op, &ferryCopyPivotPlan, "unpause");
    /* a call that was refused has taken that back */
    copy->told = ferryPlanReached(op, &ferryCopyPivotPlan, "drain") && !op->withdrawn;

    if (op->withdrawn) {
        copy->goal = FERRY_COPY_GOAL_MIRROR;
        g_clear_pointer(&op->leader, g_free);
    }

    /* the storage driver, which has to be asked, may be slow: a worker does that */
    if (!started && copy->volume) {
        copy->refused = true;
        ignore_value(ferryEngineSubmit(op));
        return;
    }

    if (!started || copy->pending) {
        if (ferryPlanUndo(op, &ferryCopyStartPlan) == 0)
            ferryOpEnd(op);
        return;
    }

    /* a worker goes on with the whole group, when all its members are there again */
    if (op->leader && !ferryPlanPastReturn(op, &ferryCopyPivotPlan)) {
        ignore_value(ferryEngineSubmit(op));
        return;
    }

    if (ferryJobQuery(op, jobname, &info) < 0)
        return;

    /* the agent is connected later */
    if (copy->quiesce.frozen) {
        copy->rewind = true;
        ignore_value(ferryEngineSubmit(op));
        return;
    }

    if (ferryCopyRewind(op, &info) < 0)
        return;

    if (copy->goal == FERRY_COPY_GOAL_MIRROR ||
        info.status == QEMU_MONITOR_JOB_STATUS_PENDING ||
        info.status == QEMU_MONITOR_JOB_STATUS_CONCLUDED ||
        info.status == QEMU_MONITOR_JOB_STATUS_UNKNOWN)
        ferryCopyJobChanged(op);
    else
        ignore_value(ferryEngineSubmit(op));
}


/* Returns whether the configuration named the target once: whoever has changed it since knew what he
 * did. */
static bool
ferryCopyIsAdopted(ferryOp *op)
{
    return ferryPlanReached(op, &ferryCopyPivotPlan, "release");
}


/* Makes the configuration name the target, and remembers that. Returns 0, or -1 with an error
 * reported. */
static int
ferryCopyAdoptOnce(ferryOp *op)
{
    if (ferryCopyIsAdopted(op))
        return 0;

    if (op->vm && ferryCopyAdoptConfig(op) < 0)
        return -1;

    op->blocksStart = false;
    ferryPlanAssume(op, &ferryCopyPivotPlan, "release");

    /* At the end of QEMU, and when the driver starts, the caller writes it if @op cannot end yet. In the latter
     * case the list does not have all operations of the journal yet. */
    if (op->stopped && op->vm && ferryOpFind(op->vm, op->name) == op &&
        ferryJournalWrite(op->vm, /* durable= */ true) < 0)
        VIR_WARN("%s", virGetLastErrorMessage());
    return 0;
}


/* Returns whether the domain was started on the old image after the pivot, by a driver that
 * knew nothing of the journal: what the guest has written there since must not be lost. A transient
 * domain has no configuration that could have named the target. */
static bool
ferryCopyIsRevived(ferryOp *op,
                   virDomainDiskDef *disk)
{
    ferryCopy *copy = ferryCopyOf(op);

    return op->vm && disk && copy->old && op->stopped && op->vm->pid != 0 &&
           (!op->vm->persistent || !ferryCopyIsAdopted(op)) &&
           virStorageSourceIsSameLocation(disk->src, copy->old);
}


/* Reports, and the first time also logs, that the configuration cannot be saved. */
static void
ferryCopyReportUnsaved(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    g_autoptr(virQEMUDriverConfig) cfg = virQEMUDriverGetConfig(op->driver);
    g_autofree char *why = g_strdup(virGetLastErrorMessage());

    virReportError(VIR_ERR_OPERATION_INVALID,
                   _("domain '%1$s' cannot start yet: disk '%2$s' is on '%3$s', but its "
                     "configuration, which names the out-of-date '%4$s', cannot be saved (%5$s); make space in "
                     "'%6$s' or make it writable, and try again"),
                   op->vm->def->name, copy->dst, NULLSTR(copy->target->path),
                   copy->old ? NULLSTR(copy->old->path) : "", why, cfg->configDir);

    if (!copy->reported)
        VIR_ERROR("%s", virGetLastErrorMessage());
    copy->reported = true;
    op->blocksStart = true;
}


/* Returns 0 if the target's storage answers, and the volume that it was is deleted; or -1 with an
 * error reported. */
static int
ferryCopyAwaitTarget(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    GPtrArray *paths = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) volumes = ferryCopyVolumes(op);

    ferryOpFileList(paths, copy->target, copy->origin);
    if (ferryOpFileAwait(op, paths) == 0 && ferryOpVolumeDelete(op, volumes, &copy->removal) == 0)
        return 0;

    VIR_WARN("the target of the copy of disk '%s' cannot be removed yet: %s",
             copy->dst, virGetLastErrorMessage());
    return -1;
}


/* Revokes access to the old image, which the driver would have done if QEMU had lived: the live
 * definition does not name it any more, so that the stock driver leaves it as it was for QEMU.
 * Returns 0, or -1 if its storage does not answer. */
static int
ferryCopyReleaseOld(ferryOp *op,
                    virDomainDiskDef *disk)
{
    ferryCopy *copy = ferryCopyOf(op);
    GPtrArray *paths = NULL;

    if (!disk || !copy->old || virStorageSourceIsSameLocation(disk->src, copy->old))
        return 0;

    ferryCopyCutOld(op);
    paths = g_ptr_array_new_with_free_func(g_free);
    ferryOpFileAdd(paths, copy->old);
    if (ferryOpFileAwait(op, paths) < 0) {
        VIR_WARN("disk '%s' of domain '%s' has left '%s', which keeps QEMU's labels until its "
                 "storage answers: %s",
                 copy->dst, op->vm->def->name, NULLSTR(copy->old->path),
                 virGetLastErrorMessage());
        return -1;
    }

    ferryAccessDrop(op->vm, copy->old);
    return 0;
}


/**
 * ferryCopyStopped:
 *
 * QEMU is gone, or the host was restarted. If the guest may have written to the target,
 * makes the configuration name the target, once; else removes what the copy created. Ends the
 * operation, unless the configuration cannot be saved, or the storage of what is left does not
 * answer: an error is reported then. Without the configuration the domain must not start. Domain
 * locked; op->vm is NULL if the domain is gone.
 */
void
ferryCopyStopped(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    virDomainDiskDef *disk = op->vm ? ferryCopyDisk(op) : NULL;
    bool forward = ferryPlanPastReturn(op, &ferryCopyPivotPlan);
    bool again = op->stopped;

    if (op->vm && copy->pause)
        ferryPauseForget(op->vm);
    copy->pause = false;

    if (disk && disk->mirror == copy->target)
        g_clear_pointer(&disk->mirror, virObjectUnref);

    if (!forward) {
        if (ferryCopyAwaitTarget(op) == 0) {
            ferryCopyRestoreTarget(op);
            ferryOpEnd(op);
        }
    } else if (ferryCopyIsRevived(op, disk)) {
        VIR_WARN("disk '%s' of domain '%s' had moved to '%s', and the domain was started on '%s' "
                 "again without Ferry: its configuration is not changed; compare both images",
                 copy->dst, op->vm->def->name, NULLSTR(copy->target->path),
                 NULLSTR(copy->old->path));
        ferryOpEnd(op);
    } else if (ferryCopyAdoptOnce(op) < 0) {
        ferryCopyReportUnsaved(op);
    } else if (ferryCopyReleaseOld(op, disk) == 0) {
        ferryOpEnd(op);
    }

    /* clients of the driver that saw QEMU run, and these once */
    if (op->vm && !again)
        ferryEventBlockJobNamed(op->vm, copy->dst, VIR_DOMAIN_BLOCK_JOB_TYPE_COPY,
                                forward ? VIR_DOMAIN_BLOCK_JOB_COMPLETED :
                                          VIR_DOMAIN_BLOCK_JOB_FAILED);
}
