/*
 * bounded.c: calls that storage or a name server may keep waiting for ever
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Nothing can interrupt a thread that waits in the kernel for a dead NFS server, and
 * getaddrinfo() has no time limit. So such a call runs in a thread of its own, and the
 * caller waits for the thread only until a deadline. After the deadline the thread is left
 * alone: it ends whenever the call returns. What the call reads and writes is therefore
 * neither on the caller's stack nor the domain's; a thread that is left alone frees it.
 */

#include <config.h>

#include "block/bounded.h"
#include "virerror.h"
#include "virlog.h"
#include "virthread.h"
#include "virtime.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.bounded");

/* Threads that may wait at the same time. Each costs its stack, so a client that repeats a
 * call on dead storage must not add to them for ever. */
#define FERRY_BOUNDED_MAX 64

typedef struct {
    ferryBoundedFunc func;
    void *data;
    GDestroyNotify clear;
    bool done;
    bool abandoned; /* the caller has gone: the thread frees the call and its data */
} ferryBoundedCall;

static struct {
    virMutex lock; /* protects the number, and the flags of all calls */
    virCond cond;  /* a call is done */
    size_t running;
} bounded = {
    .lock = VIR_MUTEX_INITIALIZER,
    .cond = { .cond = PTHREAD_COND_INITIALIZER },
};


static void
ferryBoundedThread(void *opaque)
{
    ferryBoundedCall *call = opaque;
    bool abandoned = false;

    call->func(call->data);

    VIR_WITH_MUTEX_LOCK_GUARD(&bounded.lock) {
        call->done = true;
        abandoned = call->abandoned;
        bounded.running--;
        virCondBroadcast(&bounded.cond);
    }

    if (abandoned) {
        call->clear(call->data);
        g_free(call);
    }
}


/* Starts the thread. Returns 0, or -1 when there are too many threads already. */
static int
ferryBoundedStart(ferryBoundedCall *call)
{
    virThread thread;

    if (bounded.running >= FERRY_BOUNDED_MAX) {
        VIR_WARN("%zu calls wait for storage or a name server that does not answer",
                 bounded.running);
        return -1;
    }

    if (virThreadCreateFull(&thread, /* joinable= */ false, ferryBoundedThread, "ferry-bounded",
                            /* worker= */ false, call) < 0)
        return -1;

    bounded.running++;
    return 0;
}


/**
 * ferryBoundedRun:
 * @data: passed to @func; must refer to nothing that the caller or a domain may free
 * @clear: frees @data
 * @timeout: milliseconds
 *
 * Runs @func in a thread of its own. If a domain is locked, @timeout must be short.
 *
 * Returns true when @func has returned: the caller goes on owning @data. Returns false,
 * without an error reported, when @func has not returned within @timeout, or could not be
 * started: @data is not the caller's any more.
 */
bool
ferryBoundedRun(ferryBoundedFunc func,
                void *data,
                GDestroyNotify clear,
                unsigned int timeout)
{
    ferryBoundedCall *call = g_new0(ferryBoundedCall, 1);
    unsigned long long now = 0;
    bool started = false;
    bool done = false;

    call->func = func;
    call->data = data;
    call->clear = clear;

    VIR_WITH_MUTEX_LOCK_GUARD(&bounded.lock) {
        started = virTimeMillisNowRaw(&now) == 0 && ferryBoundedStart(call) == 0;

        while (started && !call->done &&
               virCondWaitUntil(&bounded.cond, &bounded.lock, now + timeout) == 0)
            ;

        done = call->done;
        call->abandoned = !done;
    }

    if (!started)
        clear(data);
    if (done || !started)
        g_free(call);

    return done;
}


/**
 * ferryBoundedRunUnlocked:
 * @vm: domain, locked; or NULL
 *
 * Like ferryBoundedRun(), and releases the lock of @vm meanwhile. The caller's job, if any,
 * stays: a domain whose job is held goes on existing, as while QEMU answers a command.
 */
bool
ferryBoundedRunUnlocked(virDomainObj *vm,
                        ferryBoundedFunc func,
                        void *data,
                        GDestroyNotify clear,
                        unsigned int timeout)
{
    bool done;

    if (vm)
        virObjectUnlock(vm);
    done = ferryBoundedRun(func, data, clear, timeout);
    if (vm)
        virObjectLock(vm);

    return done;
}


typedef struct {
    char *path;
    struct stat st;
    int err;
} ferryBoundedStatData;


static void
ferryBoundedStatFree(void *opaque)
{
    ferryBoundedStatData *data = opaque;

    g_free(data->path);
    g_free(data);
}


static void
ferryBoundedStatRun(void *opaque)
{
    ferryBoundedStatData *data = opaque;

    data->err = stat(data->path, &data->st) < 0 ? errno : 0;
}


/**
 * ferryBoundedStat:
 * @vm: domain, locked; its lock is released meanwhile
 *
 * Calls stat(). Returns 0 with @st filled in, or the error number: ETIMEDOUT if the storage
 * does not answer within FERRY_BOUNDED_STORAGE_MS. Reports no error.
 */
int
ferryBoundedStat(virDomainObj *vm,
                 const char *path,
                 struct stat *st)
{
    ferryBoundedStatData *data = g_new0(ferryBoundedStatData, 1);
    int err;

    data->path = g_strdup(path);

    if (!ferryBoundedRunUnlocked(vm, ferryBoundedStatRun, data, ferryBoundedStatFree,
                                 FERRY_BOUNDED_STORAGE_MS))
        return ETIMEDOUT;

    err = data->err;
    *st = data->st;
    ferryBoundedStatFree(data);

    return err;
}


typedef struct {
    char **paths;
    int at; /* atomic: index of the path that is being looked at */
    int refs; /* atomic: the caller reads @at of a call that has not returned */
} ferryBoundedPaths;


static void
ferryBoundedPathsUnref(void *opaque)
{
    ferryBoundedPaths *data = opaque;

    if (!g_atomic_int_dec_and_test(&data->refs))
        return;

    g_strfreev(data->paths);
    g_free(data);
}


static void
ferryBoundedPathsRun(void *opaque)
{
    ferryBoundedPaths *data = opaque;
    size_t i;

    for (i = 0; data->paths[i]; i++) {
        struct stat st;

        g_atomic_int_set(&data->at, i);
        ignore_value(stat(data->paths[i], &st));
    }
}


/**
 * ferryBoundedAnswers:
 * @vm: domain, locked, whose lock is released meanwhile; or NULL
 * @paths: ends with NULL; the files need not exist
 *
 * Finds out, before a job is taken or anything is changed, whether the storage of all @paths
 * answers: later the stock driver and QEMU would wait for it, and everybody for them.
 *
 * Returns 0, or -1 with an error reported that names the path.
 */
int
ferryBoundedAnswers(virDomainObj *vm,
                    const char *const *paths)
{
    ferryBoundedPaths *data;
    int rc = 0;

    if (!*paths)
        return 0;

    data = g_new0(ferryBoundedPaths, 1);
    data->refs = 2;
    data->paths = g_strdupv((char **) paths);

    if (ferryBoundedRunUnlocked(vm, ferryBoundedPathsRun, data, ferryBoundedPathsUnref,
                                FERRY_BOUNDED_STORAGE_MS)) {
        ferryBoundedPathsUnref(data);
    } else {
        virReportError(VIR_ERR_OPERATION_TIMEOUT,
                       _("the storage of '%1$s' did not answer within %2$d s; check the mount or the "
                         "device, or name another path"),
                       data->paths[g_atomic_int_get(&data->at)], FERRY_BOUNDED_STORAGE_MS / 1000);
        rc = -1;
    }

    ferryBoundedPathsUnref(data);
    return rc;
}
