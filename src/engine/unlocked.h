/*
 * unlocked.h: work of an operation that may have to wait for storage
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "block/bounded.h"
#include "engine/op.h"

bool ferryOpRunUnlocked(ferryOp *op,
                        const char *place,
                        ferryBoundedFunc func,
                        void *data,
                        GDestroyNotify clear,
                        unsigned int timeout);
bool ferryOpRunUnlockedAgain(ferryOp *op,
                             const char *place,
                             ferryBoundedFunc func,
                             void *data,
                             GDestroyNotify clear,
                             unsigned int timeout);
