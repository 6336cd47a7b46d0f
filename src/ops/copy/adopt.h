/*
 * adopt.h: block copy: the persistent definition names the target
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

int ferryCopyAdoptConfig(ferryOp *op);
void ferryCopyCutOld(ferryOp *op);
