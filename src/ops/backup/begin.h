/*
 * begin.h: backup: the steps from a request to running jobs
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"
#include "qemu/qemu_blockjob.h"

extern const ferryPlan ferryBackupBeginPlan;

bool ferryBackupIsMark(qemuBlockJobData *job);
void ferryBackupPublish(ferryOp *op);
