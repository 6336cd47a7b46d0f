/*
 * retry.c: what could not be finished is tried again after a while
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * An operation that could not be undone, finished or settled mostly waits for something that
 * nobody tells the driver of: space on a full disk, a file system that is writable again, a
 * label that may be set. So a worker tries again, soon at first, and then ever more seldom:
 * each try that fails is a line in the log.
 */

#include <config.h>

#include "engine/retry.h"
#include "virlog.h"

VIR_LOG_INIT("ferry.retry");

#define FERRY_RETRY_MIN_MS 2000
#define FERRY_RETRY_MAX_MS (15 * 60 * 1000)

typedef struct {
    ferryOp *op;
    ferryRetryFunc func;
    unsigned char uuid[VIR_UUID_BUFLEN]; /* the domain may be gone when the time has come */
} ferryRetry;


static void
ferryRetryFree(void *opaque)
{
    ferryRetry *retry = opaque;

    ferryOpUnref(retry->op);
    g_free(retry);
}


/* In the event loop, which must not wait for a domain's lock: a worker does the rest. */
static void
ferryRetryTick(int timer,
               void *opaque)
{
    ferryRetry *retry = opaque;

    ignore_value(virEventRemoveTimeout(timer));
    g_atomic_int_set(&retry->op->timer, 0);
    retry->func(retry->op, retry->uuid);
}


/**
 * ferryRetryIsDue:
 *
 * Returns whether something of @op, whose domain is locked, is left to be done, and nothing need happen
 * that would have it done.
 */
bool
ferryRetryIsDue(ferryOp *op)
{
    return !op->over && !op->driven && op->vm && g_atomic_int_get(&op->asking) <= 0 &&
           (op->stopped || op->stuck || ferryOpPastReturn(op));
}


/**
 * ferryRetryCancel:
 *
 * Domain locked.
 */
void
ferryRetryCancel(ferryOp *op)
{
    int timer = g_atomic_int_get(&op->timer);

    if (timer != 0)
        ignore_value(virEventRemoveTimeout(timer - 1));
    g_atomic_int_set(&op->timer, 0);
}


/**
 * ferryRetryUnfinished:
 * @op: its domain is locked
 * @func: has a worker look at @op; is called in the event loop, with the UUID of the domain, which may be
 *        locked or gone
 *
 * Has @func called after a while if @op could not be finished, undone or settled, once for all calls until
 * then.
 */
void
ferryRetryUnfinished(ferryOp *op,
                     ferryRetryFunc func)
{
    ferryRetry *retry;
    int timer;

    /* whoever drives it calls this when done */
    if (op->driven)
        return;

    if (!ferryRetryIsDue(op)) {
        ferryRetryCancel(op);
        op->retryMs = 0;
        return;
    }

    if (g_atomic_int_get(&op->timer) != 0)
        return;

    op->retryMs = op->retryMs == 0 ? FERRY_RETRY_MIN_MS : MIN(2 * op->retryMs, FERRY_RETRY_MAX_MS);

    retry = g_new0(ferryRetry, 1);
    retry->op = ferryOpRef(op);
    retry->func = func;
    memcpy(retry->uuid, op->vm->def->uuid, VIR_UUID_BUFLEN);

    if ((timer = virEventAddTimeout(op->retryMs, ferryRetryTick, retry, ferryRetryFree)) < 0) {
        VIR_WARN("operation '%s' of domain '%s' is not finished, and is tried again when the driver starts",
                 op->name, op->vm->def->name);
        ferryRetryFree(retry);
        return;
    }

    g_atomic_int_set(&op->timer, timer + 1);
}
