/*
 * pivot_prepare.h: block copy: the steps of a pivot while the guest still works on the source
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

int ferryPivotAddChain(ferryOp *op);
void ferryPivotRemoveChain(ferryOp *op);
int ferryPivotCarryBitmaps(ferryOp *op);
void ferryPivotDropBitmaps(ferryOp *op);
int ferryPivotFlush(ferryOp *op);
void ferryPivotUnflush(ferryOp *op);
