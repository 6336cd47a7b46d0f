/*
 * watch.c: backup: events that end a running backup
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A backup ends when its jobs end; a pull backup also when no client is connected for too
 * long, or when its scratch image is full. A push backup whose target stands still goes on, but
 * the log says so: the guest's writes wait for it.
 */

#include <config.h>

#include <sys/statvfs.h>

#include "block/export_peer.h"
#include "block/source.h"
#include "engine/engine.h"
#include "engine/unlocked.h"
#include "engine/wait.h"
#include "ops/backup/begin.h"
#include "ops/backup/data.h"
#include "ops/backup/end.h"
#include "ops/backup/guest.h"
#include "ops/backup/progress.h"
#include "ops/backup/watch.h"
#include "virerror.h"
#include "virevent.h"
#include "virlog.h"
#include "virtime.h"

VIR_LOG_INIT("ferry.backup");

#define FERRY_BACKUP_WATCH_MS 1000

/* How often the progress of a push is looked at, and after how long without any it counts as
 * standing still. */
#define FERRY_BACKUP_PROGRESS_MS (10 * 1000)
#define FERRY_BACKUP_STILL_MS (30 * 1000)

/* The guest stands still until its scratch image's storage says whether it is full, so the
 * worker asks for as long as that takes, a minute at a time. */
#define FERRY_BACKUP_SPACE_MS (60 * 1000)

/* Bytes. Less free space counts as full: QEMU copies up to 1 MiB at a time. */
#define FERRY_BACKUP_SPACE_MIN (1024 * 1024)


static bool
ferryBackupIsWatched(ferryBackup *backup)
{
    return !ferryBackupIsPull(backup) || backup->extras.idleTimeout > 0;
}


/* What a timer looks at. */
typedef struct {
    virDomainObj *vm;
    ferryOp *op;
} ferryBackupTimer;


static void
ferryBackupTimerFree(void *opaque)
{
    ferryBackupTimer *watched = opaque;

    ferryOpUnref(watched->op);
    virObjectUnref(watched->vm);
    g_free(watched);
}


/* Runs in the event loop, so it only looks for clients: a worker does the rest. */
static void
ferryBackupWatchTick(int timer,
                     void *opaque)
{
    ferryBackupTimer *watched = opaque;
    virDomainObj *vm = watched->vm;
    ferryOp *op = watched->op;
    ferryBackup *backup = ferryBackupOf(op);
    unsigned long long now;

    virObjectLock(vm);

    /* the next backup of the domain has a timer of its own */
    if (ferryBackupFind(vm) != op || backup->result != FERRY_BACKUP_RESULT_NONE) {
        ignore_value(virEventRemoveTimeout(timer));
    } else if (!ferryBackupIsPull(backup)) {
        if (!op->driven)
            ignore_value(ferryEngineSubmit(op));
    } else if (virTimeMillisNow(&now) == 0) {
        if (ferryExportServerHasClients(backup->def->server))
            backup->idleSince = 0;
        else if (backup->idleSince == 0)
            backup->idleSince = now;
        else if (now - backup->idleSince >= backup->extras.idleTimeout * 1000ULL)
            ignore_value(ferryEngineSubmit(op));
    }

    virObjectUnlock(vm);
}


/**
 * ferryBackupWatch:
 *
 * Starts a timer that has the pull backup @op ended after its idle timeout, if it has one,
 * without a client; or has the progress of a push looked at. Domain locked.
 */
void
ferryBackupWatch(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    bool pull = ferryBackupIsPull(backup);
    ferryBackupTimer *watched;

    if (!ferryBackupIsWatched(backup))
        return;

    ignore_value(virTimeMillisNow(&backup->idleSince));

    watched = g_new0(ferryBackupTimer, 1);
    watched->vm = virObjectRef(op->vm);
    watched->op = ferryOpRef(op);

    if (virEventAddTimeout(pull ? FERRY_BACKUP_WATCH_MS : FERRY_BACKUP_PROGRESS_MS,
                           ferryBackupWatchTick, watched, ferryBackupTimerFree) < 0) {
        ferryBackupTimerFree(watched);
        VIR_WARN("backup of domain '%s' will not be %s", op->vm->def->name,
                 pull ? "ended when nobody reads it" : "reported when its target stands still");
    }
}


/**
 * ferryBackupIsForsaken:
 *
 * Returns true, with backup->error set, when no client came within the idle timeout.
 */
static bool
ferryBackupIsForsaken(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    unsigned long long now;

    if (backup->extras.idleTimeout == 0 || backup->idleSince == 0 ||
        virTimeMillisNow(&now) < 0 ||
        now - backup->idleSince < backup->extras.idleTimeout * 1000ULL)
        return false;

    backup->error = g_strdup_printf(_("nobody was connected to the backup for %1$u seconds"),
                                    backup->extras.idleTimeout);
    return true;
}


/* Logs, once, that the push @op, whose progress was just queried, has stood still for long. */
static void
ferryBackupNoteProgress(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    unsigned long long now;

    if (ferryBackupIsPull(backup) || virTimeMillisNow(&now) < 0)
        return;

    if (backup->cur != backup->seen || backup->idleSince == 0) {
        backup->seen = backup->cur;
        backup->idleSince = now;
        backup->still = false;
    } else if (!backup->still && now - backup->idleSince >= FERRY_BACKUP_STILL_MS) {
        backup->still = true;
        VIR_WARN("the push backup of domain '%s' has not come further for %d seconds: the guest's writes "
                 "wait for its target; check that, or run 'virsh domjobabort %s'",
                 op->vm->def->name, FERRY_BACKUP_STILL_MS / 1000, op->vm->def->name);
    }
}


/* A question to the storage of all scratch images, and the answer. */
typedef struct {
    char **paths; /* in the order of backup->disks; "": not a file */
    ssize_t full; /* index of one on a full file system; -1: none */
} ferryBackupSpace;


static void
ferryBackupSpaceFree(void *opaque)
{
    ferryBackupSpace *space = opaque;

    g_strfreev(space->paths);
    g_free(space);
}


static void
ferryBackupSpaceRun(void *opaque)
{
    ferryBackupSpace *space = opaque;
    size_t i;

    for (i = 0; space->paths[i] && space->full < 0; i++) {
        struct statvfs st;

        if (*space->paths[i] && statvfs(space->paths[i], &st) == 0 &&
            (unsigned long long) st.f_bavail * st.f_frsize < FERRY_BACKUP_SPACE_MIN)
            space->full = i;
    }
}


/* Returns a disk whose scratch file is on a full file system, or NULL: also if storage does
 * not answer. Releases the domain's lock and job meanwhile: check ferryOpIsLost(). */
static ferryBackupDisk *
ferryBackupFindFull(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    ferryBackupSpace *space = g_new0(ferryBackupSpace, 1);
    ferryBackupDisk *full = NULL;
    const char *place = "";
    size_t i;

    space->full = -1;
    space->paths = g_new0(char *, backup->ndisks + 1);
    for (i = 0; i < backup->ndisks; i++) {
        virStorageSource *store = backup->disks[i].def->store;

        space->paths[i] = g_strdup(ferrySourceIsFile(store) ? store->path : "");
        if (*space->paths[i])
            place = space->paths[i];
    }

    if (!ferryOpRunUnlocked(op, place, ferryBackupSpaceRun, space, ferryBackupSpaceFree,
                            FERRY_BACKUP_SPACE_MS)) {
        if (!ferryOpIsLost(op) && ferryOpSleep(op, FERRY_BACKUP_WATCH_MS) == 0) {
            VIR_WARN("the storage of the scratch images of domain '%s' does not answer",
                     op->vm->def->name);
            ignore_value(ferryEngineSubmit(op));
        }
        return NULL;
    }

    if (space->full >= 0 && !ferryOpIsLost(op))
        full = &backup->disks[space->full];
    ferryBackupSpaceFree(space);

    return full;
}


/**
 * ferryBackupIOError:
 *
 * A request of the guest failed: lets a worker find out whether a scratch image is full
 * (ferryBackupFreeGuest()). Called in the monitor's thread with @vm locked.
 */
void
ferryBackupIOError(virDomainObj *vm)
{
    ferryOp *op = ferryBackupFind(vm);
    ferryBackup *backup = op ? ferryBackupOf(op) : NULL;

    if (backup && ferryBackupIsPull(backup) &&
        backup->result == FERRY_BACKUP_RESULT_NONE && !op->driven)
        ignore_value(ferryEngineSubmit(op));
}


/**
 * ferryBackupFreeGuest:
 *
 * During a pull backup a write of the guest waits until the old data are in the scratch
 * image. When that is full, QEMU stops the guest as if the guest's own disk were full. In
 * this case the function ends the backup, which resumes the guest (ferryBackupResumeGuest()),
 * and returns true. QEMU repeats the write, so the guest sees no error. Also returns true if the
 * backup has ended meanwhile. Domain locked, modify job held; the caller drives @op.
 */
static bool
ferryBackupFreeGuest(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    virDomainObj *vm = op->vm;
    ferryBackupDisk *full;

    if (!ferryBackupIsPull(backup) || !ferryBackupGuestStopped(vm))
        return false;

    /* the lock is released: another thread may end the backup, or resume the guest */
    full = ferryBackupFindFull(op);
    if (ferryOpIsLost(op) || backup->result != FERRY_BACKUP_RESULT_NONE)
        return true;
    if (!full || !ferryBackupGuestStopped(vm))
        return false;

    backup->error = g_strdup_printf(_("no space left for scratch image '%1$s' of disk '%2$s'"),
                                    full->def->store->path, full->def->name);
    backup->full = true;
    ferryBackupEnd(op, FERRY_BACKUP_RESULT_FAILED);

    return true;
}


/* Returns true when a job has concluded: no other state needs action. */
bool
ferryBackupJobMatters(ferryOp *op G_GNUC_UNUSED,
                      int status)
{
    return status == QEMU_MONITOR_JOB_STATUS_CONCLUDED;
}


/* Returns whether QEMU is about to end: its jobs are then canceled, but did not fail. */
static bool
ferryBackupQEMUEnds(ferryOp *op)
{
    return QEMU_DOMAIN_PRIVATE(op->vm)->beingDestroyed ||
           virDomainObjGetState(op->vm, /* reason= */ NULL) == VIR_DOMAIN_SHUTDOWN;
}


/**
 * ferryBackupJobChanged:
 *
 * Ends the backup when a job failed, all jobs have ended, the scratch image is full or no
 * client came in time; finishes an end, or undoes a begin, that was interrupted. Domain
 * locked, modify job held; the caller drives @op.
 */
void
ferryBackupJobChanged(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    ferryBackupJobs state;

    if (!ferryPlanDone(op, &ferryBackupBeginPlan) ||
        backup->result != FERRY_BACKUP_RESULT_NONE) {
        ferryBackupEnd(op, FERRY_BACKUP_RESULT_NONE);
        return;
    }

    if (ferryBackupFreeGuest(op) || !(backup->jobs = ferryBackupQuery(op, &state)))
        return;

    if (state.failed > 0 && ferryBackupQEMUEnds(op))
        VIR_DEBUG("domain '%s' is about to stop", op->vm->def->name);
    else if (state.failed > 0 || ferryBackupIsForsaken(op))
        ferryBackupEnd(op, FERRY_BACKUP_RESULT_FAILED);
    else if (state.ended == backup->ndisks)
        ferryBackupEnd(op, FERRY_BACKUP_RESULT_COMPLETED);
    else
        ferryBackupNoteProgress(op);

    g_clear_pointer(&backup->jobs, g_ptr_array_unref);
}


/**
 * ferryBackupMayHang:
 *
 * Returns whether ferryBackupJobChanged() may have to wait for long: for storage, or for jobs
 * that do not end. Domain locked.
 */
bool
ferryBackupMayHang(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);

    if (backup->silent)
        return true;

    /* the undo of "create", and of later steps, waits for jobs: before, there are only files */
    if (op->stuck)
        return ferryPlanReached(op, &ferryBackupBeginPlan, "create");

    return ferryBackupIsPull(backup) && ferryBackupGuestStopped(op->vm);
}
