/*
 * recover.h: block copy: recovery after the driver or QEMU ended
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

void ferryCopyRevive(const ferryOpClass *klass, virDomainObj *vm);
void ferryCopyRecall(ferryOp *op);
void ferryCopyRecover(ferryOp *op);
void ferryCopyStopped(ferryOp *op);
