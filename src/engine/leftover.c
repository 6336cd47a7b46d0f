/*
 * leftover.c: what an operation has left on storage when its QEMU ended
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Theory of operation
 *
 * When its QEMU is gone, an operation may have to change images on storage that hangs. The
 * domain is locked then, and must stay so: mostly the stock driver is in the middle of ending
 * QEMU, and a definition that a client changed now would be lost. So another thread does the
 * work, which knows nothing of the domain. The caller waits for it for a second at most,
 * which is enough unless the storage has a problem.
 *
 * If it is not, the operation stays in the list of its domain and in the journal, as one
 * that is stopped (settle.c). As soon as the thread has done its work, a worker calls
 * stopped() again, which then finds the work done. A driver that starts before that begins
 * the work anew.
 *
 * While one such thread is late, others are not waited for at all: when the driver starts,
 * there may be a hundred domains on the storage that hangs.
 */

#include <config.h>

#include "engine/engine.h"
#include "engine/leftover.h"

/* The states of ferryOp.leftover. */
enum {
    FERRY_LEFTOVER_NONE,
    FERRY_LEFTOVER_RUNNING,
    FERRY_LEFTOVER_LATE, /* still running, and nobody waits */
    FERRY_LEFTOVER_DONE,
};

typedef struct {
    ferryOp *op; /* of which this thread may use nothing but the state: its domain is not locked */
    ferryBoundedFunc func;
    void *data;
    GDestroyNotify clear;
    bool begun;
    unsigned char uuid[VIR_UUID_BUFLEN];
} ferryLeftover;

static int late; /* atomic: number of threads */


static void
ferryLeftoverRunThread(void *opaque)
{
    ferryLeftover *left = opaque;

    left->begun = true;
    left->func(left->data);

    if (g_atomic_int_compare_and_exchange(&left->op->leftover, FERRY_LEFTOVER_RUNNING,
                                          FERRY_LEFTOVER_DONE))
        return;

    g_atomic_int_set(&left->op->leftover, FERRY_LEFTOVER_DONE);
    ignore_value(g_atomic_int_dec_and_test(&late));
    ferryEngineSubmitAgain(left->op, left->uuid);
}


static void
ferryLeftoverFree(void *opaque)
{
    ferryLeftover *left = opaque;

    /* else the state may already be that of the next work */
    if (!left->begun)
        g_atomic_int_set(&left->op->leftover, FERRY_LEFTOVER_NONE);
    left->clear(left->data);
    ferryOpUnref(left->op);
    g_free(left);
}


/**
 * ferryLeftoverRun:
 * @op: its QEMU is gone; not over
 * @func: may wait for ever, and must do no harm when it is called again
 * @data: for @func; must refer to nothing of the domain; taken over
 * @clear: frees @data
 *
 * Calls @func in another thread, unless an earlier call of this function has done that. If
 * stopped() has several works to do, it calls this function for each, in the same order each
 * time, and for none before the last one is done. Domain locked, if there is one.
 *
 * Returns true when the work is done. Returns false, without an error reported, when it is
 * not done yet: stopped() of @op must not end the operation, and is called again, unless the
 * domain is gone.
 */
bool
ferryLeftoverRun(ferryOp *op,
                 ferryBoundedFunc func,
                 void *data,
                 GDestroyNotify clear)
{
    ferryLeftover *left;

    if (g_atomic_int_get(&op->leftover) != FERRY_LEFTOVER_NONE) {
        clear(data);
        /* a later work has begun, so this one is done */
        if (op->leftoverFunc != func)
            return true;
        return g_atomic_int_compare_and_exchange(&op->leftover, FERRY_LEFTOVER_DONE,
                                                 FERRY_LEFTOVER_NONE);
    }

    left = g_new0(ferryLeftover, 1);
    left->op = ferryOpRef(op);
    left->func = func;
    left->data = data;
    left->clear = clear;
    if (op->vm)
        memcpy(left->uuid, op->vm->def->uuid, VIR_UUID_BUFLEN);

    op->leftoverFunc = func;
    g_atomic_int_set(&op->leftover, FERRY_LEFTOVER_RUNNING);

    if (ferryBoundedRun(/* place= */ NULL, ferryLeftoverRunThread, left,
                        ferryLeftoverFree, g_atomic_int_get(&late) > 0 ? 0 : FERRY_LEFTOVER_MS)) {
        ferryLeftoverFree(left);
    } else {
        g_atomic_int_inc(&late);
        if (g_atomic_int_compare_and_exchange(&op->leftover, FERRY_LEFTOVER_RUNNING,
                                              FERRY_LEFTOVER_LATE))
            return false;
        ignore_value(g_atomic_int_dec_and_test(&late));
    }

    /* not DONE: the thread could not be started */
    return g_atomic_int_compare_and_exchange(&op->leftover, FERRY_LEFTOVER_DONE,
                                             FERRY_LEFTOVER_NONE);
}
