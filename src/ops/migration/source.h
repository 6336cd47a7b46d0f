/*
 * source.h: storage migration: the source's steps
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

extern const ferryOpClass ferryMigrationClass;
extern const ferryPlan ferryMigrationStoragePlan;
extern const ferryPlan ferryMigrationFinishPlan;

void ferryMigrationTakeBack(ferryOp *op);
