/*
 * hold.c: block copy: how long, and how safely, the guest's disk is held
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Theory of operation
 *
 * While a mirror job is PENDING its disk is drained. A device with an ioeventfd does not
 * even fetch requests from the guest then. Any other device hands them to its block
 * backend, which queues them. QEMU up to 7.2 at least resumes a queued write while the
 * mirror job replaces its filter by the target, and that is before the target's format
 * node has asked for permission to write to its file: QEMU aborts (assertion in
 * bdrv_co_write_req_prepare()), and the guest with it. A qcow2 node always holds that
 * permission for its file; a raw node holds it only while its user does.
 *
 * So for a target that is not qcow2, on a device without an ioeventfd, the guest's CPUs
 * are stopped before the disk is drained: then no request can be queued. Clients get no
 * event and see the domain running, since it lasts for milliseconds: the mirror must have
 * caught up before (ferryCopyAwaitLevel()).
 *
 * Tried instead, and refused by QEMU: a writable export of the target's nodes (the mirror
 * job does not share WRITE), and a second mirror job that keeps the target drained until
 * the first one has pivoted (the target is no root node).
 */

#include <config.h>

#include "block/feature.h"
#include "block/qmp.h"
#include "engine/wait.h"
#include "ops/copy/data.h"
#include "ops/copy/hold.h"
#include "virerror.h"
#include "virlog.h"
#include "virtime.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.copy");

/* The mirror has caught up when it needs this long for what is left. */
#define FERRY_COPY_LEVEL_MS 250

/* How often it is asked, beside when something happens. */
#define FERRY_COPY_LEVEL_POLL_MS 100


/* A mirror that has not caught up after this time writes what the guest writes at once, where QEMU
 * can change that. */
#define FERRY_COPY_PATIENCE_MS 2000


/* Returns whether the device of @disk leaves requests of the guest where they are while
 * the disk is drained. */
static bool
ferryCopyHasIoeventfd(virDomainDef *def,
                      virDomainDiskDef *disk)
{
    const virDomainControllerDef *controller;

    if (disk->bus == VIR_DOMAIN_DISK_BUS_VIRTIO)
        return disk->ioeventfd != VIR_TRISTATE_SWITCH_OFF;

    if (disk->bus != VIR_DOMAIN_DISK_BUS_SCSI ||
        !(controller = virDomainDeviceFindSCSIController(def, &disk->info.addr.drive)))
        return false;

    return (controller->model == VIR_DOMAIN_CONTROLLER_MODEL_SCSI_VIRTIO_SCSI ||
            controller->model == VIR_DOMAIN_CONTROLLER_MODEL_SCSI_VIRTIO_TRANSITIONAL ||
            controller->model == VIR_DOMAIN_CONTROLLER_MODEL_SCSI_VIRTIO_NON_TRANSITIONAL) &&
           controller->ioeventfd != VIR_TRISTATE_SWITCH_OFF;
}


/**
 * ferryCopyMustPause:
 *
 * Returns true when the guest's CPUs must be stopped while the disk of @op is held. Not
 * for a guest that does not run, since somebody else decides when it goes on. Domain
 * locked.
 */
bool
ferryCopyMustPause(ferryOp *op)
{
    return virDomainObjGetState(op->vm, /* reason= */ NULL) == VIR_DOMAIN_RUNNING &&
           ferryCopyOf(op)->target->format != VIR_STORAGE_FILE_QCOW2 &&
           !ferryCopyHasIoeventfd(op->vm->def, ferryCopyDisk(op));
}


/**
 * ferryCopyPause:
 *
 * Stops the guest's CPUs. Domain locked, job held; the caller keeps the job until
 * ferryCopyUnpause(), so that no client suspends or resumes the domain meanwhile.
 *
 * Returns 0, or -1 with an error reported.
 */
int
ferryCopyPause(ferryOp *op)
{
    qemuDomainObjPrivate *priv = op->vm->privateData;
    int rc;

    /* the stock driver then ignores the STOP event, as for a guest that reboots */
    priv->pausedShutdown = true;

    qemuDomainObjEnterMonitor(op->vm);
    rc = qemuMonitorStopCPUs(qemuDomainGetMonitor(op->vm));
    qemuDomainObjExitMonitor(op->vm);

    return rc;
}


/* A restarted driver has found the guest paused and thinks that a client did it. */
static bool
ferryCopyIsPaused(virDomainObj *vm)
{
    int reason;
    int state = virDomainObjGetState(vm, &reason);

    return state == VIR_DOMAIN_RUNNING ||
           (state == VIR_DOMAIN_PAUSED && reason == VIR_DOMAIN_PAUSED_USER);
}


/**
 * ferryCopyUnpause:
 *
 * Lets the guest's CPUs go on, also when ferryCopyPause() did not stop them. Domain
 * locked, job held. Reports no error: the log says what to do.
 */
void
ferryCopyUnpause(ferryOp *op)
{
    virDomainObj *vm = op->vm;
    qemuDomainObjPrivate *priv = vm->privateData;
    int rc = 0;

    if (ferryCopyIsPaused(vm)) {
        qemuDomainObjEnterMonitor(vm);
        if ((rc = qemuMonitorStartCPUs(qemuDomainGetMonitor(vm))) < 0)
            rc = qemuMonitorStartCPUs(qemuDomainGetMonitor(vm));
        qemuDomainObjExitMonitor(vm);
    }

    priv->pausedShutdown = false;

    if (rc < 0 && ferryJobQEMUReachable(op)) {
        VIR_ERROR(_("the guest of domain '%1$s' was stopped while disk '%2$s' moved and does not "
                    "go on (%3$s): run 'virsh resume %4$s'"),
                  vm->def->name, ferryCopyOf(op)->dst, virGetLastErrorMessage(), vm->def->name);
        virDomainObjSetState(vm, VIR_DOMAIN_PAUSED, VIR_DOMAIN_PAUSED_UNKNOWN);
        qemuDomainSaveStatus(vm);
    }
    virResetLastError();
}


/* Returns whether all members of the group of @op are still to end as @op is. */
static bool
ferryCopyAgrees(ferryOp *op)
{
    g_autoptr(GPtrArray) group = ferryOpGroup(op);
    size_t i;

    for (i = 0; i < group->len; i++) {
        if (ferryCopyOf(g_ptr_array_index(group, i))->goal != ferryCopyOf(op)->goal)
            return false;
    }

    return true;
}


/**
 * ferryCopyBePatient:
 *
 * To be called when a wait for the mirror job of @op begins: see ferryCopyLosePatience().
 */
void
ferryCopyBePatient(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);

    if (copy->impatient != ULLONG_MAX)
        copy->impatient = 0;
}


/**
 * ferryCopyLosePatience:
 *
 * To be called again and again while the mirror job of @op does not catch up with the guest: after a
 * while makes the guest's writes wait for the target, if QEMU can. Domain locked, job held; may ask
 * QEMU. Reports no error.
 */
void
ferryCopyLosePatience(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    g_autofree char *jobname = ferryJobName(op, "mirror");
    unsigned long long now;

    if (copy->synchronous || copy->impatient == ULLONG_MAX || virTimeMillisNowRaw(&now) < 0)
        return;

    if (copy->impatient == 0)
        copy->impatient = now + FERRY_COPY_PATIENCE_MS;

    if (now < copy->impatient)
        return;

    copy->impatient = ULLONG_MAX;

    if (!ferryFeatureHas(op->vm, FERRY_FEATURE_COPY_MODE))
        return;

    if (ferryQMPMirrorBlockWrites(op->vm, jobname) == 0) {
        copy->synchronous = true;
    } else {
        VIR_WARN("disk '%s' of domain '%s' is written as fast as it is copied, and QEMU does not change "
                 "that: %s", copy->dst, op->vm->def->name, virGetLastErrorMessage());
        virResetLastError();
    }
}


/**
 * ferryCopyAwaitLevel:
 *
 * Waits until the mirror job of @op needs FERRY_COPY_LEVEL_MS or less for what it has
 * still to copy: a flush or a drain of the disk takes that long, and QEMU answers nothing
 * meanwhile. A target that is slower than the guest never catches up, unless QEMU can make the
 * guest's writes wait for it (ferryCopyLosePatience()). ferryCopyAbort() can
 * end this wait, since the domain's job is not held while waiting.
 *
 * Returns 0, also when the job has ended, or -1 with an error reported.
 */
int
ferryCopyAwaitLevel(ferryOp *op)
{
    g_autofree char *jobname = ferryJobName(op, "mirror");
    unsigned long long lastTime = 0;
    unsigned long long lastDone = 0;

    ferryCopyBePatient(op);

    while (true) {
        g_autoptr(GPtrArray) jobs = ferryJobFind(op, jobname, FERRY_JOB_NAMED);
        qemuMonitorJobInfo *job;
        unsigned long long now;
        unsigned long long left;

        if (!jobs || virTimeMillisNow(&now) < 0)
            return -1;

        if (jobs->len == 0)
            return 0;

        job = g_ptr_array_index(jobs, 0);
        left = job->progressTotal - MIN(job->progressCurrent, job->progressTotal);

        if (left == 0 || job->status == QEMU_MONITOR_JOB_STATUS_CONCLUDED ||
            job->status == QEMU_MONITOR_JOB_STATUS_PENDING)
            return 0;

        /* bytes left <= bytes/ms copied of late * FERRY_COPY_LEVEL_MS */
        if (lastTime > 0 && now > lastTime && job->progressCurrent > lastDone &&
            left <= (job->progressCurrent - lastDone) / (now - lastTime) * FERRY_COPY_LEVEL_MS)
            return 0;

        lastTime = now;
        lastDone = job->progressCurrent;

        ferryCopyLosePatience(op);

        if (ferryOpSleep(op, FERRY_COPY_LEVEL_POLL_MS) < 0)
            return -1;

        /* a client has aborted another member */
        if (!ferryCopyAgrees(op))
            return 0;

        if (!virDomainObjIsActive(op->vm)) {
            virReportError(VIR_ERR_OPERATION_FAILED,
                           _("domain '%1$s' ended while disk '%2$s' waited for its copy"),
                           op->vm->def->name, ferryCopyOf(op)->dst);
            return -1;
        }
    }
}
