/*
 * view.c: storage migration: what clients see of the mirrors
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * As with the stock driver, each disk that is migrated has a block job of type COPY: clients
 * can ask how far it is, and are told when it is READY and how it ended. They can neither end
 * nor change it, since it belongs to the migration.
 */

#include <config.h>

#include "engine/job.h"
#include "ops/event.h"
#include "ops/migration/outgoing.h"
#include "ops/migration/view.h"
#include "virerror.h"

#define VIR_FROM_THIS VIR_FROM_QEMU


static ferryMigrationDisk *
ferryMigrationFindDisk(ferryOp *op,
                       const char *dst)
{
    ferryMigration *migration = ferryMigrationOf(op);
    size_t i;

    for (i = 0; i < migration->ndisks; i++) {
        if (STREQ(migration->disks[i].dst, dst))
            return &migration->disks[i];
    }

    return NULL;
}


/* Returns the disk that @job, one of the mirrors of @op, copies. */
static ferryMigrationDisk *
ferryMigrationDiskOfJob(ferryOp *op,
                        const qemuMonitorJobInfo *job)
{
    g_autofree char *prefix = ferryJobName(op, "");

    return ferryMigrationFindDisk(op, job->id + strlen(prefix));
}


/**
 * ferryMigrationTellReady:
 * @jobs: all mirrors of @op
 *
 * Tells clients which mirrors have become READY. Domain locked.
 */
void
ferryMigrationTellReady(ferryOp *op,
                        GPtrArray *jobs)
{
    size_t i;

    for (i = 0; i < jobs->len; i++) {
        qemuMonitorJobInfo *job = g_ptr_array_index(jobs, i);
        ferryMigrationDisk *disk = ferryMigrationDiskOfJob(op, job);

        if (!disk || disk->ready || !ferryJobStatusIsReady(job->status))
            continue;

        disk->ready = true;
        ferryEventBlockJobNamed(op->vm, disk->dst, VIR_DOMAIN_BLOCK_JOB_TYPE_COPY,
                                VIR_DOMAIN_BLOCK_JOB_READY);
    }
}


/**
 * ferryMigrationTellEnded:
 * @jobs: mirrors of @op that have ended
 * @failed: also those without an error have failed, since the migration has
 *
 * Tells clients how the mirrors have ended. Domain locked.
 */
void
ferryMigrationTellEnded(ferryOp *op,
                        GPtrArray *jobs,
                        bool failed)
{
    size_t i;

    for (i = 0; i < jobs->len; i++) {
        qemuMonitorJobInfo *job = g_ptr_array_index(jobs, i);
        ferryMigrationDisk *disk = ferryMigrationDiskOfJob(op, job);

        if (!disk)
            continue;

        disk->mirrored = false;
        ferryEventBlockJobNamed(op->vm, disk->dst, VIR_DOMAIN_BLOCK_JOB_TYPE_COPY,
                                failed || job->error ? VIR_DOMAIN_BLOCK_JOB_FAILED :
                                                       VIR_DOMAIN_BLOCK_JOB_COMPLETED);
    }
}


static char *
ferryMigrationJobName(ferryOp *op,
                      const char *dst)
{
    return ferryMigrationFindDisk(op, dst) ? ferryJobName(op, dst) : NULL;
}


static bool
ferryMigrationJobEnded(ferryOp *op,
                       const char *dst)
{
    return !ferryMigrationFindDisk(op, dst)->mirrored;
}


static void
ferryMigrationRefuse(ferryOp *op,
                     const char *dst)
{
    virReportError(VIR_ERR_OPERATION_INVALID,
                   _("disk '%1$s' of domain '%2$s' is being migrated: 'virsh domjobabort' ends the "
                     "migration, and 'virsh migrate-setspeed' sets its speed"),
                   dst, op->vm->def->name);
}


const ferryBlockJobHandler ferryMigrationBlockJob = {
    .type = VIR_DOMAIN_BLOCK_JOB_TYPE_COPY,
    .jobName = ferryMigrationJobName,
    .jobEnded = ferryMigrationJobEnded,
    .refuse = ferryMigrationRefuse,
};
