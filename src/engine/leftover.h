/*
 * leftover.h: what an operation has left on storage when its QEMU ended
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "block/bounded.h"
#include "engine/op.h"

/* How long ferryLeftoverRun() may keep a domain locked, in milliseconds. */
#define FERRY_LEFTOVER_MS 1000

bool ferryLeftoverRun(ferryOp *op, ferryBoundedFunc func, void *data, GDestroyNotify clear);
