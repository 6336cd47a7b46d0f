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
 *
 * A client that repeats a call on dead storage must not add to these threads for ever, so
 * their number is limited: for each mount on its own, since one dead server must not take
 * the turn of the others.
 */

#include <config.h>

#include "block/bounded.h"
#include "block/mount.h"
#include "virerror.h"
#include "virlog.h"
#include "virthread.h"
#include "virtime.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.bounded");

/* Threads that may wait for the same mount, or for the name service, at the same time. Each
 * costs its stack. */
#define FERRY_BOUNDED_MAX 64

typedef struct {
    char *place; /* what the thread may wait for; NULL: there is no limit */
    ferryBoundedFunc func;
    void *data;
    GDestroyNotify clear;
    bool done;
    bool abandoned; /* the caller has gone: the thread frees the call and its data */
} ferryBoundedCall;

static struct {
    virMutex lock;       /* protects the numbers, and the flags of all calls */
    virCond cond;        /* a call is done */
    GHashTable *running; /* place -> number of threads */
} bounded = {
    .lock = VIR_MUTEX_INITIALIZER,
    .cond = { .cond = PTHREAD_COND_INITIALIZER },
};


static void
ferryBoundedCallFree(ferryBoundedCall *call)
{
    g_free(call->place);
    g_free(call);
}


/* Returns how many threads may be waiting for what @call needs, and adds @more to that. */
static int
ferryBoundedCount(ferryBoundedCall *call,
                  int more)
{
    int running;

    if (!call->place)
        return 0;

    if (!bounded.running)
        bounded.running = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);

    running = GPOINTER_TO_INT(g_hash_table_lookup(bounded.running, call->place));

    if (running + more > 0)
        g_hash_table_replace(bounded.running, g_strdup(call->place), GINT_TO_POINTER(running + more));
    else
        g_hash_table_remove(bounded.running, call->place);

    return running;
}


static void
ferryBoundedThread(void *opaque)
{
    ferryBoundedCall *call = opaque;
    bool abandoned = false;

    call->func(call->data);

    VIR_WITH_MUTEX_LOCK_GUARD(&bounded.lock) {
        call->done = true;
        abandoned = call->abandoned;
        ferryBoundedCount(call, -1);
        virCondBroadcast(&bounded.cond);
    }

    if (abandoned) {
        call->clear(call->data);
        ferryBoundedCallFree(call);
    }
}


/* Starts the thread, as soon as there are not too many. Returns 0 or -1. */
static int
ferryBoundedStart(ferryBoundedCall *call,
                  unsigned long long deadline)
{
    virThread thread;

    while (ferryBoundedCount(call, 0) >= FERRY_BOUNDED_MAX) {
        if (virCondWaitUntil(&bounded.cond, &bounded.lock, deadline) < 0) {
            VIR_WARN("%d calls wait for '%s', which does not answer", FERRY_BOUNDED_MAX,
                     call->place);
            return -1;
        }
    }

    if (virThreadCreateFull(&thread, /* joinable= */ false, ferryBoundedThread, "ferry-bounded",
                            /* worker= */ false, call) < 0)
        return -1;

    ferryBoundedCount(call, 1);
    return 0;
}


/**
 * ferryBoundedRun:
 * @place: what @func may wait for: a path, which stands for the file system that it is on by
 *         its name, or another word; NULL: the caller sees to it that there are few such calls
 * @data: passed to @func; must refer to nothing that the caller or a domain may free
 * @clear: frees @data
 * @timeout: milliseconds
 *
 * Runs @func in a thread of its own. If a domain is locked, @timeout must be short.
 *
 * Returns true when @func has returned: the caller goes on owning @data. Returns false,
 * without an error reported, when @func has not returned within @timeout, or could not be
 * started, because too many threads wait for @place: @data is not the caller's any more.
 */
bool
ferryBoundedRun(const char *place,
                ferryBoundedFunc func,
                void *data,
                GDestroyNotify clear,
                unsigned int timeout)
{
    ferryBoundedCall *call = g_new0(ferryBoundedCall, 1);
    unsigned long long deadline = 0;
    bool started = false;
    bool done = false;

    call->place = place ? ferryMountOf(place) : NULL;
    call->func = func;
    call->data = data;
    call->clear = clear;

    VIR_WITH_MUTEX_LOCK_GUARD(&bounded.lock) {
        if (virTimeMillisNowRaw(&deadline) == 0) {
            deadline += timeout;
            started = ferryBoundedStart(call, deadline) == 0;
        }

        while (started && !call->done &&
               virCondWaitUntil(&bounded.cond, &bounded.lock, deadline) == 0)
            ;

        done = call->done;
        call->abandoned = !done;
    }

    if (!started)
        clear(data);
    if (done || !started)
        ferryBoundedCallFree(call);

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
                        const char *place,
                        ferryBoundedFunc func,
                        void *data,
                        GDestroyNotify clear,
                        unsigned int timeout)
{
    bool done;

    if (vm)
        virObjectUnlock(vm);
    done = ferryBoundedRun(place, func, data, clear, timeout);
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

    if (!ferryBoundedRunUnlocked(vm, data->path, ferryBoundedStatRun, data, ferryBoundedStatFree,
                                 FERRY_BOUNDED_STORAGE_MS))
        return ETIMEDOUT;

    err = data->err;
    *st = data->st;
    ferryBoundedStatFree(data);

    return err;
}


typedef struct {
    char **paths;
    int at;   /* atomic: index of the path that is being looked at */
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


/* Asks the storage of @paths, which are all on one mount. */
static int
ferryBoundedAsk(virDomainObj *vm,
                char **paths)
{
    ferryBoundedPaths *data = g_new0(ferryBoundedPaths, 1);
    int rc = 0;

    data->refs = 2;
    data->paths = g_strdupv(paths);

    if (ferryBoundedRunUnlocked(vm, paths[0], ferryBoundedPathsRun, data, ferryBoundedPathsUnref,
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


/**
 * ferryBoundedAnswers:
 * @vm: domain, locked, whose lock is released meanwhile; or NULL
 * @paths: ends with NULL; the files need not exist
 *
 * Finds out, before a job is taken or anything is changed, whether the storage of all @paths
 * answers: later the stock driver and QEMU would wait for it, and everybody for them. Asks
 * one mount after the other, so that a call that hangs counts for the right one.
 *
 * Returns 0, or -1 with an error reported that names the path.
 */
int
ferryBoundedAnswers(virDomainObj *vm,
                    const char *const *paths)
{
    g_autoptr(GHashTable) mounts = g_hash_table_new_full(g_str_hash, g_str_equal, g_free,
                                                         (GDestroyNotify) g_ptr_array_unref);
    g_autoptr(GPtrArray) groups = g_ptr_array_new();
    size_t i;

    for (i = 0; paths[i]; i++) {
        g_autofree char *mount = ferryMountOf(paths[i]);
        GPtrArray *group = g_hash_table_lookup(mounts, mount);

        if (!group) {
            group = g_ptr_array_new_with_free_func(g_free);
            g_hash_table_insert(mounts, g_steal_pointer(&mount), group);
            g_ptr_array_add(groups, group);
        }
        g_ptr_array_add(group, g_strdup(paths[i]));
    }

    for (i = 0; i < groups->len; i++) {
        GPtrArray *group = g_ptr_array_index(groups, i);

        g_ptr_array_add(group, NULL);
        if (ferryBoundedAsk(vm, (char **) group->pdata) < 0)
            return -1;
    }

    return 0;
}
