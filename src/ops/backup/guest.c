/*
 * guest.c: backup: a guest that a full scratch image has stopped
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "ops/backup/data.h"
#include "ops/backup/guest.h"
#include "qemu/qemu_process.h"
#include "virerror.h"
#include "virlog.h"

VIR_LOG_INIT("ferry.backup");


/* Returns whether QEMU has stopped the guest for an error of its storage. Domain locked. */
bool
ferryBackupGuestStopped(virDomainObj *vm)
{
    int reason;

    return virDomainObjGetState(vm, &reason) == VIR_DOMAIN_PAUSED &&
           reason == VIR_DOMAIN_PAUSED_IOERROR;
}


/**
 * ferryBackupResumeGuest:
 *
 * Resumes the guest if a full scratch image of the backup has stopped it. To be called as soon
 * as the jobs of the backup are gone: the rest of the undo may have to wait for storage. Domain
 * locked, job held.
 */
void
ferryBackupResumeGuest(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    virDomainObj *vm = op->vm;

    if (!backup->full)
        return;

    backup->full = false;

    /* the lock was released meanwhile: somebody else may have resumed or stopped it */
    if (!virDomainObjIsActive(vm) || !ferryBackupGuestStopped(vm))
        return;

    if (qemuProcessStartCPUs(op->driver, vm, VIR_DOMAIN_RUNNING_UNPAUSED, VIR_ASYNC_JOB_NONE) < 0) {
        VIR_ERROR(_("domain '%1$s' was stopped by a full scratch image and cannot be resumed: %2$s; "
                    "run 'virsh resume %3$s'"),
                  vm->def->name, virGetLastErrorMessage(), vm->def->name);
        virResetLastError();
    }
}
