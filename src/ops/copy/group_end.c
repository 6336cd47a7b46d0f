/*
 * group_end.c: block copy: what clients do with copies, single ones or groups
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The requests and their checks; group.c carries them out.
 */

#include <config.h>

#include "engine/engine.h"
#include "engine/plan.h"
#include "engine/wait.h"
#include "ops/copy/control.h"
#include "ops/copy/data.h"
#include "ops/copy/group.h"
#include "ops/copy/group_end.h"
#include "ops/copy/layers_next.h"
#include "ops/copy/pivot.h"
#include "ops/policy.h"
#include "virerror.h"

#define VIR_FROM_THIS VIR_FROM_QEMU


/* Returns 0 if the mirror job of @op may end together with others, or -1 with an error reported.
 * Unless @pivot it need not be ready: sets @ready to false then. */
static int
ferryGroupCheckReady(ferryOp *op,
                     bool pivot,
                     bool *ready)
{
    ferryCopy *copy = ferryCopyOf(op);
    g_autofree char *jobname = ferryJobName(op, "mirror");
    g_auto(ferryJobInfo) info = { 0 };

    if (op->driven || op->leader || op->stuck || copy->quiesce.frozen || copy->goal != FERRY_COPY_GOAL_MIRROR) {
        virReportError(VIR_ERR_OPERATION_INVALID,
                       _("block job on disk '%1$s' of domain '%2$s' is still being started or ended; try "
                         "again"),
                       copy->dst, op->vm->def->name);
        return -1;
    }

    if (ferryJobQuery(op, jobname, &info) < 0)
        return -1;

    if (ferryJobStatusIsReady(info.status))
        return 0;

    *ready = false;
    if (!pivot)
        return 0;

    virReportError(VIR_ERR_BLOCK_COPY_ACTIVE,
                   _("block job on disk '%1$s' of domain '%2$s' not ready for pivot yet: wait until "
                     "it is, or abort it"),
                   copy->dst, op->vm->def->name);
    return -1;
}


/* There is no one point in time at which all targets are complete. */
static int
ferryGroupAbortEach(GPtrArray *group,
                    bool async)
{
    virErrorPtr err = NULL;
    size_t i;

    for (i = 0; i < group->len; i++) {
        if (ferryGroupMember(group, i)->over)
            continue;
        if (ferryOpIsLost(ferryGroupMember(group, i))) {
            if (!err)
                ferryOpReportLost(ferryGroupMember(group, i));
            break;
        }
        if (ferryCopyAbort(ferryGroupMember(group, i), async) < 0 && !err)
            virErrorPreserveLast(&err);
    }

    if (!err)
        return i == group->len ? 0 : -1;

    virErrorRestore(&err);
    return -1;
}


/* Returns whether the guest is on all targets, and what is left of the pivots could not be done, or
 * nobody knows. */
static bool
ferryGroupHasMoved(GPtrArray *group)
{
    size_t i;

    for (i = 0; i < group->len; i++) {
        if (ferryGroupMember(group, i)->driven ||
            !ferryPlanPastReturn(ferryGroupMember(group, i), &ferryCopyPivotPlan))
            return false;
    }

    return true;
}


/* Ends the copies @group, of different disks: moves the guest to all targets (@pivot), or gives
 * them up. Locks and @async as for ferryCopyPivot(). All or none. */
static int
ferryGroupEnd(GPtrArray *group,
              bool pivot,
              bool async)
{
    ferryQuiesce quiesce;
    bool ready = true;
    size_t i;
    int rc;

    if (pivot && ferryGroupHasMoved(group)) {
        ferryGroupDrive(group, /* worker= */ NULL);
        rc = ferryGroupFinish(group, /* again= */ true);
        ferryGroupRelease(group, /* worker= */ NULL);
        return rc;
    }

    for (i = 0; i < group->len; i++) {
        if (ferryGroupCheckReady(ferryGroupMember(group, i), pivot, &ready) < 0)
            return -1;
    }

    if (!ready)
        return ferryGroupAbortEach(group, async);

    /* the one that leads freezes the guest for all */
    if (ferryPolicyQuiesce(ferryGroupMember(group, 0)->vm, &quiesce) < 0)
        return -1;

    for (i = 0; i < group->len; i++)
        ferryGroupCopy(group, i)->quiesce = i == 0 ? quiesce : (ferryQuiesce) { 0 };

    if (ferryGroupForm(group, pivot ? FERRY_COPY_GOAL_PIVOT : FERRY_COPY_GOAL_ABORT) < 0)
        return -1;

    if (async) {
        ignore_value(ferryEngineSubmit(ferryGroupMember(group, 0)));
        return 0;
    }

    ferryGroupDrive(group, /* worker= */ NULL);
    rc = ferryGroupRun(group);
    ferryGroupRelease(group, /* worker= */ NULL);

    return rc;
}


/* A guest that is to be frozen for the moment of which the target stays: a group of one can do
 * that. */
static int
ferryGroupAbortOne(ferryOp *op,
                   bool async)
{
    g_autoptr(GPtrArray) group = g_ptr_array_new_with_free_func((GDestroyNotify) ferryOpUnref);
    ferryQuiesce quiesce;
    g_autofree char *jobname = ferryJobName(op, "mirror");
    g_auto(ferryJobInfo) info = { 0 };

    if (!ferryPolicyExists(op->vm) || op->driven || op->leader ||
        ferryCopyOf(op)->goal != FERRY_COPY_GOAL_MIRROR)
        return ferryCopyAbort(op, async);

    if (ferryJobQuery(op, jobname, &info) < 0)
        return -1;

    if (!ferryJobStatusIsReady(info.status))
        return ferryCopyAbort(op, async);

    if (ferryPolicyQuiesce(op->vm, &quiesce) < 0)
        return -1;

    if (!quiesce.wanted)
        return ferryCopyAbort(op, async);

    g_ptr_array_add(group, ferryOpRef(op));
    return ferryGroupEnd(group, /* pivot= */ false, async);
}


static char *
ferryCopyJobName(ferryOp *op,
                 const char *dst)
{
    return STREQ(ferryCopyOf(op)->dst, dst) ? ferryJobName(op, "mirror") : NULL;
}


const ferryBlockJobHandler ferryCopyBlockJob = {
    .type = VIR_DOMAIN_BLOCK_JOB_TYPE_COPY,
    .jobName = ferryCopyJobName,
    .keepSpeed = ferryLayersKeepSpeed,
    .scale = ferryLayersScale,
    .abort = ferryGroupAbortOne,
    .pivot = ferryCopyPivot,
    .group = ferryGroupEnd,
};
