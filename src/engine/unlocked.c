/*
 * unlocked.c: work of an operation that may have to wait for storage
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "engine/unlocked.h"
#include "engine/wait.h"


/**
 * ferryOpRunUnlocked:
 *
 * Like ferryBoundedRun(), for the thread that drives @op. Releases the domain's lock and
 * (unless op->holdJob) its job meanwhile, and takes both again, unless the operation is lost:
 * check ferryOpIsLost() and all that was known of the domain before. @data must not refer to
 * what is the domain's.
 */
bool
ferryOpRunUnlocked(ferryOp *op,
                   const char *place,
                   ferryBoundedFunc func,
                   void *data,
                   GDestroyNotify clear,
                   unsigned int timeout)
{
    bool done;

    ferryOpYield(op);
    done = ferryBoundedRunUnlocked(op->vm, place, func, data, clear, timeout);
    ignore_value(ferryOpResume(op));

    return done;
}
