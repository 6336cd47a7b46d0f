/*
 * ready.h: storage migration: the progress of the mirrors
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

char *ferryMigrationFindStopped(ferryOp *op, GPtrArray *jobs, bool resume);
int ferryMigrationCheckRunning(ferryOp *op, GPtrArray *jobs);
int ferryMigrationAwaitReady(ferryOp *op);
int ferryMigrationAwaitLevel(ferryOp *op);
int ferryMigrationCheckJobs(ferryOp *op, GPtrArray *jobs);
unsigned long long ferryMigrationShare(unsigned long long bandwidth, size_t ndisks, size_t ready);
int ferryMigrationBalance(ferryOp *op, GPtrArray *jobs);
void ferryMigrationCount(GPtrArray *jobs, virDomainJobData *data);
void ferryMigrationReportFailure(ferryOp *op, const char *dst, const char *error);
