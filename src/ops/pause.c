/*
 * pause.c: guests that must not run while one of their disks moves to another image
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
 * So for an image that is not qcow2, on a device without an ioeventfd, the guest's CPUs are
 * stopped before the disk is drained: then no request can be queued. Clients get no event and see
 * the domain running, since it lasts for milliseconds: the job must have caught up before.
 *
 * Tried instead, and refused by QEMU: a writable export of the target's nodes (the mirror
 * job does not share WRITE), and a second mirror job that keeps the target drained until
 * the first one has pivoted (the target is no root node).
 */

#include <config.h>

#include "engine/wait.h"
#include "ops/pause.h"
#include "qemu/qemu_monitor.h"
#include "virerror.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.pause");


/* Returns whether the device of @disk leaves requests of the guest where they are while
 * the disk is drained. */
static bool
ferryPauseHasIoeventfd(virDomainDef *def,
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
 * ferryPauseHoldIsUnsafe:
 * @disk: of @def
 * @format: of the image that the disk moves to (virStorageFileFormat)
 *
 * Returns true if the guest must not run while the disk is held. Whoever holds it keeps the domain's job
 * until it has moved, so that no client resumes the guest meanwhile.
 */
bool
ferryPauseHoldIsUnsafe(virDomainDef *def,
                       virDomainDiskDef *disk,
                       int format)
{
    return format != VIR_STORAGE_FILE_QCOW2 && !ferryPauseHasIoeventfd(def, disk);
}


/**
 * ferryPauseIsNeeded:
 * @vm: domain, locked
 * @disk, @format: as for ferryPauseHoldIsUnsafe()
 *
 * Returns true when the guest's CPUs must be stopped while the disk is held. Not those of a guest
 * that does not run, since somebody else decides when it goes on.
 */
bool
ferryPauseIsNeeded(virDomainObj *vm,
                   virDomainDiskDef *disk,
                   int format)
{
    return virDomainObjGetState(vm, /* reason= */ NULL) == VIR_DOMAIN_RUNNING &&
           ferryPauseHoldIsUnsafe(vm->def, disk, format);
}


/**
 * ferryPauseBegin:
 *
 * Stops the guest's CPUs. Domain locked, job held; the caller keeps the job until
 * ferryPauseEnd(), so that no client suspends or resumes the domain meanwhile, and has
 * written to the journal that the CPUs are stopped: the next driver lets the guest go on.
 *
 * Returns 0, or -1 with an error reported.
 */
int
ferryPauseBegin(ferryOp *op)
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
ferryPauseIsOn(virDomainObj *vm)
{
    int reason;
    int state = virDomainObjGetState(vm, &reason);

    return state == VIR_DOMAIN_RUNNING ||
           (state == VIR_DOMAIN_PAUSED && reason == VIR_DOMAIN_PAUSED_USER);
}


/**
 * ferryPauseEnd:
 * @dst: name of the disk, for the log
 *
 * Lets the guest's CPUs go on, also when ferryPauseBegin() did not stop them. Domain
 * locked, job held. Reports no error: the log says what to do.
 */
void
ferryPauseEnd(ferryOp *op,
              const char *dst)
{
    virDomainObj *vm = op->vm;
    qemuDomainObjPrivate *priv = vm->privateData;
    int rc = 0;

    if (ferryPauseIsOn(vm)) {
        qemuDomainObjEnterMonitor(vm);
        if ((rc = qemuMonitorStartCPUs(qemuDomainGetMonitor(vm))) < 0)
            rc = qemuMonitorStartCPUs(qemuDomainGetMonitor(vm));
        qemuDomainObjExitMonitor(vm);
    }

    priv->pausedShutdown = false;

    if (rc < 0 && ferryJobQEMUReachable(op)) {
        VIR_ERROR(_("the guest of domain '%1$s' was stopped while disk '%2$s' moved and does not "
                    "go on (%3$s): run 'virsh resume %4$s'"),
                  vm->def->name, dst, virGetLastErrorMessage(), vm->def->name);
        virDomainObjSetState(vm, VIR_DOMAIN_PAUSED, VIR_DOMAIN_PAUSED_UNKNOWN);
        qemuDomainSaveStatus(vm);
    }
    virResetLastError();
}


/**
 * ferryPauseForget:
 * @vm: domain, locked; its QEMU is gone
 *
 * The next QEMU must not inherit that the CPUs of this one were stopped.
 */
void
ferryPauseForget(virDomainObj *vm)
{
    QEMU_DOMAIN_PRIVATE(vm)->pausedShutdown = false;
}
