/*
 * layers.h: block copy: the images between the top and the one that the target is put onto
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

bool ferryLayersNone(ferryOp *op);
int ferryLayersCopy(ferryOp *op);
void ferryLayersStop(ferryOp *op);
int ferryLayersClear(ferryOp *op);
