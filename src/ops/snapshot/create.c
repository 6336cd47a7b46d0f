/*
 * create.c: mirrored snapshots: the steps that create one
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Theory of operation
 *
 * A mirrored snapshot is the stock driver's snapshot and a copy of each overlay, which begins with
 * the overlay: so its target has every write since the snapshot. Whatever can fail for the targets
 * is done before the snapshot: the copies' plans are walked to their step "size". Then the stock
 * driver takes the snapshot, and the plans go on to their ends. Until then the copies are
 * "pending": no client's, and taken back together with the snapshot.
 *
 * The files of the overlays are made here, empty, since the stock driver accepts such files: so the
 * journal knows which they are, and what a driver that dies leaves can be removed.
 *
 * There is no point of no return: the snapshot is complete when one entry of the journal says so, in
 * which no copy is pending any more (ferrySnapshotComplete()). Until then everything is taken back.
 */

#include <config.h>

#include "block/durable.h"
#include "block/nodename.h"
#include "engine/engine.h"
#include "engine/plan.h"
#include "engine/wait.h"
#include "ops/copy/copy.h"
#include "ops/copy/start.h"
#include "ops/opfile.h"
#include "ops/snapshot/create.h"
#include "ops/snapshot/data.h"
#include "ops/snapshot/revert.h"
#include "virerror.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.snapshot");


/* prepare: creates the overlays' files without names: the entry of "files" has their inodes */
static int
ferrySnapshotPrepare(ferryOp *op)
{
    ferrySnapshot *snapshot = ferrySnapshotOf(op);
    size_t i;

    for (i = 0; i < snapshot->disks->len; i++) {
        ferrySnapshotDisk *disk = ferrySnapshotDiskAt(snapshot, i);

        if (ferryOpFileAnswers(op, disk->overlay) < 0 ||
            ferryImagePrepare(op->vm, disk->overlay, disk->origin, &disk->file) < 0)
            return -1;
    }

    return 0;
}


/* files: gives them their names */
static int
ferrySnapshotNameFiles(ferryOp *op)
{
    ferrySnapshot *snapshot = ferrySnapshotOf(op);
    size_t i;

    for (i = 0; i < snapshot->disks->len; i++) {
        ferrySnapshotDisk *disk = ferrySnapshotDiskAt(snapshot, i);
        int rc;

        if (disk->origin == FERRY_IMAGE_FOREIGN)
            continue;

        if (ferryOpFileAnswers(op, disk->overlay) < 0 ||
            (rc = ferryOpFileMake(op, disk->overlay, disk->file)) < 0)
            return -1;

        if (rc > 0) {
            virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                           _("external snapshot file for disk %1$s already exists and is not a block "
                             "device: %2$s"),
                           disk->dst, disk->overlay->path);
            return -1;
        }

        /* the stock driver writes the configuration that names it */
        if (disk->origin == FERRY_IMAGE_ABSENT)
            ferryOpFileKeep(op, disk->overlay);
        if (ferryOpIsLost(op))
            return -1;
    }

    return 0;
}


static void
ferrySnapshotRemoveFiles(ferryOp *op)
{
    ferrySnapshot *snapshot = ferrySnapshotOf(op);
    g_autoptr(ferryUse) use = NULL;
    size_t i;

    for (i = 0; i < snapshot->disks->len; i++) {
        if (ferryOpFileAnswers(op, ferrySnapshotDiskAt(snapshot, i)->overlay) < 0) {
            op->stuck = true;
            return;
        }
    }

    use = ferryOpFileUse(op);
    for (i = 0; i < snapshot->disks->len; i++) {
        ferrySnapshotDisk *disk = ferrySnapshotDiskAt(snapshot, i);

        ferryOpFileRemove(op, use, op->vm, disk->overlay, disk->origin, disk->file);
    }
}


/* copies: creates and opens the targets */
static int
ferrySnapshotBeginCopies(ferryOp *op)
{
    ferrySnapshot *snapshot = ferrySnapshotOf(op);
    size_t i;

    for (i = 0; i < snapshot->disks->len; i++) {
        ferrySnapshotDisk *disk = ferrySnapshotDiskAt(snapshot, i);
        g_autoptr(ferryOp) copy = NULL;

        if (!disk->copy)
            continue;

        if (!(copy = ferryCopyAdd(op->vm, disk->copy))) {
            disk->copy = NULL;
            return -1;
        }

        disk->copy = NULL;
        ferryOpDrive(copy);
        g_ptr_array_add(snapshot->driven, ferryOpRef(copy));
        if (ferryPlanAdvance(copy, &ferryCopyStartPlan, "size") < 0)
            return -1;
    }

    return 0;
}


/* Takes the copies back that are not clients' yet. */
static void
ferrySnapshotDropCopies(ferryOp *op)
{
    ferrySnapshot *snapshot = ferrySnapshotOf(op);
    g_autoptr(GPtrArray) copies = ferrySnapshotCopies(op);
    size_t i;

    for (i = copies->len; i > 0; i--) {
        ferryOp *copy = g_ptr_array_index(copies, i - 1);
        bool ours = snapshot->driven && g_ptr_array_find(snapshot->driven, copy, NULL);

        /* another thread takes it back, and submits this operation then: ferryCopySettle() */
        if (copy->driven && !ours) {
            op->stuck = true;
            continue;
        }

        if (!ours)
            ferryOpDrive(copy);

        if (ferryPlanUndo(copy, &ferryCopyStartPlan) == 0 && !copy->over)
            ferryOpEnd(copy);
        else if (!copy->over)
            op->stuck = true;

        if (!ours)
            ferryOpRelease(copy);
    }
}


/* freeze, thaw: the stock driver would leave the guest frozen if it died */
static bool
ferrySnapshotNeedsNoFreeze(ferryOp *op)
{
    return !ferrySnapshotOf(op)->quiesce.wanted;
}


static int
ferrySnapshotFreeze(ferryOp *op)
{
    return ferryQuiesceFreeze(op, &ferrySnapshotOf(op)->quiesce);
}


static void
ferrySnapshotUnfreeze(ferryOp *op)
{
    ferryQuiesceThawAlways(op, &ferrySnapshotOf(op)->quiesce);
}


static int
ferrySnapshotThaw(ferryOp *op)
{
    ferrySnapshotUnfreeze(op);
    return 0;
}


/* Returns 0 if every disk is on its overlay, or -1 with an error reported: another client may have
 * changed something while no job was held. */
static int
ferrySnapshotCheckTaken(ferryOp *op)
{
    ferrySnapshot *snapshot = ferrySnapshotOf(op);
    size_t i;

    for (i = 0; i < snapshot->disks->len; i++) {
        ferrySnapshotDisk *disk = ferrySnapshotDiskAt(snapshot, i);
        virDomainDiskDef *def = virDomainDiskByTarget(op->vm->def, disk->dst);

        if (def && !def->mirror && STREQ_NULLABLE(def->src->path, disk->overlay->path) &&
            virStorageSourceHasBacking(def->src) &&
            STREQ_NULLABLE(ferryNodeName(def->src->backingStore), disk->base))
            continue;

        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("disk '%1$s' of domain '%2$s' was changed while snapshot '%3$s' was taken; "
                         "try again"),
                       disk->dst, op->vm->def->name, snapshot->name);
        return -1;
    }

    return 0;
}


/* take: the stock driver's snapshot, one transaction */
static int
ferrySnapshotTake(ferryOp *op)
{
    ferrySnapshot *snapshot = ferrySnapshotOf(op);
    g_autoptr(virQEMUDriverConfig) cfg = virQEMUDriverGetConfig(op->driver);
    g_autoptr(GPtrArray) paths = g_ptr_array_new_with_free_func(g_free);
    virErrorPtr err = NULL;
    size_t i;
    int rc;

    /* the stock driver asks with the domain locked */
    for (i = 0; i < snapshot->disks->len; i++)
        ferryOpFileAdd(paths, ferrySnapshotDiskAt(snapshot, i)->overlay);
    if (ferryOpFilePathsAnswer(op, paths) < 0)
        return -1;

    /* of a domain that is off the stock driver would take another kind of snapshot */
    if (ferryOpIsLost(op) || !virDomainObjIsActive(op->vm)) {
        ferryOpReportLost(op);
        return -1;
    }

    ferryOpYield(op);
    virObjectUnlock(op->vm);
    snapshot->taking = true;
    rc = snapshot->take(snapshot->opaque);
    virObjectLock(op->vm);
    snapshot->taking = false;

    virErrorPreserveLast(&err);
    if (ferryOpResume(op) < 0) {
        virFreeError(err);
        return -1;
    }

    if (rc < 0) {
        virErrorRestore(&err);
        return -1;
    }
    virFreeError(err);

    if (ferrySnapshotCheckTaken(op) < 0)
        return -1;

    /* the files in there are synced */
    return op->vm->persistent ? ferryDurableFolder(cfg->configDir) : 0;
}


static void
ferrySnapshotUntake(ferryOp *op)
{
    ferrySnapshot *snapshot = ferrySnapshotOf(op);
    size_t i;

    /* what follows may take long */
    ferrySnapshotUnfreeze(op);

    for (i = 0; i < snapshot->disks->len; i++) {
        if (ferrySnapshotRevertDisk(op, ferrySnapshotDiskAt(snapshot, i)) == 0)
            continue;

        if (!ferryOpIsLost(op))
            VIR_WARN("disk '%s' of domain '%s' cannot go back to the image that it had before snapshot "
                     "'%s' yet: %s",
                     ferrySnapshotDiskAt(snapshot, i)->dst, op->vm->def->name,
                     snapshot->name, virGetLastErrorMessage());
        op->stuck = true;
        return;
    }

    if (ferrySnapshotForget(op) < 0) {
        VIR_WARN("snapshot '%s' of domain '%s' cannot be removed yet: %s",
                 snapshot->name, op->vm->def->name, virGetLastErrorMessage());
        op->stuck = true;
    }
}


/* mirrors: starts the mirror jobs of the overlays */
static int
ferrySnapshotStartMirrors(ferryOp *op)
{
    g_autoptr(GPtrArray) copies = ferrySnapshotCopies(op);
    size_t i;

    /* "thaw" may have let another client in */
    if (ferrySnapshotCheckTaken(op) < 0)
        return -1;

    for (i = 0; i < copies->len; i++) {
        if (ferryPlanAdvance(g_ptr_array_index(copies, i), &ferryCopyStartPlan, "mirror") < 0)
            return -1;
    }

    return 0;
}


const ferryPlan ferrySnapshotPlan = {
    .name = "create",
    .steps = (const ferryStep[]) {
        { .name = "prepare", .run = ferrySnapshotPrepare },
        { .name = "files", .run = ferrySnapshotNameFiles, .undo = ferrySnapshotRemoveFiles, .durable = true },
        { .name = "copies", .run = ferrySnapshotBeginCopies, .undo = ferrySnapshotDropCopies },
        { .name = "freeze", .run = ferrySnapshotFreeze, .undo = ferrySnapshotUnfreeze, .idle = ferrySnapshotNeedsNoFreeze },
        { .name = "take", .run = ferrySnapshotTake, .undo = ferrySnapshotUntake, .durable = true },
        { .name = "thaw", .run = ferrySnapshotThaw, .unrecorded = true },
        { .name = "mirrors", .run = ferrySnapshotStartMirrors, .undo = ferrySnapshotDropCopies },
        { 0 },
    },
};
