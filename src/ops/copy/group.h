/*
 * group.h: block copy: pivots and aborts of several copies at one point in time
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "ops/blockjob.h"

extern const ferryBlockJobHandler ferryCopyBlockJob;

void ferryGroupJobChanged(ferryOp *op);
