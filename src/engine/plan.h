/*
 * plan.h: run the steps of a plan, or take them back
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

int ferryPlanRun(ferryOp *op, const ferryPlan *plan);
int ferryPlanRunTo(ferryOp *op, const ferryPlan *plan, const char *last);
int ferryPlanResume(ferryOp *op, const ferryPlan *plan);
int ferryPlanUndo(ferryOp *op, const ferryPlan *plan);

/* Exported, so that the tests can stand between the engine and a step. */
int ferryStepRun(ferryOp *op, const ferryPlan *plan, const ferryStep *step) G_NO_INLINE;
void ferryStepUndo(ferryOp *op, const ferryPlan *plan, const ferryStep *step) G_NO_INLINE;
