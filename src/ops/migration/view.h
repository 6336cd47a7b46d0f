/*
 * view.h: storage migration: what clients see of the mirrors
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "ops/blockjob.h"

extern const ferryBlockJobHandler ferryMigrationBlockJob;

void ferryMigrationTellReady(ferryOp *op, GPtrArray *jobs);
void ferryMigrationTellEnded(ferryOp *op, GPtrArray *jobs, bool failed);
