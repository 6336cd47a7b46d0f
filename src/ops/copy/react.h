/*
 * react.h: block copy: what follows when the mirror job has changed its state
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/job.h"
#include "engine/op.h"

bool ferryCopyJobMatters(ferryOp *op, int status);
void ferryCopyJobChanged(ferryOp *op);
int ferryCopyRewind(ferryOp *op, ferryJobInfo *info);
