/*
 * unlocked.c: work of an operation that may have to wait for storage
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "engine/engine.h"
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


/* Work for which an operation may not wait to the end. */
typedef struct {
    ferryOp *op; /* of which the thread uses nothing: its domain is not locked */
    unsigned char uuid[VIR_UUID_BUFLEN];
    ferryBoundedFunc func;
    void *data;
    GDestroyNotify clear;
    bool begun;
} ferryUnlockedWork;


static void
ferryUnlockedFree(ferryUnlockedWork *work)
{
    ferryOpUnref(work->op);
    g_free(work);
}


static void
ferryUnlockedRun(void *opaque)
{
    ferryUnlockedWork *work = opaque;

    work->begun = true;
    work->func(work->data);
}


/* Nobody waited for it any more. If no thread could begin, since there are too many, the next call
 * or driver tries again. */
static void
ferryUnlockedLate(void *opaque)
{
    ferryUnlockedWork *work = opaque;

    ignore_value(g_atomic_int_dec_and_test(&work->op->asking));
    if (work->begun)
        ferryEngineSubmitAgain(work->op, work->uuid);
    work->clear(work->data);
    ferryUnlockedFree(work);
}


/**
 * ferryOpRunUnlockedAgain:
 *
 * Like ferryOpRunUnlocked(). If @func ends only after @timeout, a worker goes on with @op then
 * (ferryEngineSubmitAgain()).
 */
bool
ferryOpRunUnlockedAgain(ferryOp *op,
                        const char *place,
                        ferryBoundedFunc func,
                        void *data,
                        GDestroyNotify clear,
                        unsigned int timeout)
{
    ferryUnlockedWork *work = g_new0(ferryUnlockedWork, 1);

    work->op = ferryOpRef(op);
    memcpy(work->uuid, op->vm->def->uuid, VIR_UUID_BUFLEN);
    work->func = func;
    work->data = data;
    work->clear = clear;

    if (!ferryOpRunUnlocked(op, place, ferryUnlockedRun, work, ferryUnlockedLate, timeout)) {
        g_atomic_int_inc(&op->asking);
        return false;
    }

    ferryUnlockedFree(work);
    return true;
}
