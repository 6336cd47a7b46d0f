/*
 * plan.h: run the steps of a plan, or undo them
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

int ferryPlanRun(ferryOp *op, const ferryPlan *plan);
int ferryPlanRunTo(ferryOp *op, const ferryPlan *plan, const char *last);
int ferryPlanAdvance(ferryOp *op, const ferryPlan *plan, const char *last);
int ferryPlanRunTogether(GPtrArray *ops, const ferryPlan *plan, const char *name);
int ferryPlanRepeat(ferryOp *op, const ferryPlan *plan);
int ferryPlanResume(ferryOp *op, const ferryPlan *plan);
int ferryPlanUndo(ferryOp *op, const ferryPlan *plan);

/* Exported and never inlined, so that the tests can replace these functions. */
int ferryStepRun(ferryOp *op, const ferryPlan *plan, const ferryStep *step) G_NO_INLINE;
void ferryStepUndo(ferryOp *op, const ferryPlan *plan, const ferryStep *step) G_NO_INLINE;
