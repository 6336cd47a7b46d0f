/*
 * pivot.h: block copy: the steps that move the guest to the target
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

extern const ferryPlan ferryCopyPivotPlan;

int ferryPivotTakeBack(ferryOp *op);
