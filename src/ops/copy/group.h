/*
 * group.h: block copy: pivots and aborts of several copies at one point in time
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "ops/copy/data.h"

static inline ferryOp *
ferryGroupMember(GPtrArray *group,
                 size_t i)
{
    return g_ptr_array_index(group, i);
}


static inline ferryCopy *
ferryGroupCopy(GPtrArray *group,
               size_t i)
{
    return ferryCopyOf(ferryGroupMember(group, i));
}


void ferryGroupDrive(GPtrArray *group, ferryOp *worker);
void ferryGroupRelease(GPtrArray *group, ferryOp *worker);
int ferryGroupForm(GPtrArray *group, ferryCopyGoal goal);
int ferryGroupRun(GPtrArray *group);
int ferryGroupFinish(GPtrArray *group, bool again);
void ferryGroupJobChanged(ferryOp *op);
