/*
 * images.h: storage migration: the destination's images that are missing
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

extern const ferryPlan ferryIncomingVolumesPlan;
extern const ferryPlan ferryIncomingImagesPlan;

void ferryIncomingDiscard(ferryOp *op, virDomainObj *vm);
