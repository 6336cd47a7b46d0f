/*
 * copy.c: block copy: the operation, and how it begins
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "block/alias.h"
#include "block/source.h"
#include "block/volume.h"
#include "engine/checkpoints.h"
#include "engine/engine.h"
#include "engine/plan.h"
#include "engine/wait.h"
#include "ops/copy/base.h"
#include "ops/copy/control.h"
#include "ops/copy/copy.h"
#include "ops/copy/data.h"
#include "ops/copy/format.h"
#include "ops/copy/group.h"
#include "ops/copy/group_end.h"
#include "ops/copy/pivot.h"
#include "ops/copy/react.h"
#include "ops/copy/recover.h"
#include "ops/copy/request.h"
#include "ops/copy/start.h"
#include "virerror.h"
#include "virtime.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

/* How often, and at which interval, it is looked whether a pivot is over. */
#define FERRY_COPY_PIVOT_TRIES 100
#define FERRY_COPY_PIVOT_POLL_MS 100


static char *
ferryCopyDescribe(ferryOp *op,
                  const char *name)
{
    ferryCopy *copy = ferryCopyOf(op);

    if (*ferryPlanProgress(op, &ferryCopyPivotPlan) > 0)
        return g_strdup_printf(_("pivot of disk '%1$s' of domain '%2$s' to '%3$s'"), copy->dst, name,
                               NULLSTR(copy->target->path));

    if (!copy->target->path)
        return g_strdup_printf(_("copy of disk '%1$s' of domain '%2$s'"), copy->dst, name);

    return g_strdup_printf(_("copy of disk '%1$s' of domain '%2$s' to '%3$s'"), copy->dst, name,
                           copy->target->path);
}


static bool
ferryCopyRemovesImage(ferryOp *op,
                      virStorageSource *image)
{
    ferryCopy *copy = ferryCopyOf(op);

    return !ferryPlanPastReturn(op, &ferryCopyPivotPlan) &&
           (copy->volume || copy->origin != FERRY_IMAGE_FOREIGN) &&
           ferrySourceIsSamePlace(copy->target, image);
}


/* The target has the bitmaps of the checkpoints that there were, and is not the disk's image yet. */
static bool
ferryCopyNeedsCheckpoints(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    virDomainDiskDef *disk = ferryCopyDisk(op);

    return copy->goal != FERRY_COPY_GOAL_ABORT && disk && disk->src != copy->target &&
           ferryPlanReached(op, &ferryCopyPivotPlan, "bitmaps") &&
           !ferryPlanReached(op, &ferryCopyPivotPlan, "release");
}


const ferryOpClass ferryCopyClass = {
    .name = "copy",
    .job = VIR_JOB_MODIFY,
    .plans = (const ferryPlan *const[]) { &ferryCopyStartPlan, &ferryCopyPivotPlan, NULL },
    .describe = ferryCopyDescribe,
    .format = ferryCopyFormat,
    .parse = ferryCopyParse,
    .dataFree = ferryCopyFree,
    .jobMatters = ferryCopyJobMatters,
    .removesImage = ferryCopyRemovesImage,
    .needsCheckpoints = ferryCopyNeedsCheckpoints,
    .jobChanged = ferryGroupJobChanged,
    .revive = ferryCopyRevive,
    .recall = ferryCopyRecall,
    .recover = ferryCopyRecover,
    .stopped = ferryCopyStopped,
    .blockJob = &ferryCopyBlockJob,
};


/* Returns whether a copy of @vm is between "bitmaps" and "adopt". */
static bool
ferryCopyPivots(virDomainObj *vm)
{
    GPtrArray *ops = ferryOpList(vm);
    size_t i;

    for (i = 0; ops && i < ops->len; i++) {
        ferryOp *op = g_ptr_array_index(ops, i);

        if (op->klass == &ferryCopyClass && !op->stopped && ferryCopyNeedsCheckpoints(op))
            return true;
    }

    return false;
}


/**
 * ferryCopyAwaitPivots:
 * @vm: domain, locked, without a job of this thread; the lock is released meanwhile
 *
 * For a call that adds or deletes a checkpoint: waits for some time until no disk is just moving, which
 * mostly takes milliseconds. If that takes longer, or one begins to move before the call has its job, the
 * call is refused (ferryCheckpointsCheckFree()).
 *
 * Returns 0, or -1 with an error reported if the call cannot have the domain's job.
 */
int
ferryCopyAwaitPivots(virDomainObj *vm)
{
    size_t i;

    for (i = 0; i < FERRY_COPY_PIVOT_TRIES; i++) {
        unsigned long long now;
        bool pivots;

        /* the pivot keeps the job while it does not wait, and others that wait for it come in between */
        if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0)
            return -1;
        pivots = ferryCopyPivots(vm);
        ferryDomainEndJob(vm);

        if (!pivots)
            break;

        if (virTimeMillisNow(&now) < 0 || virDomainObjWaitUntil(vm, now + FERRY_COPY_PIVOT_POLL_MS) < 0)
            return -1;
    }

    return 0;
}


/**
 * ferryCopyAskAhead:
 * @vm: domain, locked, without a job; the lock is released meanwhile
 * @aliases: *aliases must be NULL; filled in for @req, which borrows it
 *
 * The checks look at the target with the job held: asks its storage before, which volume it is, and
 * what its name leads to, and the names of the images that may be below it.
 *
 * Returns 0, or -1 with an error reported.
 */
int
ferryCopyAskAhead(virDomainObj *vm,
                  ferryCopyRequest *req,
                  GPtrArray **aliases)
{
    bool create = !(req->flags & VIR_DOMAIN_BLOCK_COPY_REUSE_EXT);
    g_autoptr(GPtrArray) paths = g_ptr_array_new();

    if (ferryVolumeResolve(vm, req->target, req->path, create) < 0)
        return -1;

    if (req->target->path && virStorageSourceIsLocalStorage(req->target))
        g_ptr_array_add(paths, req->target->path);
    if (req->flags & VIR_DOMAIN_BLOCK_COPY_SHALLOW)
        ferryBaseAddPaths(vm, req->path, req->target, paths);
    if (paths->len == 0)
        return 0;

    g_ptr_array_add(paths, NULL);
    req->aliases = *aliases = ferryAliasAsk(vm, (const char *const *) paths->pdata);
    return req->aliases ? 0 : -1;
}


/**
 * ferryCopyAdd:
 * @copy: of ferryCopyPrepare(); taken over
 *
 * Adds a copy to the operations of @vm, which is locked and whose job is held; the caller walks its
 * plan. Returns a reference, or NULL with an error reported.
 */
ferryOp *
ferryCopyAdd(virDomainObj *vm,
             ferryCopy *copy)
{
    g_autofree char *name = g_strdup_printf("copy-%s", copy->dst);

    /* the guest has moved, but the storage of its old image does not answer yet */
    if (ferryOpFind(vm, name)) {
        virReportError(VIR_ERR_BLOCK_COPY_ACTIVE,
                       _("the previous copy of disk '%1$s' of domain '%2$s' is not over: it waits for the "
                         "storage of an image; see the daemon's log"),
                       copy->dst, vm->def->name);
        ferryCopyFree(copy);
        return NULL;
    }

    return ferryOpNew(vm, &ferryCopyClass, name, copy);
}


/**
 * ferryCopyStart:
 * @vm: domain, locked, with a modify job
 *
 * Starts the copy that @req asks for. Returns 0 once its first job runs, or -1 with an
 * error reported and all steps undone (later, by recovery, if QEMU is unreachable).
 */
int
ferryCopyStart(virDomainObj *vm,
               const ferryCopyRequest *req)
{
    g_autoptr(ferryOp) op = NULL;
    ferryCopy *copy;
    int rc;

    if (!(copy = ferryCopyPrepare(vm, req)) || !(op = ferryCopyAdd(vm, copy)))
        return -1;

    ferryOpDrive(op);
    rc = ferryPlanRunTo(op, &ferryCopyStartPlan, ferryCopyFirstJob(copy));
    if (rc < 0 && !op->over && *ferryPlanProgress(op, &ferryCopyStartPlan) == 0)
        ferryOpEnd(op);
    else if (rc < 0)
        copy->refused = true;
    ferryOpRelease(op);

    return rc;
}
