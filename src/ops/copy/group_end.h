/*
 * group_end.h: block copy: what clients do with copies, single ones or groups
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "ops/blockjob.h"

extern const ferryBlockJobHandler ferryCopyBlockJob;
