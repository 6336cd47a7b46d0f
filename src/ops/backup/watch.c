/*
 * watch.c: backup: what becomes of a running one
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Its jobs end, a pull backup is not read by anybody, or runs out of space.
 */

#include <config.h>

#include <sys/statvfs.h>

#include "block/export_peer.h"
#include "block/source.h"
#include "engine/engine.h"
#include "ops/backup/begin.h"
#include "ops/backup/data.h"
#include "ops/backup/end.h"
#include "ops/backup/progress.h"
#include "ops/backup/watch.h"
#include "qemu/qemu_process.h"
#include "virerror.h"
#include "virevent.h"
#include "virlog.h"
#include "virtime.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.backup");

#define FERRY_BACKUP_WATCH_MS 1000

/* Less than QEMU allocates at a time. */
#define FERRY_BACKUP_SPACE_MIN (1024 * 1024)


/* Looks, in the event loop, and leaves the rest to a worker. */
static void
ferryBackupWatchTick(int timer,
                     void *opaque)
{
    virDomainObj *vm = opaque;
    ferryOp *op;
    ferryBackup *backup;
    unsigned long long now;

    virObjectLock(vm);

    if (!(op = ferryBackupFind(vm)) ||
        !(backup = ferryBackupOf(op))->extras.idleTimeout ||
        backup->result != FERRY_BACKUP_RESULT_NONE) {
        ignore_value(virEventRemoveTimeout(timer));
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
 * From now on somebody must be connected to the pull backup @op, or be back
 * within its idle timeout. Domain locked.
 */
void
ferryBackupWatch(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);

    ignore_value(virTimeMillisNow(&backup->idleSince));

    if (virEventAddTimeout(FERRY_BACKUP_WATCH_MS, ferryBackupWatchTick,
                           virObjectRef(op->vm), virObjectUnref) < 0) {
        virObjectUnref(op->vm);
        VIR_WARN("backup of domain '%s' will not be ended when nobody reads it",
                 op->vm->def->name);
    }
}


/**
 * ferryBackupIsForsaken:
 *
 * Returns true when nobody was connected for longer than the client allowed;
 * backup->error says so then.
 */
bool
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


/* Is the file system of a scratch file full? */
static ferryBackupDisk *
ferryBackupFindFull(ferryBackup *backup)
{
    size_t i;

    for (i = 0; i < backup->ndisks; i++) {
        virStorageSource *store = backup->disks[i].def->store;
        struct statvfs st;

        if (ferrySourceIsFile(store) && statvfs(store->path, &st) == 0 &&
            (unsigned long long) st.f_bavail * st.f_frsize < FERRY_BACKUP_SPACE_MIN)
            return &backup->disks[i];
    }

    return NULL;
}


/**
 * ferryBackupIOError:
 *
 * A write of the guest failed and QEMU stopped it. Called in the monitor's
 * thread with @vm locked.
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
 * Before the guest overwrites data of a pull backup it waits for the scratch
 * image to have them. When that is full QEMU stops the guest as if its own disk
 * were: the backup is what has to go. Ends it then, and lets the guest on; its
 * write is done again, and it never knows.
 *
 * Returns true when that was so.
 */
bool
ferryBackupFreeGuest(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    virDomainObj *vm = op->vm;
    ferryBackupDisk *full;
    int reason;

    if (!ferryBackupIsPull(backup) ||
        virDomainObjGetState(vm, &reason) != VIR_DOMAIN_PAUSED ||
        reason != VIR_DOMAIN_PAUSED_IOERROR ||
        !(full = ferryBackupFindFull(backup)))
        return false;

    backup->error = g_strdup_printf(_("no space left for scratch image '%1$s' of disk '%2$s'"),
                                    full->def->store->path, full->def->name);
    ferryBackupEnd(op, FERRY_BACKUP_RESULT_FAILED);

    if (op->over && virDomainObjIsActive(vm) &&
        qemuProcessStartCPUs(op->driver, vm, VIR_DOMAIN_RUNNING_UNPAUSED,
                             VIR_ASYNC_JOB_NONE) < 0) {
        VIR_ERROR(_("domain '%1$s' was stopped by a full scratch image and cannot be resumed: %2$s; "
                    "run 'virsh resume %3$s'"),
                  vm->def->name, virGetLastErrorMessage(), vm->def->name);
        virResetLastError();
    }

    return true;
}


/**
 * ferryBackupJobMatters:
 *
 * Returns true for the end of a job: nothing else is to be acted upon.
 */
bool
ferryBackupJobMatters(ferryOp *op G_GNUC_UNUSED,
                      int status)
{
    return status == QEMU_MONITOR_JOB_STATUS_CONCLUDED;
}


/* QEMU cancels its jobs when it ends, and forgets them: no news of theirs. */
static bool
ferryBackupQEMUEnds(ferryOp *op)
{
    return QEMU_DOMAIN_PRIVATE(op->vm)->beingDestroyed ||
           virDomainObjGetState(op->vm, NULL) == VIR_DOMAIN_SHUTDOWN;
}


/**
 * ferryBackupJobChanged:
 *
 * Does what the state of the jobs asks for: one that failed ends all, and so
 * does the end of the last one.
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

    g_clear_pointer(&backup->jobs, g_ptr_array_unref);
}
