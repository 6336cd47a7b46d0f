/*
 * control.c: block copy: abort and pivot
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "block/cache.h"
#include "engine/engine.h"
#include "engine/journal.h"
#include "engine/plan.h"
#include "engine/report.h"
#include "engine/wait.h"
#include "ops/copy/control.h"
#include "ops/copy/data.h"
#include "ops/copy/pivot.h"
#include "ops/copy/start.h"
#include "ops/event.h"
#include "ops/policy.h"
#include "qemu/qemu_monitor.h"
#include "virerror.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.copy");


/**
 * ferryCopyState:
 *
 * Returns what the live XML says of the mirror.
 */
virDomainDiskMirrorState
ferryCopyState(ferryCopy *copy)
{
    switch (copy->goal) {
    case FERRY_COPY_GOAL_PIVOT:
        return VIR_DOMAIN_DISK_MIRROR_STATE_PIVOT;
    case FERRY_COPY_GOAL_ABORT:
        return VIR_DOMAIN_DISK_MIRROR_STATE_ABORT;
    case FERRY_COPY_GOAL_MIRROR:
    case FERRY_COPY_GOAL_LAST:
    default:
        return copy->ready ? VIR_DOMAIN_DISK_MIRROR_STATE_READY :
                             VIR_DOMAIN_DISK_MIRROR_STATE_NONE;
    }
}


/* Sets the goal of the copy, and whether the target of an aborted one stays, in memory, in
 * the live XML and in the journal. Returns 0, or -1 with an error reported and everything
 * as it was: recovery must not find a goal that the client was told to have failed. */
static int
ferryCopySetGoal(ferryOp *op,
                 ferryCopyGoal goal,
                 bool keep)
{
    ferryCopy *copy = ferryCopyOf(op);
    virDomainDiskDef *disk = ferryCopyDisk(op);
    ferryCopyGoal oldGoal = copy->goal;
    bool oldKeep = copy->keep;

    copy->goal = goal;
    copy->keep = keep;

    if (ferryJournalWrite(op->vm, /* durable= */ false) < 0) {
        copy->goal = oldGoal;
        copy->keep = oldKeep;
        return -1;
    }

    if (disk) {
        disk->mirrorState = ferryCopyState(copy);
        qemuDomainSaveStatus(op->vm);
    }
    return 0;
}


/* The call that had set the goal failed: sets it to @goal again, in memory at least. On a full
 * disk the journal can still say that the copy just goes on. */
static void
ferryCopyTakeGoalBack(ferryOp *op,
                      ferryCopyGoal goal)
{
    ferryCopy *copy = ferryCopyOf(op);
    virDomainDiskDef *disk = ferryCopyDisk(op);

    if (ferryCopySetGoal(op, goal, /* keep= */ false) == 0)
        return;

    if (goal != FERRY_COPY_GOAL_MIRROR || ferryJournalWithdraw(op) < 0)
        VIR_WARN("domain '%s': if the driver is restarted now, it takes up the call for disk '%s' "
                 "that failed: %s",
                 op->vm->def->name, copy->dst, virGetLastErrorMessage());
    copy->goal = goal;
    copy->keep = false;
    if (disk)
        disk->mirrorState = ferryCopyState(copy);
}


/**
 * ferryCopySettle:
 *
 * Undoes the steps of @op and ends @op, unless QEMU cannot be reached. The guest must be
 * on the source. The target's file stays if copy->keep and the mirror job had no error.
 * Domain locked, job held. Keeps the last error.
 */
void
ferryCopySettle(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    g_autofree char *jobname = ferryJobName(op, "mirror");
    g_auto(ferryJobInfo) info = { 0 };
    virDomainDiskDef *disk = ferryCopyDisk(op);
    ferryOp *snapshot;
    virErrorPtr err = NULL;
    int status = copy->goal == FERRY_COPY_GOAL_ABORT ? VIR_DOMAIN_BLOCK_JOB_CANCELED :
                                                       VIR_DOMAIN_BLOCK_JOB_FAILED;

    virErrorPreserveLast(&err);

    if (ferryJobQuery(op, jobname, &info) < 0) {
        virErrorRestore(&err);
        return;
    }

    if (info.error)
        copy->keep = false;

    if (info.error && copy->goal != FERRY_COPY_GOAL_ABORT)
        ferryReportEnded(op, info.error, disk ? disk->src->path : NULL);

    /* a driver that died may have left a pivot half-way */
    if (ferryPlanUndo(op, &ferryCopyPivotPlan) == 0 &&
        ferryPlanUndo(op, &ferryCopyStartPlan) == 0 && !op->over) {
        ferryOpEnd(op);
        if (!copy->refused)
            ferryEventBlockJobNamed(op->vm, copy->dst, VIR_DOMAIN_BLOCK_JOB_TYPE_COPY, status);
        /* the snapshot is taken back when its copies are gone */
        if (copy->pending && (snapshot = ferryOpFind(op->vm, FERRY_COPY_SNAPSHOT)))
            ignore_value(ferryEngineSubmit(snapshot));
    }

    virErrorRestore(&err);
}


/**
 * ferryCopyCancel:
 *
 * Cancels the mirror job: gracefully if its target shall be kept, else by force. Domain locked, job
 * held. Returns 0, or -1 with an error reported.
 */
int
ferryCopyCancel(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    g_autofree char *jobname = ferryJobName(op, "mirror");
    virDomainDiskDef *disk = ferryCopyDisk(op);
    int rc;

    if (disk)
        ferryNodeHoldSource(op->vm, disk);

    qemuDomainObjEnterMonitor(op->vm);
    rc = qemuMonitorBlockJobCancel(qemuDomainGetMonitor(op->vm), jobname, !copy->keep);
    qemuDomainObjExitMonitor(op->vm);

    if (rc == 0)
        ferryCopyYank(op);
    return rc;
}


/**
 * ferryCopyReportStuck:
 *
 * Reports why @op, whose mirror job has ended, is not over.
 */
void
ferryCopyReportStuck(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);

    if (ferryOpIsLost(op)) {
        ferryOpReportLost(op);
    } else if (copy->volume) {
        virReportError(VIR_ERR_OPERATION_TIMEOUT,
                       _("the copy of disk '%1$s' of domain '%2$s' has ended, but its target, volume '%3$s' of "
                         "pool '%4$s', cannot be deleted yet: see the daemon's log, and abort the copy again"),
                       copy->dst, op->vm->def->name, copy->volume->name, copy->volume->pool);
    } else {
        virReportError(VIR_ERR_OPERATION_TIMEOUT,
                       _("the copy of disk '%1$s' of domain '%2$s' has ended, but the storage of its target "
                         "'%3$s' does not answer: what is there is dealt with when it does"),
                       copy->dst, op->vm->def->name, NULLSTR(copy->target->path));
    }
}


/**
 * ferryCopyAwaitEnd:
 *
 * Waits until the cancelled mirror job has ended, and settles the copy. Domain locked, job held; both
 * may be released meanwhile. Returns 0, or -1 with an error reported.
 */
int
ferryCopyAwaitEnd(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    g_autofree char *jobname = ferryJobName(op, "mirror");
    g_auto(ferryJobInfo) info = { 0 };

    while (true) {
        if (ferryJobWait(op, jobname, FERRY_JOB_STATE(PENDING) | FERRY_JOB_STATE(CONCLUDED),
                         /* timeout= */ 0, &info) < 0)
            return -1;

        if (info.status != QEMU_MONITOR_JOB_STATUS_PENDING)
            break;

        /* to finalize it would move the guest */
        if (copy->told) {
            if (ferryJobKill(op, jobname) < 0)
                return -1;
            break;
        }

        qemuDomainObjEnterMonitor(op->vm);
        ignore_value(qemuMonitorJobFinalize(qemuDomainGetMonitor(op->vm), jobname));
        qemuDomainObjExitMonitor(op->vm);
        virResetLastError();

        if (ferryJobWait(op, jobname, FERRY_JOB_STATE(CONCLUDED), /* timeout= */ 0, &info) < 0)
            return -1;
    }

    ferryCopySettle(op);

    if (op->over || !op->stuck)
        return 0;

    ferryCopyReportStuck(op);
    return -1;
}


/* Cancels the mirror job while a pivot waits for a target that does not catch up. The
 * pivoting thread sees the job end, and undoes the pivot and the copy. */
static int
ferryCopyAbortPivot(ferryOp *op,
                    bool async)
{
    virErrorPtr err = NULL;

    if (ferryCopySetGoal(op, FERRY_COPY_GOAL_ABORT, /* keep= */ false) < 0)
        return -1;

    if (ferryCopyCancel(op) < 0) {
        virErrorPreserveLast(&err);
        ferryCopyTakeGoalBack(op, FERRY_COPY_GOAL_PIVOT);
        virErrorRestore(&err);
        return -1;
    }

    return async ? 0 : ferryOpAwaitEnd(op);
}


/* Returns true when QEMU says that the mirror job goes on as if it had not been cancelled. */
static bool
ferryCopyGoesOn(ferryOp *op)
{
    g_autofree char *jobname = ferryJobName(op, "mirror");
    g_auto(ferryJobInfo) info = { 0 };
    virErrorPtr err = NULL;
    bool known;

    virErrorPreserveLast(&err);
    known = ferryJobQuery(op, jobname, &info) == 0;
    virErrorRestore(&err);

    return known && (ferryJobStatusIsReady(info.status) ||
                     info.status == QEMU_MONITOR_JOB_STATUS_RUNNING ||
                     info.status == QEMU_MONITOR_JOB_STATUS_PAUSED);
}


/**
 * ferryCopyAbort:
 * @async: return as soon as the mirror job was told to end
 *
 * Ends the copy with the guest on the source. If the mirror job is ready, the target
 * stays as a copy of this moment; else the file that the copy created is removed.
 * Domain locked, modify job held; the caller has a reference to @op.
 */
int
ferryCopyAbort(ferryOp *op,
               bool async)
{
    ferryCopy *copy = ferryCopyOf(op);
    g_autofree char *jobname = ferryJobName(op, "mirror");
    g_auto(ferryJobInfo) info = { 0 };
    ferryCopyGoal goal = copy->goal;
    virErrorPtr err = NULL;
    int rc = 0;

    /* the storage of its target was not there when it was to end */
    if (copy->goal == FERRY_COPY_GOAL_ABORT && op->stuck && !op->driven) {
        ferryOpDrive(op);
        rc = ferryCopyAwaitEnd(op);
        ferryOpRelease(op);
        return rc;
    }

    if (copy->goal == FERRY_COPY_GOAL_ABORT ||
        ferryPlanPastReturn(op, &ferryCopyPivotPlan)) {
        virReportError(VIR_ERR_OPERATION_INVALID,
                       _("block job on disk '%1$s' is still being ended"), copy->dst);
        return -1;
    }

    if (op->driven && copy->goal == FERRY_COPY_GOAL_PIVOT)
        return ferryCopyAbortPivot(op, async);

    if (op->driven || op->leader) {
        virReportError(VIR_ERR_OPERATION_INVALID,
                       op->leader ?
                           _("block job on disk '%1$s' is about to end with those of other disks; try again") :
                           _("block job on disk '%1$s' is still being started; try again"),
                       copy->dst);
        return -1;
    }

    if (ferryJobQuery(op, jobname, &info) < 0)
        return -1;

    if (ferryCopySetGoal(op, FERRY_COPY_GOAL_ABORT,
                         ferryJobStatusIsReady(info.status) && !copy->told) < 0)
        return -1;

    ferryOpDrive(op);

    /* also fails when the job has just ended by itself, which the wait finds out */
    if (ferryCopyCancel(op) < 0) {
        if (ferryCopyGoesOn(op)) {
            virErrorPreserveLast(&err);
            ferryCopyTakeGoalBack(op, goal);
            ferryOpRelease(op);
            /* a pivot that was promised may have been waiting for a worker */
            if (goal == FERRY_COPY_GOAL_PIVOT)
                ignore_value(ferryEngineSubmit(op));
            virErrorRestore(&err);
            return -1;
        }
        virResetLastError();
    }
    if (!async)
        rc = ferryCopyAwaitEnd(op);

    ferryOpRelease(op);
    return rc;
}


/**
 * ferryCopyPivotFailed:
 *
 * The pivot failed before its point of no return, and its steps are undone: the copy goes on, or
 * ends if its mirror job has. Domain locked, job held. Keeps the last error.
 */
void
ferryCopyPivotFailed(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    g_autofree char *jobname = ferryJobName(op, "mirror");
    g_auto(ferryJobInfo) info = { 0 };
    virErrorPtr err = NULL;

    virErrorPreserveLast(&err);

    g_clear_pointer(&op->leader, g_free);
    g_clear_pointer(&copy->old, virObjectUnref);
    if (!ferryPlanReached(op, &ferryCopyPivotPlan, "pause"))
        copy->pause = false;

    if (copy->goal == FERRY_COPY_GOAL_PIVOT)
        ferryCopyTakeGoalBack(op, FERRY_COPY_GOAL_MIRROR);

    /* no mirror job that runs, or no disk: there is no copy to go back to */
    if (ferryJobQuery(op, jobname, &info) == 0 &&
        (!ferryCopyDisk(op) || !ferryJobStatusIsReady(info.status)))
        ferryCopySettle(op);

    virErrorRestore(&err);
}


/* @rc: what the plan of the pivot has returned. Ends the operation if it is done. */
static int
ferryCopyPivotEnd(ferryOp *op,
                  int rc)
{
    ferryCopy *copy = ferryCopyOf(op);

    if (op->over)
        return -1;

    if (rc == 0) {
        ferryOpEnd(op);
        ferryEventBlockJobNamed(op->vm, copy->dst, VIR_DOMAIN_BLOCK_JOB_TYPE_COPY,
                                VIR_DOMAIN_BLOCK_JOB_COMPLETED);
        return 0;
    }

    /* The outcome is not known, or the guest has moved and the rest failed: the next
     * attempt, or recovery, goes on from there. */
    if (!ferryOpIsLost(op) && !ferryPlanPastReturn(op, &ferryCopyPivotPlan))
        ferryCopyPivotFailed(op);

    return -1;
}


static int
ferryCopyPivotRun(ferryOp *op)
{
    return ferryCopyPivotEnd(op, ferryPlanResume(op, &ferryCopyPivotPlan));
}


/**
 * ferryCopyPivotFinish:
 * @again: the last step may not be done
 *
 * Takes the steps that are left, behind the point of no return, of a pivot that was part of a
 * group's. Returns 0, or -1 with an error reported: what is left is tried again.
 */
int
ferryCopyPivotFinish(ferryOp *op,
                     bool again)
{
    return again ? ferryCopyPivotRun(op) :
                   ferryCopyPivotEnd(op, ferryPlanRunTo(op, &ferryCopyPivotPlan, "release"));
}


/**
 * ferryCopyPivot:
 * @async: leave the work to another thread and return at once
 *
 * Moves the guest to the target. Refused unless QEMU says that the mirror job is ready;
 * a pivot that failed past its point of no return is resumed in any case. Domain locked,
 * modify job held; the caller has a reference to @op.
 */
int
ferryCopyPivot(ferryOp *op,
               bool async)
{
    ferryCopy *copy = ferryCopyOf(op);
    g_autofree char *jobname = ferryJobName(op, "mirror");
    g_auto(ferryJobInfo) info = { 0 };
    virDomainDiskDef *disk;
    ferryQuiesce quiesce = { 0 };
    bool again = ferryPlanPastReturn(op, &ferryCopyPivotPlan);
    int rc = 0;

    if (op->driven || (copy->goal != FERRY_COPY_GOAL_MIRROR && !again)) {
        virReportError(VIR_ERR_OPERATION_INVALID,
                       _("block job on disk '%1$s' is still being ended"), copy->dst);
        return -1;
    }

    if (ferryJobQuery(op, jobname, &info) < 0 ||
        (!again && ferryPolicyQuiesce(op->vm, &quiesce) < 0))
        return -1;

    if (!ferryJobStatusIsReady(info.status) && !again) {
        virReportError(VIR_ERR_BLOCK_COPY_ACTIVE,
                       _("block job on disk '%1$s' of domain '%2$s' not ready for pivot yet: wait until "
                         "it is, or abort it"),
                       copy->dst, op->vm->def->name);
        return -1;
    }

    /* a guest that is still to be thawed must not be forgotten */
    if (!again && !copy->quiesce.frozen)
        copy->quiesce = quiesce;

    if (async) {
        /* When the journal has the goal, the pivot happens: by a worker, or by the next
         * driver. Behind the point of no return the journal leads forward already. */
        if (!again && ferryCopySetGoal(op, FERRY_COPY_GOAL_PIVOT, /* keep= */ false) < 0)
            return -1;
        ignore_value(ferryEngineSubmit(op));
        return 0;
    }

    copy->goal = FERRY_COPY_GOAL_PIVOT;
    if ((disk = ferryCopyDisk(op)))
        disk->mirrorState = ferryCopyState(copy);

    ferryOpDrive(op);
    rc = ferryCopyPivotRun(op);
    ferryOpRelease(op);

    return rc;
}
