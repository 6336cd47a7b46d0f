/*
 * layers_next.h: block copy: from one image of the chain to the next
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/job.h"
#include "engine/op.h"

bool ferryLayersGoOn(ferryOp *op, const ferryJobInfo *info);
bool ferryLayersKeepSpeed(ferryOp *op, unsigned long long speed);
void ferryLayersScale(ferryOp *op, unsigned long long *cur, unsigned long long *end);
