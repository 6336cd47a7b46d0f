/*
 * hold.h: block copy: how long, and how safely, the guest's disk is held
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

bool ferryCopyMustPause(ferryOp *op);
int ferryCopyPause(ferryOp *op);
void ferryCopyUnpause(ferryOp *op);
void ferryCopyBePatient(ferryOp *op);
void ferryCopyLosePatience(ferryOp *op);
int ferryCopyAwaitLevel(ferryOp *op);
