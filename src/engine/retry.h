/*
 * retry.h: what could not be finished is tried again after a while
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

typedef void (*ferryRetryFunc)(ferryOp *op, const unsigned char *uuid);

bool ferryRetryIsDue(ferryOp *op);
void ferryRetryUnfinished(ferryOp *op, ferryRetryFunc func);
void ferryRetryCancel(ferryOp *op);
