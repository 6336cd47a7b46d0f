/*
 * hold.h: block copy: how long the guest's disk is held
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

void ferryCopyBePatient(ferryOp *op);
void ferryCopyLosePatience(ferryOp *op);
int ferryCopyAwaitLevel(ferryOp *op);
