/*
 * group.c: block copy: pivots and aborts of several copies at one point in time
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Theory of operation
 *
 * Everything that can fail is done for all disks first. Then all mirror jobs are told to complete,
 * and each waits PENDING: both its images are the same, and what the guest asks of its disk is
 * held. When all are PENDING, their targets together are the disks as they were at one point in
 * time, although the jobs got there one after the other, and although the guest's CPUs never
 * stopped: what a target lacks is held, so the guest has not been told that it is done. Whatever
 * the guest wrote because it had been told that does not exist yet, on any disk. So a target that
 * has a request has, and the other targets have, all requests that had to be done before it: a
 * guest cannot tell this from a moment at which its power was cut.
 *
 * A pivot: the journal's mark of one copy, which leads the others (ferryOp.leader), is the point
 * of no return of all. Then all jobs are finalized, and each copy finishes by itself. A driver that
 * finds the mark goes on with all. Without the mark, no guest has moved.
 *
 * An abort: all jobs are cancelled, and the targets stay. If a copy is not ready yet, there is no
 * such point in time, and each is aborted by itself.
 *
 * If a job does not get to PENDING, the others, which did, are cancelled: QEMU has no way back
 * from there. Their guest stays on its sources and loses nothing, but these copies have ended.
 */

#include <config.h>

#include "engine/engine.h"
#include "engine/journal.h"
#include "engine/plan.h"
#include "engine/wait.h"
#include "ops/copy/control.h"
#include "ops/copy/data.h"
#include "ops/copy/group.h"
#include "ops/copy/hold.h"
#include "ops/copy/pivot.h"
#include "ops/policy.h"
#include "virerror.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.copy");


static ferryOp *
ferryGroupMember(GPtrArray *group,
                 size_t i)
{
    return g_ptr_array_index(group, i);
}


static ferryCopy *
ferryGroupCopy(GPtrArray *group,
               size_t i)
{
    return ferryCopyOf(ferryGroupMember(group, i));
}


/* Other threads leave the members alone until ferryGroupRelease(). @worker: a member that this
 * thread drives already, or NULL */
static void
ferryGroupDrive(GPtrArray *group,
                ferryOp *worker)
{
    size_t i;

    for (i = 0; i < group->len; i++) {
        if (ferryGroupMember(group, i) != worker)
            ferryOpDrive(ferryGroupMember(group, i));
    }
}


static void
ferryGroupRelease(GPtrArray *group,
                  ferryOp *worker)
{
    size_t i;

    for (i = 0; i < group->len; i++) {
        if (ferryGroupMember(group, i) != worker)
            ferryOpRelease(ferryGroupMember(group, i));
    }
}


static void
ferryGroupShow(GPtrArray *group)
{
    size_t i;

    for (i = 0; i < group->len; i++) {
        virDomainDiskDef *disk = ferryCopyDisk(ferryGroupMember(group, i));

        if (disk && disk->mirror)
            disk->mirrorState = ferryCopyState(ferryGroupCopy(group, i));
    }

    qemuDomainSaveStatus(ferryGroupMember(group, 0)->vm);
}


/* Makes the copies, whose goal is to mirror, a group with @goal: in memory, in the live XML, and
 * in one journal. Returns 0, or -1 with an error reported and everything as it was. */
static int
ferryGroupForm(GPtrArray *group,
               ferryCopyGoal goal)
{
    const char *leader = ferryGroupMember(group, 0)->name;
    size_t i;

    for (i = 0; i < group->len; i++) {
        ferryGroupMember(group, i)->leader = g_strdup(leader);
        ferryGroupCopy(group, i)->goal = goal;
        ferryGroupCopy(group, i)->keep = goal == FERRY_COPY_GOAL_ABORT;
    }

    if (ferryJournalWrite(ferryGroupMember(group, 0)->vm, /* durable= */ false) == 0) {
        ferryGroupShow(group);
        return 0;
    }

    for (i = 0; i < group->len; i++) {
        g_clear_pointer(&ferryGroupMember(group, i)->leader, g_free);
        ferryGroupCopy(group, i)->goal = FERRY_COPY_GOAL_MIRROR;
        ferryGroupCopy(group, i)->keep = false;
    }
    return -1;
}


/* The group has failed: its members are single copies again, which go on, unless somebody has
 * aborted one. */
static void
ferryGroupDisband(GPtrArray *group,
                  ferryCopyGoal goal)
{
    virDomainObj *vm = ferryGroupMember(group, 0)->vm;
    size_t i;

    for (i = 0; i < group->len; i++) {
        ferryCopy *copy = ferryGroupCopy(group, i);

        g_clear_pointer(&ferryGroupMember(group, i)->leader, g_free);
        g_clear_pointer(&copy->old, virObjectUnref);
        if (!ferryPlanReached(ferryGroupMember(group, i), &ferryCopyPivotPlan, "pause"))
            copy->pause = false;
        if (copy->goal == goal) {
            copy->goal = FERRY_COPY_GOAL_MIRROR;
            copy->keep = false;
        }
    }

    /* all at once: of a group of which some members were left, the others would pivot alone */
    if (ferryJournalWrite(vm, /* durable= */ false) < 0) {
        for (i = 0; i < group->len; i++) {
            if (!ferryGroupMember(group, i)->over && ferryJournalWithdraw(ferryGroupMember(group, i)) < 0)
                VIR_WARN("domain '%s': if the driver is restarted now, it takes up the call for disk '%s' "
                         "that failed: %s", vm->def->name, ferryGroupCopy(group, i)->dst,
                         virGetLastErrorMessage());
        }
    }

    ferryGroupShow(group);
}


/* The guest is on all sources. Takes back what the members have done for a pivot. Keeps the last
 * error. */
static void
ferryGroupTakeBack(GPtrArray *group,
                   ferryCopyGoal goal)
{
    virErrorPtr err = NULL;
    size_t i;

    virErrorPreserveLast(&err);

    /* The guest waits; and its CPUs, if they are stopped, must not go on before these have ended:
     * see ferryPivotUndrain(). */
    for (i = 0; i < group->len; i++) {
        ferryOp *member = ferryGroupMember(group, i);
        g_autofree char *jobname = ferryJobName(member, "mirror");
        bool hold = member->holdJob;

        if (ferryOpIsLost(member) || !ferryPlanReached(member, &ferryCopyPivotPlan, "drain") ||
            !ferryPivotIsUnderWay(member))
            continue;

        member->holdJob = hold || ferryGroupCopy(group, i)->pause;
        ignore_value(ferryJobKill(member, jobname));
        member->holdJob = hold;
    }

    for (i = group->len; i > 0; i--) {
        ferryOp *member = ferryGroupMember(group, i - 1);

        if (!ferryOpIsLost(member))
            ignore_value(ferryPlanUndo(member, &ferryCopyPivotPlan));
    }

    if (!ferryOpIsLost(ferryGroupMember(group, 0)) || ferryGroupMember(group, 0)->over)
        ferryGroupDisband(group, goal);

    for (i = 0; i < group->len; i++) {
        if (!ferryOpIsLost(ferryGroupMember(group, i)))
            ferryCopyPivotFailed(ferryGroupMember(group, i));
    }

    virErrorRestore(&err);
}


/* Returns 0 while all members still have @goal; else -1 with an error reported. */
static int
ferryGroupCheckWhole(GPtrArray *group,
                     ferryCopyGoal goal)
{
    size_t i;

    for (i = 0; i < group->len; i++) {
        ferryOp *member = ferryGroupMember(group, i);

        if (ferryOpIsLost(member)) {
            ferryOpReportLost(member);
            return -1;
        }

        if (ferryGroupCopy(group, i)->goal != goal) {
            virReportError(VIR_ERR_OPERATION_FAILED,
                           _("the copy of disk '%1$s' of domain '%2$s' was aborted meanwhile: the copies of "
                             "the other disks go on"),
                           ferryGroupCopy(group, i)->dst, member->vm->def->name);
            return -1;
        }
    }

    return 0;
}


/* Gets all jobs to PENDING. Returns as ferryPlanAdvance(). */
static int
ferryGroupHold(GPtrArray *group,
               ferryCopyGoal goal)
{
    bool pause = false;
    size_t i;
    int rc;

    for (i = 0; i < group->len; i++) {
        if ((rc = ferryPlanAdvance(ferryGroupMember(group, i), &ferryCopyPivotPlan, "flush")) < 0)
            return rc;
        if (ferryGroupCheckWhole(group, goal) < 0)
            return -1;
    }

    /* the flush of one may have taken long for another */
    for (i = 0; i < group->len; i++) {
        if (ferryCopyAwaitLevel(ferryGroupMember(group, i)) < 0 ||
            ferryGroupCheckWhole(group, goal) < 0)
            return -1;
    }

    for (i = 0; i < group->len; i++)
        pause = pause || ferryGroupCopy(group, i)->pause;
    for (i = 0; i < group->len; i++)
        ferryGroupCopy(group, i)->pause = pause;

    if ((rc = ferryPlanRunTogether(group, &ferryCopyPivotPlan, "freeze")) < 0)
        return rc;
    if (ferryGroupCheckWhole(group, goal) < 0)
        return -1;

    if ((rc = ferryPlanRunTogether(group, &ferryCopyPivotPlan, "pause")) < 0 ||
        (rc = ferryPlanRunTogether(group, &ferryCopyPivotPlan, "drain")) < 0)
        return rc;

    return ferryGroupCheckWhole(group, goal);
}


/* Behind the point of no return: each member finishes by itself. @again: what an earlier call could
 * not do */
static int
ferryGroupFinish(GPtrArray *group,
                 bool again)
{
    virErrorPtr err = NULL;
    size_t i;

    for (i = 0; i < group->len; i++) {
        ferryOp *member = ferryGroupMember(group, i);

        if (member->over || (!ferryOpIsLost(member) && ferryCopyPivotFinish(member, again) == 0))
            continue;

        if (ferryOpIsLost(member))
            ferryOpReportLost(member);
        if (!err)
            virErrorPreserveLast(&err);

        /* when the others have finished there is no group that a client could name */
        if (!ferryOpIsLost(member))
            ignore_value(ferryEngineSubmit(member));
    }

    if (!err)
        return 0;

    virErrorRestore(&err);
    return -1;
}


/* All jobs are PENDING: gives the copies up, with their targets. */
static int
ferryGroupDrop(GPtrArray *group)
{
    size_t i;
    int rc = 0;

    for (i = 0; i < group->len; i++) {
        ferryOp *member = ferryGroupMember(group, i);
        g_autofree char *jobname = ferryJobName(member, "mirror");
        bool hold = member->holdJob;

        if (ferryOpIsLost(member))
            continue;

        member->holdJob = hold || ferryGroupCopy(group, i)->pause;
        ignore_value(ferryJobKill(member, jobname));
        member->holdJob = hold;
    }

    for (i = 0; i < group->len; i++) {
        ferryOp *member = ferryGroupMember(group, i);

        if (!ferryOpIsLost(member))
            ferryCopySettle(member);

        if (!member->over && rc == 0) {
            ferryOpReportLost(member);
            rc = -1;
        }
    }

    return rc;
}


/* Carries out what the group is for. All members are driven by this thread. */
static int
ferryGroupRun(GPtrArray *group)
{
    ferryCopyGoal goal = ferryGroupCopy(group, 0)->goal;
    int rc = ferryGroupHold(group, goal);

    if (rc == 0 && goal == FERRY_COPY_GOAL_ABORT)
        return ferryGroupDrop(group);

    if (rc == 0)
        rc = ferryPlanRunTogether(group, &ferryCopyPivotPlan, "finalize");

    if (rc == 0)
        return ferryGroupFinish(group, /* again= */ false);

    /* nobody knows, or a job failed behind the point of no return: others have moved */
    if (rc == FERRY_STEP_UNKNOWN ||
        ferryPlanPastReturn(ferryGroupMember(group, 0), &ferryCopyPivotPlan))
        return -1;

    ferryGroupTakeBack(group, goal);
    return -1;
}


/**
 * ferryGroupJobChanged:
 *
 * Does what ferryCopyJobChanged() does. For members of a group only the one that leads it acts: a
 * client was promised that the group ends, or a driver has died meanwhile.
 */
void
ferryGroupJobChanged(ferryOp *op)
{
    g_autoptr(GPtrArray) group = NULL;
    size_t held = 0;
    size_t i;

    if (!op->leader || ferryPlanPastReturn(op, &ferryCopyPivotPlan)) {
        ferryCopyJobChanged(op);
        return;
    }

    group = ferryOpGroup(op);

    if (ferryGroupMember(group, 0) != op)
        return;

    ferryGroupDrive(group, op);

    /* of the one that led it a driver that died has said that it just goes on */
    if (!ferryOpLeads(op)) {
        ferryGroupTakeBack(group, ferryGroupCopy(group, 0)->goal);
        ferryGroupRelease(group, op);
        return;
    }

    for (i = 0; i < group->len; i++)
        held += ferryPlanReached(ferryGroupMember(group, i), &ferryCopyPivotPlan, "drain");

    /* what a driver that died has done before it told the jobs to complete is done again */
    for (i = 0; held < group->len && i < group->len; i++)
        ignore_value(ferryPlanUndo(ferryGroupMember(group, i), &ferryCopyPivotPlan));

    ignore_value(ferryGroupRun(group));
    ferryGroupRelease(group, op);
}


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

    if (op->driven || op->leader || op->stuck || copy->goal != FERRY_COPY_GOAL_MIRROR) {
        virReportError(VIR_ERR_OPERATION_INVALID,
                       _("block job on disk '%1$s' of domain '%2$s' is still being started or ended; try "
                         "again"), copy->dst, op->vm->def->name);
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
                     "it is, or abort it"), copy->dst, op->vm->def->name);
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
        if (ferryCopyAbort(ferryGroupMember(group, i), async) < 0 && !err)
            virErrorPreserveLast(&err);
    }

    if (!err)
        return 0;

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
    if (ferryPolicyQuiesce(ferryGroupMember(group, 0)->vm, &ferryGroupCopy(group, 0)->quiesce) < 0)
        return -1;

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
    .abort = ferryGroupAbortOne,
    .pivot = ferryCopyPivot,
    .group = ferryGroupEnd,
};
