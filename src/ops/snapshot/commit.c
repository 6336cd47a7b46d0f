/*
 * commit.c: mirrored snapshots: commit an overlay to the image below
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * When both images are the same, the job holds what the guest asks for, until the journal on the disk says
 * that the image below has everything: then, whoever dies, the configuration gets that image, and nothing
 * that the guest writes after it has gone on is lost. Where QEMU cannot hold it, the guest's CPUs are stopped
 * meanwhile (ops/pause.c).
 */

#include <config.h>

#include "block/access.h"
#include "block/identity.h"
#include "block/nodename.h"
#include "block/qmp.h"
#include "engine/journal.h"
#include "engine/wait.h"
#include "ops/pause.h"
#include "ops/snapshot/commit.h"
#include "qemu/qemu_monitor.h"
#include "virerror.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.snapshot");

/* How long the guest's CPUs may be stopped, or clients kept away, for the end of a commit. */
#define FERRY_SNAPSHOT_PAUSE_MS (10 * 1000)

/* When a commit has little left to do, in bytes; and how often, and at which interval, that is asked. */
#define FERRY_SNAPSHOT_LEVEL (1 << 20)
#define FERRY_SNAPSHOT_LEVEL_TRIES 50
#define FERRY_SNAPSHOT_LEVEL_POLL_MS 100

/* How often QEMU is asked again that did not say which image the guest is on. */
#define FERRY_SNAPSHOT_ASK_TRIES 5


/* Records whether the image below has all that the guest has written: from then on, if QEMU is gone,
 * the configuration is to name it. Returns 0, or -1 with an error reported. */
static int
ferrySnapshotSetReverted(ferryOp *op,
                         ferrySnapshotDisk *sdisk,
                         bool reverted)
{
    virErrorPtr err = NULL;

    sdisk->reverted = reverted;
    if (ferryJournalWrite(op->vm, /* durable= */ true) == 0)
        return 0;

    /* it may be in the file, and only not be synced */
    virErrorPreserveLast(&err);
    sdisk->reverted = false;
    if (ferryJournalWrite(op->vm, /* durable= */ true) < 0)
        VIR_ERROR(_("domain '%1$s': disk '%2$s' is still on '%3$s', and the journal, which may say otherwise, "
                    "cannot be written: make space before the domain ends (%4$s)"),
                  op->vm->def->name,
                  sdisk->dst, NULLSTR(sdisk->overlay->path), virGetLastErrorMessage());
    virErrorRestore(&err);
    return -1;
}


/**
 * ferrySnapshotBase:
 *
 * Returns the image below the overlay of @sdisk, as long as that is the disk's; or NULL. It belongs to the
 * domain's definition. Domain locked.
 */
virStorageSource *
ferrySnapshotBase(ferryOp *op,
                  ferrySnapshotDisk *sdisk)
{
    virDomainDiskDef *disk = virDomainDiskByTarget(op->vm->def, sdisk->dst);
    virStorageSource *below = disk ? disk->src->backingStore : NULL;

    return below && STREQ_NULLABLE(ferryNodeName(below), sdisk->base) ? below : NULL;
}


/**
 * ferrySnapshotLeaveBase:
 *
 * No commit writes to the image below the overlay of @sdisk any more. Domain locked.
 */
void
ferrySnapshotLeaveBase(ferryOp *op,
                       ferrySnapshotDisk *sdisk)
{
    virStorageSource *base = ferrySnapshotBase(op, sdisk);

    if (base)
        ferryAccessLeave(op->vm, base);
}


/* Begins the commit of @node, the overlay, to @base. */
static int
ferrySnapshotStartCommit(ferryOp *op,
                         ferrySnapshotDisk *sdisk,
                         const char *jobname,
                         const char *node,
                         virStorageSource *base)
{
    int rc;

    /* QEMU opens it for writing, by its name */
    if (base && (ferryIdentityRequire(op->vm, base) < 0 || ferryAccessWrite(op->vm, base) < 0))
        return -1;

    qemuDomainObjEnterMonitor(op->vm);
    rc = qemuMonitorBlockCommit(qemuDomainGetMonitor(op->vm), node, jobname, node, sdisk->base,
                                /* backingName= */ NULL, /* bandwidth= */ 0,
                                /* autofinalize= */ VIR_TRISTATE_BOOL_NO);
    qemuDomainObjExitMonitor(op->vm);

    return rc;
}


/* Waits until the commit job has little left to do: the guest is going to be stopped. */
static int
ferrySnapshotAwaitLevel(ferryOp *op,
                        const char *jobname)
{
    size_t i;

    for (i = 0; i < FERRY_SNAPSHOT_LEVEL_TRIES; i++) {
        g_autoptr(GPtrArray) jobs = ferryJobFind(op, jobname, FERRY_JOB_NAMED);
        qemuMonitorJobInfo *job;

        if (!jobs)
            return -1;

        job = jobs->len > 0 ? g_ptr_array_index(jobs, 0) : NULL;
        if (!job || !ferryJobStatusIsReady(job->status) ||
            job->progressCurrent + FERRY_SNAPSHOT_LEVEL >= job->progressTotal)
            return 0;

        if (ferryOpSleep(op, FERRY_SNAPSHOT_LEVEL_POLL_MS) < 0)
            return -1;
    }

    return 0;
}


/* Stops the guest if QEMU cannot hold what it asks of the disk; no client gets in until
 * ferrySnapshotCommit() is over. Returns 0, or -1 with an error reported. */
static int
ferrySnapshotPause(ferryOp *op,
                   ferrySnapshotDisk *sdisk,
                   const char *jobname,
                   virStorageSource *base)
{
    virDomainDiskDef *disk = virDomainDiskByTarget(op->vm->def, sdisk->dst);

    if (!disk || !base || !ferryPauseHoldIsUnsafe(op->vm->def, disk, base->format))
        return 0;

    if (ferrySnapshotAwaitLevel(op, jobname) < 0)
        return -1;

    op->holdJob = true;
    if (!(disk = virDomainDiskByTarget(op->vm->def, sdisk->dst)) ||
        !ferryPauseIsNeeded(op->vm, disk, base->format))
        return 0;

    /* a driver that dies leaves a guest that does not run */
    sdisk->paused = true;
    if (ferryJournalWrite(op->vm, /* durable= */ false) < 0) {
        sdisk->paused = false;
        return -1;
    }

    return ferryPauseBegin(op);
}


/* Lets a guest go on that ferrySnapshotPause(), perhaps of a driver that died, has stopped for @sdisk. Keeps
 * the last error. */
static void
ferrySnapshotUnpause(ferryOp *op,
                     ferrySnapshotDisk *sdisk)
{
    virErrorPtr err = NULL;

    if (!sdisk->paused || ferryOpIsLost(op))
        return;

    virErrorPreserveLast(&err);

    ferryPauseEnd(op, sdisk->dst);
    sdisk->paused = false;
    if (ferryJournalWrite(op->vm, /* durable= */ false) < 0)
        VIR_WARN("domain '%s': %s", op->vm->def->name, virGetLastErrorMessage());

    virErrorRestore(&err);
}


/* Both images are the same: gets the job to PENDING, which holds what the guest asks for. */
static int
ferrySnapshotHold(ferryOp *op,
                  ferrySnapshotDisk *sdisk,
                  const char *jobname,
                  virStorageSource *base,
                  ferryJobInfo *info)
{
    int rc;

    if (ferrySnapshotPause(op, sdisk, jobname, base) < 0)
        return -1;

    qemuDomainObjEnterMonitor(op->vm);
    rc = qemuMonitorJobComplete(qemuDomainGetMonitor(op->vm), jobname);
    qemuDomainObjExitMonitor(op->vm);
    if (rc < 0)
        return -1;

    ferryJobInfoClear(info);
    return ferryJobWait(op, jobname, FERRY_JOB_STATE(PENDING) | FERRY_JOB_STATE(CONCLUDED),
                        op->holdJob ? FERRY_SNAPSHOT_PAUSE_MS : 0, info);
}


/* The guest is held, and both images are the same: lets it go on, on the image below. */
static int
ferrySnapshotFinalize(ferryOp *op,
                      ferrySnapshotDisk *sdisk,
                      const char *jobname,
                      ferryJobInfo *info)
{
    int rc;

    if (ferrySnapshotSetReverted(op, sdisk, true) < 0)
        return -1;

    qemuDomainObjEnterMonitor(op->vm);
    rc = qemuMonitorJobFinalize(qemuDomainGetMonitor(op->vm), jobname);
    qemuDomainObjExitMonitor(op->vm);
    if (rc < 0)
        return -1;

    ferryJobInfoClear(info);
    return ferryJobWait(op, jobname, FERRY_JOB_STATE(CONCLUDED),
                        op->holdJob ? FERRY_SNAPSHOT_PAUSE_MS : 0, info);
}


static int
ferrySnapshotRunCommit(ferryOp *op,
                       ferrySnapshotDisk *sdisk,
                       const char *jobname,
                       const char *node)
{
    g_auto(ferryJobInfo) info = { 0 };
    virDomainDiskDef *disk;
    g_autoptr(virStorageSource) base = NULL;

    if (ferryJobQuery(op, jobname, &info) < 0)
        return -1;

    /* of a commit that did not get that far: the guest is on the overlay */
    if (info.status != QEMU_MONITOR_JOB_STATUS_PENDING && sdisk->reverted &&
        ferrySnapshotSetReverted(op, sdisk, false) < 0)
        return -1;

    if ((disk = virDomainDiskByTarget(op->vm->def, sdisk->dst)))
        base = virObjectRef(STREQ_NULLABLE(ferryNodeName(disk->src), sdisk->base) ? disk->src :
                                                                                    disk->src->backingStore);

    /* of an earlier commit, which did not move the guest, or of an earlier snapshot: whose driver died */
    if (info.status == QEMU_MONITOR_JOB_STATUS_CONCLUDED) {
        ferryJobDismiss(op, jobname);
        info.status = QEMU_MONITOR_JOB_STATUS_UNKNOWN;
    }

    if (info.status == QEMU_MONITOR_JOB_STATUS_UNKNOWN &&
        ferrySnapshotStartCommit(op, sdisk, jobname, node, base) < 0)
        return -1;

    ferryJobInfoClear(&info);
    if (ferryJobWait(op, jobname,
                     FERRY_JOB_STATE(READY) | FERRY_JOB_STATE(STANDBY) | FERRY_JOB_STATE(PENDING) |
                         FERRY_JOB_STATE(CONCLUDED),
                     /* timeout= */ 0, &info) < 0)
        return -1;

    if ((ferryJobStatusIsReady(info.status) && ferrySnapshotHold(op, sdisk, jobname, base, &info) < 0) ||
        (info.status == QEMU_MONITOR_JOB_STATUS_PENDING && ferrySnapshotFinalize(op, sdisk, jobname, &info) < 0))
        return -1;

    ferryJobDismiss(op, jobname);
    if (!info.error)
        return 0;

    virReportError(VIR_ERR_OPERATION_FAILED,
                   _("what disk '%1$s' of domain '%2$s' has written since snapshot '%3$s' cannot be "
                     "committed to the image below: %4$s"),
                   sdisk->dst, op->vm->def->name, ferrySnapshotOf(op)->name, info.error);
    return -1;
}


/* Returns whether the guest is on another image than the one below, as far as QEMU can be asked. */
static bool
ferrySnapshotIsAbove(ferryOp *op,
                     ferrySnapshotDisk *sdisk)
{
    size_t i;

    for (i = 0; i < FERRY_SNAPSHOT_ASK_TRIES; i++) {
        virDomainDiskDef *disk = virDomainDiskByTarget(op->vm->def, sdisk->dst);
        g_autofree char *node = disk ? ferryQMPDiskNode(op->vm, disk) : NULL;

        if (!disk || node)
            return disk && STRNEQ(node, sdisk->base);

        if (ferryOpSleep(op, FERRY_SNAPSHOT_LEVEL_POLL_MS) < 0)
            return false;
    }

    return false;
}


/* The commit failed. The guest must not be held by it, nor moved by it later; and if it is on the overlay,
 * the journal must not say otherwise. Keeps the last error. */
static void
ferrySnapshotCommitFailed(ferryOp *op,
                          ferrySnapshotDisk *sdisk,
                          const char *jobname)
{
    virErrorPtr err = NULL;

    if (ferryOpIsLost(op))
        return;

    virErrorPreserveLast(&err);

    if (ferryJobKill(op, jobname) < 0) {
        ferrySnapshotOf(op)->lingers = true;
    } else {
        if (sdisk->reverted && ferrySnapshotIsAbove(op, sdisk))
            ignore_value(ferrySnapshotSetReverted(op, sdisk, false));
        ferrySnapshotUnpause(op, sdisk);
        ferrySnapshotLeaveBase(op, sdisk);
    }

    virErrorRestore(&err);
}


/**
 * ferrySnapshotCommit:
 * @node: of the overlay, which the guest is on
 *
 * Commits the overlay to the image below, and moves the guest there. Domain locked, job held; both may be
 * released meanwhile. Returns 0, or -1 with an error reported.
 */
int
ferrySnapshotCommit(ferryOp *op,
                    ferrySnapshotDisk *sdisk,
                    const char *node)
{
    g_autofree char *what = g_strdup_printf("commit-%s", sdisk->dst);
    g_autofree char *jobname = ferryJobName(op, what);
    bool hold = op->holdJob;
    int rc;

    if ((rc = ferrySnapshotRunCommit(op, sdisk, jobname, node)) == 0)
        ferrySnapshotUnpause(op, sdisk);
    else
        ferrySnapshotCommitFailed(op, sdisk, jobname);

    op->holdJob = hold;
    return rc;
}


/**
 * ferrySnapshotEndPauses:
 *
 * Lets a guest go on whose CPUs a commit has stopped, one that lingers or that of a driver that died. The commit
 * is ended first: it is begun again by whoever takes the snapshot back. Domain locked, job held.
 */
void
ferrySnapshotEndPauses(ferryOp *op)
{
    ferrySnapshot *snapshot = ferrySnapshotOf(op);
    size_t i;

    for (i = 0; i < snapshot->disks->len; i++) {
        ferrySnapshotDisk *sdisk = ferrySnapshotDiskAt(snapshot, i);
        g_autofree char *what = g_strdup_printf("commit-%s", sdisk->dst);
        g_autofree char *jobname = ferryJobName(op, what);

        if (sdisk->paused)
            ferrySnapshotCommitFailed(op, sdisk, jobname);
    }
}
