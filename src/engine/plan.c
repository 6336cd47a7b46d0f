/*
 * plan.c: run the steps of a plan, or undo them
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "engine/job.h"
#include "engine/journal.h"
#include "engine/plan.h"
#include "engine/report.h"
#include "engine/wait.h"
#include "virerror.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.plan");

/* Beside ferryStepError: the journal could not be written, so the step did not run. */
#define FERRY_STEP_NOT_TAKEN (-3)


int
ferryStepRun(ferryOp *op,
             const ferryPlan *plan,
             const ferryStep *step)
{
    VIR_DEBUG("op=%s plan=%s step=%s", op->name, plan->name, step->name);

    return step->run(op);
}


void
ferryStepUndo(ferryOp *op,
              const ferryPlan *plan,
              const ferryStep *step)
{
    VIR_DEBUG("op=%s plan=%s undo step=%s", op->name, plan->name, step->name);

    if (step->undo)
        step->undo(op);
}


/* Returns whether the journal must know of @step before @op runs it. */
static bool
ferryPlanMustRecord(ferryOp *op,
                    const ferryStep *step)
{
    return !step->unrecorded && (!step->idle || !step->idle(op));
}


/* Records in the journal that @step is about to run. The guest may wait at the point of
 * no return. So the whole journal is synced at the step before, and only a mark is
 * written at the point, unless another operation has rewritten the journal since. */
static int
ferryPlanRecord(ferryOp *op,
                const ferryStep *step)
{
    if (!ferryPlanMustRecord(op, step))
        return 0;

    if (ferryStepIsReturn(step) && op->synced)
        return ferryJournalCommit(op);

    return ferryJournalWrite(op->vm,
                             step->durable || ferryStepIsReturn(ferryStepNextRecorded(step)));
}


/* A step that is marked alone keeps the domain's job while it waits. */
static int
ferryPlanRunStep(ferryOp *op,
                 const ferryPlan *plan,
                 const ferryStep *step)
{
    bool hold = op->holdJob;
    int rc;

    op->holdJob = hold || step->alone;
    rc = ferryStepRun(op, plan, step);
    op->holdJob = hold;

    return rc;
}


static void
ferryPlanUndoStep(ferryOp *op,
                  const ferryPlan *plan,
                  const ferryStep *step)
{
    bool hold = op->holdJob;

    op->holdJob = hold || step->alone;
    ferryStepUndo(op, plan, step);
    op->holdJob = hold;
}


/* Runs one step. @past: the plan is behind its point of no return. A step that cannot be
 * recorded is run all the same then: recovery goes forward from the old journal and runs
 * the step again. @resumed: the step may have run before. If it is that point itself,
 * the journal has recorded it already, and the same holds. */
static int
ferryPlanTake(ferryOp *op,
              const ferryPlan *plan,
              const ferryStep *step,
              bool past,
              bool resumed)
{
    int rc;

    if (ferryPlanRecord(op, step) < 0) {
        if (!past && !resumed)
            return FERRY_STEP_NOT_TAKEN;
        if (!past && !ferryStepIsReturn(step))
            return FERRY_STEP_FAILED;

        VIR_WARN("domain '%s': operation '%s' goes on without writing its journal: %s",
                 op->vm->def->name, op->name, virGetLastErrorMessage());
        virResetLastError();
    }

    rc = ferryPlanRunStep(op, plan, step);

    /* no way back, or perhaps none: QEMU may have run the command without a reply */
    if (rc < 0 && (past || (ferryStepIsReturn(step) && !ferryJobQEMUReachable(op))))
        return FERRY_STEP_UNKNOWN;

    return rc;
}


/* The guest goes on with what was before, although the journal on the disk may have passed the point of no
 * return of @op: after a power loss nobody may go on from there. @group: the operations for which the mark
 * of @op counts; those that are past it stay so. Keeps the last error. */
static void
ferryPlanWithdraw(ferryOp *op,
                  const ferryPlan *plan,
                  GPtrArray *group)
{
    virErrorPtr err = NULL;
    size_t i;

    virErrorPreserveLast(&err);

    if (ferryJournalWrite(op->vm, /* durable= */ true) == 0) {
        virErrorRestore(&err);
        return;
    }

    /* marks alone need no space */
    for (i = 0; i < group->len; i++) {
        ferryOp *member = g_ptr_array_index(group, i);

        if (member == op)
            continue;
        ignore_value(ferryPlanPastReturn(member, plan) ? ferryJournalCommit(member) :
                                                         ferryJournalWithdraw(member));
    }

    if (ferryJournalWithdraw(op) < 0)
        VIR_ERROR(_("domain '%1$s': the journal still says that operation '%2$s' got through, and cannot be "
                    "written: make the disk that it is on writable before the host ends (%3$s)"),
                  op->vm->def->name, op->name, virGetLastErrorMessage());

    virErrorRestore(&err);
}


/* Runs the steps from number @first to the one named @last; NULL: to the end. Returns 0; else, with
 * an error reported and nothing undone, FERRY_STEP_UNKNOWN if nothing must be undone, or -1. */
static int
ferryPlanGoOn(ferryOp *op,
              const ferryPlan *plan,
              size_t first,
              const char *last)
{
    size_t *progress = ferryPlanProgress(op, plan);
    size_t i;

    for (i = first; plan->steps[i].name; i++) {
        const ferryStep *step = &plan->steps[i];
        bool resumed = *progress > i;
        int rc;

        *progress = i + 1;

        if ((rc = ferryPlanTake(op, plan, step, ferryPlanReturnsWithin(plan, i), resumed)) == 0) {
            if (STREQ_NULLABLE(step->name, last))
                return 0;
            continue;
        }

        ferryReportFailure(op);

        /* QEMU died while the step waited and the operation was settled, say */
        if (ferryOpIsLost(op) || rc == FERRY_STEP_UNKNOWN)
            return FERRY_STEP_UNKNOWN;

        if (rc == FERRY_STEP_NOT_TAKEN) {
            g_autoptr(GPtrArray) group = ferryOpGroup(op);

            *progress = i;
            if (ferryStepIsReturn(step))
                ferryPlanWithdraw(op, plan, group);
        }
        return -1;
    }

    return 0;
}


/* Like ferryPlanGoOn(), and undoes what must be undone. */
static int
ferryPlanRunFrom(ferryOp *op,
                 const ferryPlan *plan,
                 size_t first,
                 const char *last)
{
    virErrorPtr err = NULL;
    int rc = ferryPlanGoOn(op, plan, first, last);

    if (rc == -1) {
        virErrorPreserveLast(&err);
        ignore_value(ferryPlanUndo(op, plan));
        virErrorRestore(&err);
    }

    return MAX(rc, -1);
}


/**
 * ferryPlanRun:
 *
 * Runs the steps of @plan in order. When a step fails, it and those before it are undone,
 * last one first, and its error is reported; after FERRY_STEP_UNKNOWN nothing is undone.
 *
 * Domain locked, the job of the class held. A plan never ends its operation, whether it
 * succeeds or fails: the caller does so if all steps were undone (progress is 0).
 *
 * Returns 0, or -1 with an error reported.
 */
int
ferryPlanRun(ferryOp *op,
             const ferryPlan *plan)
{
    return ferryPlanRunFrom(op, plan, /* first= */ 0, /* last= */ NULL);
}


/**
 * ferryPlanRunTo:
 * @last: name of a step of @plan
 *
 * Like ferryPlanRun(), but runs only the steps up to @last that have not run yet. When
 * one fails, the steps of earlier calls are undone, too.
 *
 * Returns 0, also when there is nothing left to do, or -1 with an error reported.
 */
int
ferryPlanRunTo(ferryOp *op,
               const ferryPlan *plan,
               const char *last)
{
    if (ferryPlanReached(op, plan, last))
        return 0;

    return ferryPlanRunFrom(op, plan, *ferryPlanProgress(op, plan), last);
}


/**
 * ferryPlanAdvance:
 *
 * Like ferryPlanRunTo(), but undoes nothing: for a member of a group, whose caller takes all
 * members back together. Returns 0; FERRY_STEP_UNKNOWN, if nothing must be undone, or -1.
 */
int
ferryPlanAdvance(ferryOp *op,
                 const ferryPlan *plan,
                 const char *last)
{
    if (ferryPlanReached(op, plan, last))
        return 0;

    return ferryPlanGoOn(op, plan, *ferryPlanProgress(op, plan), last);
}


/* Records that step number @i is about to run for all of @ops, in one write. */
static int
ferryPlanRecordTogether(GPtrArray *ops,
                        const ferryPlan *plan,
                        size_t i)
{
    ferryOp *leader = g_ptr_array_index(ops, 0);
    const ferryStep *step = &plan->steps[i];
    g_autofree size_t *before = g_new0(size_t, ops->len);
    bool durable = step->durable || ferryStepIsReturn(ferryStepNextRecorded(step));
    bool record = false;
    size_t k;

    for (k = 0; k < ops->len; k++) {
        ferryOp *op = g_ptr_array_index(ops, k);
        size_t *progress = ferryPlanProgress(op, plan);

        before[k] = *progress;
        *progress = i + 1;
        record = record || ferryPlanMustRecord(op, step);
    }

    if (!record ||
        (ferryStepIsReturn(step) && leader->synced ? ferryJournalCommit(leader) :
                                                     ferryJournalWrite(leader->vm, durable)) == 0)
        return 0;

    for (k = 0; k < ops->len; k++)
        *ferryPlanProgress(g_ptr_array_index(ops, k), plan) = before[k];
    if (ferryStepIsReturn(step))
        ferryPlanWithdraw(leader, plan, ops);
    return -1;
}


/**
 * ferryPlanRunTogether:
 * @ops: operations of one domain, that which leads the others first
 * @name: of a step; all steps before it have run for all of @ops
 *
 * Runs one step for all of @ops. At most one write to the journal records it for all: after the point of
 * no return a later driver finds all of them past it, or none. Domain locked, job held, @ops
 * driven by this thread. Nothing is undone.
 *
 * Returns 0; FERRY_STEP_UNKNOWN, with an error reported, if nothing must be undone; or -1.
 */
int
ferryPlanRunTogether(GPtrArray *ops,
                     const ferryPlan *plan,
                     const char *name)
{
    const ferryStep *step = plan->steps;
    size_t k;

    while (STRNEQ(step->name, name))
        step++;

    if (ferryPlanRecordTogether(ops, plan, step - plan->steps) < 0)
        return -1;

    for (k = 0; k < ops->len; k++) {
        ferryOp *op = g_ptr_array_index(ops, k);
        int rc = ferryPlanRunStep(op, plan, step);

        if (rc == 0)
            continue;

        ferryReportFailure(op);
        if (ferryOpIsLost(op) || rc == FERRY_STEP_UNKNOWN ||
            (ferryStepIsReturn(step) && !ferryJobQEMUReachable(op)))
            return FERRY_STEP_UNKNOWN;
        return -1;
    }

    return 0;
}


/**
 * ferryPlanResume:
 *
 * Goes on with @plan from the last step that may have acted, which runs again: steps of
 * plans that are resumed must allow being run twice. Otherwise like ferryPlanRun().
 */
int
ferryPlanResume(ferryOp *op,
                const ferryPlan *plan)
{
    size_t done = *ferryPlanProgress(op, plan);

    return ferryPlanRunFrom(op, plan, done ? done - 1 : 0, /* last= */ NULL);
}


/**
 * ferryPlanRepeat:
 *
 * Runs the last step again that may have acted, and no other; there must be one. Otherwise like
 * ferryPlanRun().
 */
int
ferryPlanRepeat(ferryOp *op,
                const ferryPlan *plan)
{
    size_t last = *ferryPlanProgress(op, plan) - 1;

    return ferryPlanRunFrom(op, plan, last, plan->steps[last].name);
}


/* @op is taken back from behind the point of no return, from which the others of its group go on. */
static void
ferryPlanLeave(ferryOp *op,
               const ferryPlan *plan)
{
    g_autoptr(GPtrArray) group = ferryOpGroup(op);

    g_clear_pointer(&op->leader, g_free);
    ferryPlanWithdraw(op, plan, group);
}


/**
 * ferryPlanUndo:
 *
 * Undoes all steps of @plan that may have acted, last one first. Errors of an undo are
 * dropped, since no caller could act on them; the log says what was not removed.
 *
 * Returns 0, or -1 when QEMU cannot be reached any more, a QEMU job does not end or a step
 * could not remove what must not stay (op->stuck), or the driver is about to end. The
 * remaining steps then stay in the journal and the caller must not end the operation: the
 * undo goes on when the job ends or after a while (retry.c), or the operation is settled when
 * QEMU ends or by a restarted driver.
 */
int
ferryPlanUndo(ferryOp *op,
              const ferryPlan *plan)
{
    size_t *progress = ferryPlanProgress(op, plan);
    bool past = ferryPlanPastReturn(op, plan);
    int rc = 0;

    op->undoing = true;
    op->stuck = false;

    while (*progress > 0 && !op->over && rc == 0) {
        if (!ferryOpIsLost(op))
            ferryPlanUndoStep(op, plan, &plan->steps[*progress - 1]);

        if (!op->over && (op->stuck || ferryOpIsLost(op) || !ferryJobQEMUReachable(op)))
            rc = -1;
        else
            (*progress)--;

        if (rc == 0 && past && !ferryPlanPastReturn(op, plan)) {
            ferryPlanLeave(op, plan);
            past = false;
        }
    }

    op->undoing = false;
    if (rc < 0)
        return -1;

    if (!op->over && ferryJournalWrite(op->vm, /* durable= */ false) < 0)
        VIR_WARN("journal of domain '%s' not updated after undo: %s",
                 op->vm->def->name, virGetLastErrorMessage());

    virResetLastError();
    return 0;
}
