/*
 * sync.c: writes images to the disk ahead of time
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Before a guest moves, the page cache of its images must be written to the disk, and the
 * guest waits for that. A thread that writes it out all the time keeps that wait short.
 */

#include <config.h>

#include <fcntl.h>
#include <unistd.h>

#include "block/file.h"
#include "block/sync.h"
#include "virfile.h"
#include "virlog.h"
#include "virthread.h"

VIR_LOG_INIT("ferry.sync");

#define FERRY_SYNC_PAUSE_US (500 * 1000)

struct _ferrySync {
    int refs; /* atomic */
    GMutex lock;
    GCond cond;
    bool stop;
    char **paths;
};


static void
ferrySyncUnref(ferrySync *sync)
{
    if (!g_atomic_int_dec_and_test(&sync->refs))
        return;

    g_strfreev(sync->paths);
    g_mutex_clear(&sync->lock);
    g_cond_clear(&sync->cond);
    g_free(sync);
}


static void
ferrySyncRun(void *opaque)
{
    ferrySync *sync = opaque;
    size_t n = g_strv_length(sync->paths);
    g_autofree int *fds = g_new0(int, n);
    size_t i;

    /* Opened only once: QEMU's user could replace the names later. */
    for (i = 0; i < n; i++)
        fds[i] = ferryFileOpen(sync->paths[i], O_RDONLY);

    g_mutex_lock(&sync->lock);

    while (!sync->stop) {
        g_mutex_unlock(&sync->lock);
        for (i = 0; i < n; i++) {
            if (fds[i] < 0 || fdatasync(fds[i]) < 0)
                VIR_DEBUG("cannot sync '%s': %s", sync->paths[i], g_strerror(errno));
        }
        g_mutex_lock(&sync->lock);

        if (!sync->stop)
            g_cond_wait_until(&sync->cond, &sync->lock,
                              g_get_monotonic_time() + FERRY_SYNC_PAUSE_US);
    }

    g_mutex_unlock(&sync->lock);
    for (i = 0; i < n; i++)
        VIR_FORCE_CLOSE(fds[i]);
    ferrySyncUnref(sync);
}


/**
 * ferrySyncStart:
 * @paths: paths of files and block devices; taken over
 *
 * Starts a thread that writes them out again and again. Returns NULL, without an error,
 * if there are no paths or no thread can be started: syncing early only saves time.
 */
ferrySync *
ferrySyncStart(char **paths)
{
    ferrySync *sync;
    virThread thread;

    if (!*paths) {
        g_strfreev(paths);
        return NULL;
    }

    sync = g_new0(ferrySync, 1);
    sync->refs = 2;
    sync->paths = paths;
    g_mutex_init(&sync->lock);
    g_cond_init(&sync->cond);

    if (virThreadCreateFull(&thread, /* joinable= */ false, ferrySyncRun, "ferry-sync",
                            /* worker= */ false, sync) < 0) {
        virResetLastError();
        sync->refs = 1;
        ferrySyncUnref(sync);
        return NULL;
    }

    return sync;
}


/**
 * ferrySyncStop:
 *
 * Ends the thread without waiting for a slow disk. Releases @sync, which may be NULL.
 */
void
ferrySyncStop(ferrySync *sync)
{
    if (!sync)
        return;

    g_mutex_lock(&sync->lock);
    sync->stop = true;
    g_cond_signal(&sync->cond);
    g_mutex_unlock(&sync->lock);

    ferrySyncUnref(sync);
}
