/*
 * plan.c: run the steps of a plan, or take them back
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "engine/job.h"
#include "engine/journal.h"
#include "engine/plan.h"
#include "virerror.h"
#include "virlog.h"

VIR_LOG_INIT("ferry.plan");


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


/* Writes down that @step is about to act. The guest may be waiting when the
 * point of no return is reached: all but a mark is written with the step
 * before, unless another operation has written since. */
static int
ferryPlanRecord(ferryOp *op,
                const ferryStep *step)
{
    if (step->unrecorded)
        return 0;

    if (ferryStepIsReturn(step) && op->synced)
        return ferryJournalCommit(op);

    return ferryJournalWrite(op->vm,
                             step->durable || ferryStepIsReturn(ferryStepNextRecorded(step)));
}


/* The domain's job is not let go of by a step that is to be alone. */
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


/* Takes one step. @past: the point of no return lies behind, so that the journal
 * leads forward already; what it cannot be told any more is done again by whoever
 * reads it, and must not keep the step from being taken now. @resumed: the step was
 * taken before, which is the same for that point itself. */
static int
ferryPlanTake(ferryOp *op,
              const ferryPlan *plan,
              const ferryStep *step,
              bool past,
              bool resumed)
{
    int rc;

    if (ferryPlanRecord(op, step) < 0) {
        if (!past && !(resumed && ferryStepIsReturn(step)))
            return FERRY_STEP_FAILED;

        VIR_WARN("domain '%s': operation '%s' goes on although: %s",
                 op->vm->def->name, op->name, virGetLastErrorMessage());
        virResetLastError();
    }

    rc = ferryPlanRunStep(op, plan, step);

    /* there is no way back; or perhaps none: the reply was lost, not the command */
    if (rc < 0 && (past || (ferryStepIsReturn(step) && !ferryJobQEMUReachable(op))))
        return FERRY_STEP_UNKNOWN;

    return rc;
}


/* @last: name of the last step to be taken; NULL: of all */
static int
ferryPlanRunFrom(ferryOp *op,
                 const ferryPlan *plan,
                 size_t first,
                 const char *last)
{
    size_t *progress = ferryPlanProgress(op, plan);
    size_t i;

    for (i = first; plan->steps[i].name; i++) {
        const ferryStep *step = &plan->steps[i];
        bool resumed = *progress > i;
        virErrorPtr err = NULL;
        int rc;

        *progress = i + 1;

        if ((rc = ferryPlanTake(op, plan, step, ferryPlanReturnsWithin(plan, i), resumed)) == 0) {
            if (STREQ_NULLABLE(step->name, last))
                return 0;
            continue;
        }

        /* over: QEMU died while the step waited, and the operation was settled */
        if (op->over || rc == FERRY_STEP_UNKNOWN)
            return -1;

        virErrorPreserveLast(&err);
        ignore_value(ferryPlanUndo(op, plan));
        virErrorRestore(&err);
        return -1;
    }

    return 0;
}


/**
 * ferryPlanRun:
 *
 * Takes the steps of @plan in order. When one fails, it and those before it
 * are undone backwards and the first error is the one reported; when one ends
 * with FERRY_STEP_UNKNOWN nothing is undone.
 *
 * The domain is locked and its modify job held by the caller. The caller ends
 * the operation, if all of the plan was undone: neither success nor failure of
 * a plan does.
 *
 * Returns 0, or -1 with an error reported.
 */
int
ferryPlanRun(ferryOp *op,
             const ferryPlan *plan)
{
    return ferryPlanRunFrom(op, plan, 0, NULL);
}


/**
 * ferryPlanRunTo:
 * @last: name of a step of @plan
 *
 * ferryPlanRun() in parts: takes those steps up to @last that were not taken yet.
 * When one fails all are undone, those of earlier parts, too.
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
 * ferryPlanResume:
 *
 * Goes on with @plan where it was left: the last step that may have acted is
 * taken again. Steps that are resumed must stand that.
 */
int
ferryPlanResume(ferryOp *op,
                const ferryPlan *plan)
{
    size_t done = *ferryPlanProgress(op, plan);

    return ferryPlanRunFrom(op, plan, done ? done - 1 : 0, NULL);
}


/**
 * ferryPlanUndo:
 *
 * Takes back all steps of @plan that may have acted, last one first. Any error
 * reported on the way is dropped: an undo has nobody to report to, and what it
 * could not remove is in the log.
 *
 * Returns 0; or -1 when QEMU could not be reached any more: then the steps left
 * stay in the journal, and the operation must not be ended but wait for the end
 * of QEMU or for another driver that gets through to it.
 */
int
ferryPlanUndo(ferryOp *op,
              const ferryPlan *plan)
{
    size_t *progress = ferryPlanProgress(op, plan);
    int rc = 0;

    op->undoing = true;

    while (*progress > 0 && !op->over && rc == 0) {
        ferryPlanUndoStep(op, plan, &plan->steps[*progress - 1]);

        if (!op->over && !ferryJobQEMUReachable(op))
            rc = -1;
        else
            (*progress)--;
    }

    op->undoing = false;
    if (rc < 0)
        return -1;

    if (!op->over && ferryJournalWrite(op->vm, false) < 0)
        VIR_WARN("journal of domain '%s' not updated after undo: %s",
                 op->vm->def->name, virGetLastErrorMessage());

    virResetLastError();
    return 0;
}
