/*
 * control.h: block copy: abort, pivot, and reactions to the mirror job
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"
#include "ops/copy/data.h"

virDomainDiskMirrorState ferryCopyState(ferryCopy *copy);
int ferryCopyAbort(ferryOp *op, bool async);
int ferryCopyPivot(ferryOp *op, bool async);
void ferryCopySettle(ferryOp *op);
int ferryCopyCancel(ferryOp *op);
int ferryCopyAwaitEnd(ferryOp *op);
void ferryCopyReportStuck(ferryOp *op);
int ferryCopyPivotFinish(ferryOp *op, bool again);
void ferryCopyPivotFailed(ferryOp *op);
