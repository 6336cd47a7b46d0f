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
 * If a job does not get to PENDING, all are cancelled: QEMU has no way back from there. The guest
 * stays on its sources and loses nothing, but the copies have ended.
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
#include "ops/copy/react.h"
#include "virerror.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.copy");


/**
 * ferryGroupDrive:
 * @worker: a member that this thread drives already, or NULL
 *
 * Like ferryOpDrive(), for all members: other threads leave them alone until ferryGroupRelease().
 * Domain locked.
 */
void
ferryGroupDrive(GPtrArray *group,
                ferryOp *worker)
{
    size_t i;

    for (i = 0; i < group->len; i++) {
        if (ferryGroupMember(group, i) != worker)
            ferryOpDrive(ferryGroupMember(group, i));
    }
}


void
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


/**
 * ferryGroupForm:
 * @group: copies whose goal is to mirror, with a reference to each
 *
 * Makes them a group with @goal, led by the first one: in memory, in the live XML, and in one
 * journal. Domain locked, job held. Returns 0, or -1 with an error reported and everything as it
 * was.
 */
int
ferryGroupForm(GPtrArray *group,
               ferryCopyGoal goal)
{
    const char *leader = ferryGroupMember(group, 0)->name;
    GPtrArray *ops = ferryOpList(ferryGroupMember(group, 0)->vm);
    size_t i;

    /* of an earlier group: none of it is before its point of no return any more */
    for (i = 0; i < ops->len; i++) {
        ferryOp *other = g_ptr_array_index(ops, i);

        if (STREQ_NULLABLE(other->leader, leader))
            g_clear_pointer(&other->leader, g_free);
    }

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


/* The group has failed: its members are single copies again, which go on, unless a client has
 * aborted one meanwhile. */
static void
ferryGroupDisband(GPtrArray *group)
{
    virDomainObj *vm = ferryGroupMember(group, 0)->vm;
    size_t i;

    for (i = 0; i < group->len; i++) {
        ferryCopy *copy = ferryGroupCopy(group, i);

        g_clear_pointer(&ferryGroupMember(group, i)->leader, g_free);
        g_clear_pointer(&copy->old, virObjectUnref);
        if (!ferryPlanReached(ferryGroupMember(group, i), &ferryCopyPivotPlan, "pause"))
            copy->pause = false;
        if (copy->goal == FERRY_COPY_GOAL_PIVOT || copy->keep) {
            copy->goal = FERRY_COPY_GOAL_MIRROR;
            copy->keep = false;
        }
    }

    /* all at once: of a group of which some members were left, the others would pivot alone */
    if (ferryJournalWrite(vm, /* durable= */ false) < 0) {
        for (i = 0; i < group->len; i++) {
            if (ferryGroupMember(group, i)->over || ferryJournalWithdraw(ferryGroupMember(group, i)) == 0)
                continue;

            VIR_WARN("domain '%s': if the driver is restarted now, it takes up the call for disk '%s' "
                     "that failed: %s",
                     vm->def->name, ferryGroupCopy(group, i)->dst,
                     virGetLastErrorMessage());
            /* the others are a group with this one, or single */
            break;
        }
    }

    ferryGroupShow(group);
}


/* The guest is on all sources. Takes back what the members have done for a pivot. Keeps the last
 * error. */
static void
ferryGroupTakeBack(GPtrArray *group)
{
    virErrorPtr err = NULL;
    bool held = false;
    size_t i;

    virErrorPreserveLast(&err);

    /* The guest waits; and its CPUs, if they are stopped, must not go on before these have ended:
     * see ferryPivotUndrain(). */
    for (i = 0; i < group->len; i++) {
        ferryOp *member = ferryGroupMember(group, i);

        if (!ferryOpIsLost(member) && ferryPlanReached(member, &ferryCopyPivotPlan, "drain") &&
            ferryPivotTakeBack(member) < 0 && ferryGroupCopy(group, i)->pause)
            held = true;
    }

    /* the end of the job that did not end brings this thread, or another, back */
    if (held) {
        virErrorRestore(&err);
        return;
    }

    for (i = group->len; i > 0; i--) {
        ferryOp *member = ferryGroupMember(group, i - 1);

        if (!ferryOpIsLost(member))
            ignore_value(ferryPlanUndo(member, &ferryCopyPivotPlan));
    }

    if (!ferryOpIsLost(ferryGroupMember(group, 0)) || ferryGroupMember(group, 0)->over)
        ferryGroupDisband(group);

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


/* Returns whether all jobs may have been told to complete: by a driver that died. */
static bool
ferryGroupIsTold(GPtrArray *group)
{
    size_t i;

    for (i = 0; i < group->len; i++) {
        if (!ferryPlanReached(ferryGroupMember(group, i), &ferryCopyPivotPlan, "drain"))
            return false;
    }

    return true;
}


/* Takes all steps before the jobs are told to complete. Returns as ferryPlanAdvance(). */
static int
ferryGroupPrepare(GPtrArray *group,
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

    if ((rc = ferryPlanRunTogether(group, &ferryCopyPivotPlan, "freeze")) < 0)
        return rc;
    if (ferryGroupCheckWhole(group, goal) < 0)
        return -1;

    for (i = 0; i < group->len; i++)
        pause = pause || ferryGroupCopy(group, i)->pause;
    for (i = 0; i < group->len; i++)
        ferryGroupCopy(group, i)->pause = pause;

    return ferryPlanRunTogether(group, &ferryCopyPivotPlan, "pause");
}


/* Gets all jobs to PENDING. Returns as ferryPlanAdvance(). */
static int
ferryGroupHold(GPtrArray *group,
               ferryCopyGoal goal)
{
    int rc;

    if (!ferryGroupIsTold(group) && (rc = ferryGroupPrepare(group, goal)) < 0)
        return rc;

    if ((rc = ferryPlanRunTogether(group, &ferryCopyPivotPlan, "drain")) < 0)
        return rc;

    return ferryGroupCheckWhole(group, goal);
}


/**
 * ferryGroupFinish:
 * @again: what an earlier call could not do
 *
 * Takes the steps behind the point of no return. The configuration is saved for all members at
 * once; then each finishes by itself. Domain locked, job held, all members driven by this thread.
 * Returns 0, or -1 with an error reported: a worker tries again.
 */
int
ferryGroupFinish(GPtrArray *group,
                 bool again)
{
    virErrorPtr err = NULL;
    size_t i;

    if (!again &&
        (ferryPlanRunTogether(group, &ferryCopyPivotPlan, "unpause") < 0 ||
         ferryPlanRunTogether(group, &ferryCopyPivotPlan, "thaw") < 0 ||
         ferryPlanRunTogether(group, &ferryCopyPivotPlan, "adopt") < 0)) {
        /* each finds out by itself what that means for it */
        virResetLastError();
        again = true;
    }

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

    /* From here on each is an abort of its own, whose target stays: a driver that finds only some
     * of the jobs must not take that for a failure. */
    for (i = 0; i < group->len; i++)
        g_clear_pointer(&ferryGroupMember(group, i)->leader, g_free);
    if (ferryJournalWrite(ferryGroupMember(group, 0)->vm, /* durable= */ false) < 0) {
        VIR_WARN("domain '%s': %s", ferryGroupMember(group, 0)->vm->def->name, virGetLastErrorMessage());
        /* as a driver reads it, each is single then, too; and this needs no space on the disk */
        for (i = 0; i < group->len && ferryJournalWithdraw(ferryGroupMember(group, i)) == 0; i++)
            ;
        virResetLastError();
    }

    for (i = 0; i < group->len; i++) {
        if (!ferryOpIsLost(ferryGroupMember(group, i)))
            ignore_value(ferryPivotTakeBack(ferryGroupMember(group, i)));
    }

    for (i = 0; i < group->len; i++) {
        ferryOp *member = ferryGroupMember(group, i);

        if (!ferryOpIsLost(member))
            ferryCopySettle(member);

        if (!member->over && rc == 0) {
            ferryCopyReportStuck(member);
            rc = -1;
        }
    }

    return rc;
}


/**
 * ferryGroupRun:
 *
 * Carries out what the group is for. Domain locked, job held, all members driven by this thread.
 * Returns 0, or -1 with an error reported: then the guest is on all its sources and the copies are
 * single ones again, or it is not known where it is.
 */
int
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

    ferryGroupTakeBack(group);
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
    size_t i;

    if (!op->leader || ferryPlanPastReturn(op, &ferryCopyPivotPlan)) {
        ferryCopyJobChanged(op);
        return;
    }

    group = ferryOpGroup(op);

    /* the job of a member may have ended at last, for which the others wait */
    if (ferryGroupMember(group, 0) != op) {
        ignore_value(ferryEngineSubmit(ferryGroupMember(group, 0)));
        return;
    }

    /* whoever drives one, to abort it, say, does not leave the group as it is */
    for (i = 1; i < group->len; i++) {
        if (ferryGroupMember(group, i)->driven)
            return;
    }

    ferryGroupDrive(group, op);

    /* of the one that led it a driver that died has said that it just goes on */
    if (!ferryOpLeads(op)) {
        ferryGroupTakeBack(group);
        ferryGroupRelease(group, op);
        return;
    }

    /* what a driver that died has done before it told the jobs to complete is done again */
    for (i = 0; !ferryGroupIsTold(group) && i < group->len; i++)
        ignore_value(ferryPlanUndo(ferryGroupMember(group, i), &ferryCopyPivotPlan));

    ignore_value(ferryGroupRun(group));
    ferryGroupRelease(group, op);
}
