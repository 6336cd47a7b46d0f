/*
 * begin.h: backup: the steps from a request to running jobs
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

extern const ferryPlan ferryBackupBeginPlan;

void ferryBackupPublish(ferryOp *op);
