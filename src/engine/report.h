/*
 * report.h: what users are told of an operation that failed or was recovered
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

void ferryReportFailure(ferryOp *op);
int ferryReportResult(const char *name, int ret);
void ferryReportEnded(ferryOp *op, const char *why, const char *stays);
void ferryReportStopped(ferryOp *op);
void ferryReportRecovered(ferryOp *op, const char *name);
