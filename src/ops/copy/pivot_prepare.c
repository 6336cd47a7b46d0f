/*
 * pivot_prepare.c: block copy: the steps of a pivot while the guest still works on the source
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What is slow, or can fail, is done here: see pivot.c. The abort of a group of copies takes the
 * same steps, but its guest stays on the source: these do nothing then for the target's chain and
 * bitmaps.
 */

#include <config.h>

#include "block/access.h"
#include "block/bitmap.h"
#include "block/cache.h"
#include "block/durable.h"
#include "block/identity.h"
#include "block/node.h"
#include "block/nodename.h"
#include "block/qmp.h"
#include "engine/checkpoints.h"
#include "engine/wait.h"
#include "ops/copy/data.h"
#include "ops/copy/pivot_prepare.h"
#include "ops/opfile.h"
#include "qemu/qemu_monitor.h"
#include "virerror.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.pivot");

/* How long the addition of a checkpoint is waited for. */
#define FERRY_PIVOT_CHECKPOINTS_MS (30 * 1000)
#define FERRY_PIVOT_POLL_MS 100


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
    return ferryCopyOpensLate(copy) && virStorageSourceHasBacking(copy->target);
}


/* The images below the target of a mirrored snapshot may have been put there since it began. Finds
 * out what they are, and lets QEMU use them. */
static int
ferryPivotTakeOverlayChain(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);

    if (!copy->overlay)
        return 0;

    if (ferryOpFileAnswers(op, copy->target) < 0 ||
        ferryOpFileAnswers(op, copy->target->backingStore) < 0 || ferryCopyRequireDisk(op) < 0)
        return -1;

    /* libvirt would wait for a FIFO's other end */
    if (!ferryImageIsOpenable(copy->target->backingStore)) {
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("'%1$s', below the mirror of disk '%2$s' of domain '%3$s', is neither a file nor a block "
                         "device"),
                       NULLSTR(copy->target->backingStore->path), copy->dst, op->vm->def->name);
        return -1;
    }

    if (qemuDomainDetermineDiskChain(op->driver, op->vm, ferryCopyDisk(op), copy->target) < 0)
        return -1;

    return ferryAccessGrant(op->vm, copy->target->backingStore);
}


int
ferryPivotAddChain(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    g_autoptr(virJSONValue) actions = virJSONValueNewArray();

    if (copy->goal == FERRY_COPY_GOAL_ABORT)
        return 0;

    if (ferryPivotCheckTarget(op) < 0)
        return -1;

    if (!ferryPivotHasLateChain(copy))
        return 0;

    if (ferryPivotTakeOverlayChain(op) < 0 ||
        ferryNodeAddChain(op->vm, copy->target->backingStore) < 0 ||
        qemuMonitorTransactionSnapshotBlockdev(actions,
                                               ferryNodeName(copy->target->backingStore),
                                               ferryNodeName(copy->target)) < 0)
        return -1;

    return ferryQMPTransaction(op->vm, &actions);
}


void
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
    if (copy->overlay)
        ferryAccessRevoke(op->vm, copy->target->backingStore);
}


/* Waits until no operation is adding or deleting a checkpoint: its bitmap would be in the old image
 * only. From here to "adopt" none begins (ferryCopyNeedsCheckpoints()). */
static int
ferryPivotAwaitCheckpoints(ferryOp *op)
{
    unsigned int waited = 0;

    while (ferryCopyOf(op)->goal != FERRY_COPY_GOAL_ABORT && !ferryCheckpointsAreFree(op->vm, op->klass)) {
        /* with the job, the other one would not get on */
        if (waited >= FERRY_PIVOT_CHECKPOINTS_MS || op->holdJob)
            return ferryCheckpointsCheckFree(op->vm, op->klass);

        if (ferryOpSleep(op, FERRY_PIVOT_POLL_MS) < 0)
            return -1;
        waited += FERRY_PIVOT_POLL_MS;
    }

    return 0;
}


/* bitmaps: copies the checkpoints' bitmaps to the target */
int
ferryPivotCarryBitmaps(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);

    if (copy->goal == FERRY_COPY_GOAL_ABORT)
        return 0;

    if (ferryPivotAwaitCheckpoints(op) < 0)
        return -1;

    /* aborted meanwhile: the thread that carries on finds out */
    /* cppcheck-suppress knownConditionTrueFalse */
    if (copy->goal == FERRY_COPY_GOAL_ABORT)
        return 0;

    if (ferryCopyRequireDisk(op) < 0)
        return -1;

    return ferryBitmapsCarry(op->vm, ferryCopyDisk(op)->src, copy->target, ferryCopyBase(op));
}


void
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

    /* for an abort, "chain" has not opened it */
    if (ferryPivotHasLateChain(copy) && copy->goal != FERRY_COPY_GOAL_ABORT)
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


int
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
        (copy->goal != FERRY_COPY_GOAL_ABORT && ferryPivotCheckTarget(op) < 0) ||
        ferryCopyRequireDisk(op) < 0 ||
        ferryPivotReopenTarget(op, backing, /* copying= */ false) < 0)
        return -1;

    return 0;
}


void
ferryPivotUnflush(ferryOp *op)
{
    g_autoptr(virStorageSource) backing = ferryPivotTargetBacking(op);

    ignore_value(ferryPivotReopenTarget(op, backing, /* copying= */ true));
    virResetLastError();
}
