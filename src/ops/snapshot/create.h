/*
 * create.h: mirrored snapshots: the steps that create one
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

extern const ferryPlan ferrySnapshotPlan;
