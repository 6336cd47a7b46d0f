/*
 * seams_migration.c: storage migration, inside the phases of the stock driver's
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Seams, as in seams.c.
 */

#include <config.h>

#include "engine/op.h"
#include "hook/seams.h"
#include "ops/migration/destination.h"
#include "ops/migration/outgoing.h"
#include "ops/migration/perform.h"
#include "ops/migration/prepare.h"
#include "qemu/qemu_migration.h"
#include "qemu/qemu_monitor.h"
#include "qemu/qemu_process.h"

FERRY_SEAM(qemuProcessPrepareDomain);
FERRY_SEAM(qemuProcessPrepareHost);
FERRY_SEAM(qemuMigrationParamsApply);
FERRY_SEAM(qemuMigrationParamsReset);
FERRY_SEAM(qemuDomainObjEnterMonitorAsync);
FERRY_SEAM(qemuMonitorMigrateContinue);
FERRY_SEAM(qemuDomainObjWait);
FERRY_SEAM(qemuProcessCleanupMigrationJob);
FERRY_SEAM(qemuDomainCleanupAdd);
FERRY_SEAM(qemuMigrationSrcFetchMirrorStats);


/* A QEMU that will wait for a migration is prepared. The stock driver asks next which files or
 * devices the volumes of its disks are: create those that are missing. */
int
__wrap_qemuProcessPrepareDomain(virQEMUDriver *driver,
                                virDomainObj *vm,
                                unsigned int flags)
{
    if (ferryIncomingCreateVolumes(vm) < 0)
        return -1;

    return __real_qemuProcessPrepareDomain(driver, vm, flags);
}


/* QEMU is about to be started. If it will wait for a migration, create missing images. */
int
__wrap_qemuProcessPrepareHost(virQEMUDriver *driver,
                              virDomainObj *vm,
                              unsigned int flags)
{
    if (ferryIncomingCreateImages(vm) < 0)
        return -1;

    return __real_qemuProcessPrepareHost(driver, vm, flags);
}


/* Ferry starts its storage migration where the stock driver would: QEMU has the TLS
 * credentials and the migration's parameters, and the migration has not begun. */
int
__wrap_qemuMigrationParamsApply(virDomainObj *vm,
                                int asyncJob,
                                qemuMigrationParams *migParams,
                                unsigned int apiFlags)
{
    if (asyncJob == VIR_ASYNC_JOB_MIGRATION_IN && ferryIncomingAcceptBitmaps(vm, migParams) < 0)
        return -1;

    if (__real_qemuMigrationParamsApply(vm, asyncJob, migParams, apiFlags) < 0)
        return -1;

    if (asyncJob == VIR_ASYNC_JOB_MIGRATION_OUT)
        return ferryMigrationCopyStorage(vm, migParams);

    return asyncJob == VIR_ASYNC_JOB_MIGRATION_IN ? ferryIncomingServe(vm) : 0;
}


/* The perform phase failed and still holds the domain's job: take back the storage. */
void
__wrap_qemuMigrationParamsReset(virDomainObj *vm,
                                int asyncJob,
                                qemuMigrationParams *origParams,
                                unsigned int apiFlags)
{
    if (asyncJob == VIR_ASYNC_JOB_MIGRATION_OUT)
        ferryMigrationGiveUp(vm);

    __real_qemuMigrationParamsReset(vm, asyncJob, origParams, apiFlags);
}


/* The perform phase is about to send QEMU a command. If the guest is paused, the command
 * may be the one to switch over: finish the mirrors before. */
int
__wrap_qemuDomainObjEnterMonitorAsync(virDomainObj *vm,
                                      virDomainAsyncJob asyncJob)
{
    if (asyncJob == VIR_ASYNC_JOB_MIGRATION_OUT && ferryMigrationSwitchOver(vm) < 0)
        return -1;

    return __real_qemuDomainObjEnterMonitorAsync(vm, asyncJob);
}


/* QEMU is told to switch over. Refuse that unless the disks are at the destination. */
int
__wrap_qemuMonitorMigrateContinue(qemuMonitor *mon,
                                  qemuMonitorMigrationStatus status)
{
    if (ferryMigrationMaySwitchOver() < 0)
        return -1;

    return __real_qemuMonitorMigrateContinue(mon, status);
}


/* With signalStop set the perform phase waits for the guest to stop. That would never end
 * if the guest stopped and was resumed already, because the migration was cancelled. */
int
__wrap_qemuDomainObjWait(virDomainObj *vm)
{
    if (QEMU_DOMAIN_PRIVATE(vm)->signalStop && ferryMigrationMayStop(vm) < 0)
        return -1;

    return __real_qemuDomainObjWait(vm);
}


/* QEMU ended during a migration. Keep the asynchronous job if a thread is in a phase: the
 * thread uses and ends the job. During our steps asyncOwner is 0, but there is an op. */
void
__wrap_qemuProcessCleanupMigrationJob(virQEMUDriver *driver,
                                      virDomainObj *vm)
{
    if (vm->job->asyncOwner == 0 && !ferryOpFind(vm, FERRY_MIGRATION_NAME))
        __real_qemuProcessCleanupMigrationJob(driver, vm);
}


/* The stock driver registers its own function after a restart, in the object that has it, where
 * there is no seam; what unregisters it looks for ours. */
void
__wrap_qemuDomainCleanupAdd(virDomainObj *vm,
                            qemuDomainCleanupCallback cb)
{
    __real_qemuDomainCleanupAdd(vm, cb == __real_qemuProcessCleanupMigrationJob ?
                                        __wrap_qemuProcessCleanupMigrationJob :
                                        cb);
}


/* Fills in the disks' statistics for the domain's job, which is a migration. */
int
__wrap_qemuMigrationSrcFetchMirrorStats(virDomainObj *vm,
                                        virDomainAsyncJob asyncJob,
                                        virDomainJobData *data)
{
    int rc = ferryMigrationStats(vm, data);

    return rc == 0 ? __real_qemuMigrationSrcFetchMirrorStats(vm, asyncJob, data) : MIN(rc, 0);
}
