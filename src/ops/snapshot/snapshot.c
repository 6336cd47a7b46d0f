/*
 * snapshot.c: mirrored snapshots: the operation, and how it begins
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "block/access.h"
#include "block/bounded.h"
#include "block/nodename.h"
#include "block/source.h"
#include "engine/engine.h"
#include "engine/journal.h"
#include "engine/plan.h"
#include "engine/settle.h"
#include "engine/wait.h"
#include "ops/copy/copy.h"
#include "ops/copy/data.h"
#include "ops/snapshot/commit.h"
#include "ops/snapshot/create.h"
#include "ops/snapshot/snapshot.h"
#include "ops/snapshot/stopped.h"
#include "virdomainsnapshotobjlist.h"
#include "virerror.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.snapshot");


/* Events of the jobs that commit what a snapshot that is taken back has written: for whoever waits for one.
 * A commit that has failed is not tried again because of its own end. */
static bool
ferrySnapshotJobMatters(ferryOp *op,
                        int status)
{
    if (!op->driven && !ferrySnapshotOf(op)->lingers)
        return false;

    return status == QEMU_MONITOR_JOB_STATUS_READY ||
           status == QEMU_MONITOR_JOB_STATUS_PENDING ||
           status == QEMU_MONITOR_JOB_STATUS_CONCLUDED;
}


/* The thread that drives @op is about to leave it as it is. */
static void
ferrySnapshotForgetEvents(ferryOp *op)
{
    if (!ferrySnapshotOf(op)->lingers)
        g_atomic_int_set(&op->events, 0);
}


/* Takes a snapshot back that is not complete. Recovery leaves that to a worker. */
static void
ferrySnapshotJobChanged(ferryOp *op)
{
    ferrySnapshotOf(op)->lingers = false;
    ferrySnapshotEndPauses(op);

    /* the end of the commit brings a worker back */
    if (ferrySnapshotOf(op)->lingers)
        return;

    if (!ferrySnapshotOf(op)->complete && ferryPlanUndo(op, &ferrySnapshotPlan) < 0) {
        ferrySnapshotForgetEvents(op);
        return;
    }

    if (!op->over)
        ferryOpEnd(op);
}


/* A driver that died may have begun to commit the overlays: an undo that it began need not be in the journal. */
static void
ferrySnapshotRecall(ferryOp *op)
{
    ferrySnapshot *snapshot = ferrySnapshotOf(op);
    size_t i;

    for (i = 0; i < snapshot->disks->len && !snapshot->complete; i++) {
        virStorageSource *base = ferrySnapshotBase(op, ferrySnapshotDiskAt(snapshot, i));

        if (base)
            ferryAccessRecallWrite(op->vm, base);
    }
}


static void
ferrySnapshotRecover(ferryOp *op)
{
    ferrySnapshot *snapshot = ferrySnapshotOf(op);

    ferryQuiesceRecover(&snapshot->quiesce, snapshot->quiesce.frozen);
    ferrySnapshotEndPauses(op);
    ignore_value(ferryEngineSubmit(op));
}


static char *
ferrySnapshotDescribe(ferryOp *op,
                      const char *name)
{
    return g_strdup_printf(_("creation of snapshot '%1$s' of domain '%2$s'"),
                           ferrySnapshotOf(op)->name, name);
}


static bool
ferrySnapshotRemovesImage(ferryOp *op,
                          virStorageSource *image)
{
    ferrySnapshot *snapshot = ferrySnapshotOf(op);
    size_t i;

    for (i = 0; !snapshot->complete && i < snapshot->disks->len; i++) {
        ferrySnapshotDisk *disk = ferrySnapshotDiskAt(snapshot, i);

        if (disk->origin != FERRY_IMAGE_FOREIGN && ferrySourceIsSamePlace(disk->overlay, image))
            return true;
    }

    return false;
}


const ferryOpClass ferrySnapshotClass = {
    .name = "snapshot",
    .job = VIR_JOB_MODIFY,
    .plans = (const ferryPlan *const[]) { &ferrySnapshotPlan, NULL },
    .describe = ferrySnapshotDescribe,
    .format = ferrySnapshotFormat,
    .parse = ferrySnapshotParse,
    .dataFree = ferrySnapshotFree,
    .jobMatters = ferrySnapshotJobMatters,
    .jobChanged = ferrySnapshotJobChanged,
    .recall = ferrySnapshotRecall,
    .recover = ferrySnapshotRecover,
    .stopped = ferrySnapshotStopped,
    .removesImage = ferrySnapshotRemovesImage,
};


/* Asks, before a job is taken, the storage of all that the checks look at. */
static int
ferrySnapshotAskAhead(virDomainObj *vm,
                      ferrySnapshot *snapshot,
                      GPtrArray *aliases)
{
    size_t i;

    for (i = 0; i < snapshot->disks->len; i++) {
        ferrySnapshotDisk *disk = ferrySnapshotDiskAt(snapshot, i);
        const char *paths[] = { ferrySourceIsFile(disk->overlay) ? disk->overlay->path : NULL, NULL };
        ferryCopyRequest req = { .path = disk->dst, .target = disk->mirror };
        GPtrArray *found = NULL;

        if (ferryBoundedAnswers(vm, paths) < 0)
            return -1;

        if (!disk->mirror)
            continue;

        if (snapshot->reuse)
            req.flags = VIR_DOMAIN_BLOCK_COPY_REUSE_EXT;
        if (ferryCopyAskAhead(vm, &req, &found) < 0)
            return -1;
        /* NULL, too, so that the list goes with the disks */
        g_ptr_array_add(aliases, found);
    }

    return 0;
}


/* Finds out what is at the overlay's path, as the stock driver will. */
static int
ferrySnapshotLookAtOverlay(virDomainObj *vm,
                           ferrySnapshot *snapshot,
                           ferrySnapshotDisk *disk)
{
    struct stat st;

    disk->origin = FERRY_IMAGE_FOREIGN;
    if (snapshot->reuse || !ferrySourceIsFile(disk->overlay))
        return 0;

    switch (ferryBoundedStat(vm, disk->overlay->path, &st)) {
    case 0:
        if (S_ISREG(st.st_mode) && st.st_size == 0)
            disk->origin = FERRY_IMAGE_EMPTY;
        /* what else is there, the stock driver judges */
        return 0;
    case ENOENT:
        disk->origin = FERRY_IMAGE_ABSENT;
        return 0;
    default:
        return 0;
    }
}


/* Checks all that can be checked before anything is touched. Domain locked, job held. */
static int
ferrySnapshotCheck(virDomainObj *vm,
                   ferrySnapshot *snapshot,
                   GPtrArray *aliases)
{
    ferryOp *earlier;
    size_t mirrors = 0;
    size_t i;

    if (virDomainObjCheckActive(vm) < 0)
        return -1;

    if ((earlier = ferryOpFind(vm, FERRY_COPY_SNAPSHOT))) {
        if (!earlier->driven)
            ignore_value(ferryEngineSubmit(earlier));
        virReportError(VIR_ERR_OPERATION_INVALID,
                       _("an earlier snapshot of domain '%1$s' is not finished yet; try again"),
                       vm->def->name);
        return -1;
    }

    for (i = 0; i < snapshot->disks->len; i++) {
        ferrySnapshotDisk *disk = ferrySnapshotDiskAt(snapshot, i);
        virDomainDiskDef *def = virDomainDiskByTarget(vm->def, disk->dst);
        ferryCopyRequest req = {
            .path = disk->dst,
            .target = disk->mirror,
            .flags = VIR_DOMAIN_BLOCK_COPY_SHALLOW | (snapshot->reuse ? VIR_DOMAIN_BLOCK_COPY_REUSE_EXT : 0),
            .overlay = true,
        };

        if (!def || STRNEQ_NULLABLE(ferryNodeName(def->src), disk->base)) {
            virReportError(VIR_ERR_OPERATION_FAILED,
                           _("disk '%1$s' of domain '%2$s' was changed meanwhile; try again"),
                           disk->dst, vm->def->name);
            return -1;
        }

        /* could not be taken back: QEMU would name the filter, not the image, or no file by which
         * ferrySnapshotRevertDisk() knows the overlay */
        if (ferryNodeHasFilter(def) || !virStorageSourceIsLocalStorage(disk->overlay)) {
            virReportError(VIR_ERR_OPERATION_UNSUPPORTED,
                           _("disk '%1$s' of domain '%2$s' cannot be in a snapshot with <mirror>: it has "
                             "copy_on_read or throttling filters, or its new image is not on this host"),
                           disk->dst, vm->def->name);
            return -1;
        }

        if (ferrySettleCheckImage(vm, disk->overlay) < 0)
            return -1;

        if (qemuDomainDiskBlockJobIsActive(def) || ferrySnapshotLookAtOverlay(vm, snapshot, disk) < 0)
            return -1;

        if (!disk->mirror)
            continue;

        req.aliases = g_ptr_array_index(aliases, mirrors++);
        if (!(disk->copy = ferryCopyPrepare(vm, &req)))
            return -1;
        disk->copy->pending = disk->copy->refused = true;
    }

    return 0;
}


/* The copies are clients' from now on. Returns 0, or -1 with an error reported and nothing changed. */
static int
ferrySnapshotComplete(ferryOp *op)
{
    ferrySnapshot *snapshot = ferrySnapshotOf(op);
    g_autoptr(GPtrArray) copies = ferrySnapshotCopies(op);
    size_t i;

    for (i = 0; i < copies->len; i++)
        ferryCopyOf(g_ptr_array_index(copies, i))->pending = false;
    snapshot->complete = true;

    if (ferryJournalWrite(op->vm, /* durable= */ true) < 0) {
        for (i = 0; i < copies->len; i++)
            ferryCopyOf(g_ptr_array_index(copies, i))->pending = true;
        snapshot->complete = false;
        return -1;
    }

    ferryOpEnd(op);
    for (i = 0; i < copies->len; i++)
        ferryCopyOf(g_ptr_array_index(copies, i))->refused = false;

    return 0;
}


static int
ferrySnapshotRun(virDomainObj *vm,
                 ferrySnapshot *snapshot)
{
    g_autoptr(ferryOp) op = ferryOpNew(vm, &ferrySnapshotClass, FERRY_COPY_SNAPSHOT, snapshot);
    virErrorPtr err = NULL;
    size_t i;
    int rc;

    snapshot->driven = g_ptr_array_new_with_free_func((GDestroyNotify) ferryOpUnref);
    ferryOpDrive(op);
    rc = ferryPlanRun(op, &ferrySnapshotPlan);
    if (rc == 0 && (rc = ferrySnapshotComplete(op)) < 0) {
        virErrorPreserveLast(&err);
        ignore_value(ferryPlanUndo(op, &ferrySnapshotPlan));
        virErrorRestore(&err);
    }

    if (rc < 0 && !op->over && *ferryPlanProgress(op, &ferrySnapshotPlan) == 0)
        ferryOpEnd(op);

    for (i = 0; i < snapshot->driven->len; i++)
        ferryOpRelease(g_ptr_array_index(snapshot->driven, i));
    g_clear_pointer(&snapshot->driven, g_ptr_array_unref);
    if (!op->over)
        ferrySnapshotForgetEvents(op);
    ferryOpRelease(op);

    return rc;
}


/**
 * ferrySnapshotCreate:
 * @vm: domain, locked
 * @snapshot: of ferrySnapshotRequest(); taken over
 * @take: takes the snapshot; @opaque is passed to it
 *
 * Takes a mirrored snapshot. Returns 0 when all mirror jobs run, or -1 with an error reported and
 * the domain as it was before.
 */
int
ferrySnapshotCreate(virDomainObj *vm,
                    ferrySnapshot *snapshot,
                    ferrySnapshotTaker take,
                    void *opaque)
{
    g_autoptr(ferrySnapshot) own = snapshot;
    g_autoptr(GPtrArray) aliases = g_ptr_array_new();
    int rc = -1;
    size_t i;

    own->take = take;
    own->opaque = opaque;

    if (ferrySnapshotAskAhead(vm, own, aliases) == 0 && virDomainObjBeginJob(vm, VIR_JOB_MODIFY) == 0) {
        if (ferrySnapshotCheck(vm, own, aliases) == 0)
            rc = ferrySnapshotRun(vm, g_steal_pointer(&own));
        ferryDomainEndJob(vm);
    }

    for (i = 0; i < aliases->len; i++) {
        if (g_ptr_array_index(aliases, i))
            g_ptr_array_unref(g_ptr_array_index(aliases, i));
    }

    return rc;
}


/**
 * ferrySnapshotMayDelete:
 * @vm: domain, locked
 * @others: snapshots below @name are meant, too
 *
 * Returns 0 if snapshot @name of @vm may be deleted with its image, or reverted to; or -1 with an
 * error reported if its mirrors still run.
 */
int
ferrySnapshotMayDelete(virDomainObj *vm,
                       const char *name,
                       bool others)
{
    virDomainMomentObj *moment = virDomainSnapshotFindByName(vm->snapshots, name);
    GPtrArray *ops = ferryOpList(vm);
    size_t i;

    for (i = 0; moment && ops && i < ops->len; i++) {
        ferryOp *op = g_ptr_array_index(ops, i);
        virDomainDiskDef *disk;

        if (op->klass != &ferryCopyClass || op->stopped || !ferryCopyOf(op)->overlay ||
            !(disk = ferryCopyDisk(op)) || (!others && !ferrySnapshotHasImage(moment, disk->dst, disk->src)))
            continue;

        virReportError(VIR_ERR_OPERATION_INVALID,
                       _("disk '%1$s' of domain '%2$s' is being mirrored since snapshot '%3$s': end that with "
                         "'virsh blockjob %2$s %1$s --abort' or '--pivot' first, or delete only the snapshot's "
                         "metadata ('virsh snapshot-delete --metadata')"),
                       disk->dst, vm->def->name, name);
        return -1;
    }

    return 0;
}
