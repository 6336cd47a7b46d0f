/*
 * progress.c: backup: the progress of its jobs
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "engine/job.h"
#include "ops/backup/data.h"
#include "ops/backup/progress.h"
#include "qemu/qemu_domainjob.h"
#include "qemu/qemu_monitor.h"


static void
ferryBackupCount(ferryOp *op,
                 ferryBackupDisk *disk,
                 GPtrArray *jobs,
                 ferryBackupJobs *state)
{
    ferryBackup *backup = ferryBackupOf(op);
    g_autofree char *jobname = ferryJobName(op, disk->def->name);
    size_t i;

    for (i = 0; i < jobs->len; i++) {
        qemuMonitorJobInfo *job = g_ptr_array_index(jobs, i);

        if (STRNEQ(job->id, jobname))
            continue;

        backup->cur += job->progressCurrent;
        backup->end += job->progressTotal;

        disk->ended = job->status == QEMU_MONITOR_JOB_STATUS_CONCLUDED;
        if (!disk->ended)
            state->ended--;
        if (!disk->ended || !job->error)
            state->failed--;
        else if (!backup->error)
            backup->error = g_strdup(job->error);
    }
}


/* Returns QEMU's jobs of @op, or NULL with an error reported. Fills in @state, cur and
 * end of the backup and, if a job failed, its error. Domain locked, job held. */
GPtrArray *
ferryBackupQuery(ferryOp *op,
                 ferryBackupJobs *state)
{
    ferryBackup *backup = ferryBackupOf(op);
    g_autoptr(GPtrArray) jobs = ferryJobList(op, "");
    size_t i;

    *state = (ferryBackupJobs) { .ended = backup->ndisks, .failed = backup->ndisks };

    if (!jobs)
        return NULL;

    backup->cur = backup->end = 0;

    for (i = 0; i < backup->ndisks; i++)
        ferryBackupCount(op, &backup->disks[i], jobs, state);

    return g_steal_pointer(&jobs);
}


/* Updates backup->cur and backup->end. Returns 0, or -1 with an error reported. */
int
ferryBackupProgress(ferryOp *op)
{
    ferryBackupJobs state;
    g_autoptr(GPtrArray) jobs = ferryBackupQuery(op, &state);

    return jobs ? 0 : -1;
}


/* Writes backup->cur and backup->end into the statistics of @data. */
void
ferryBackupFillStats(ferryOp *op,
                     virDomainJobData *data)
{
    ferryBackup *backup = ferryBackupOf(op);
    qemuDomainJobDataPrivate *priv = data->privateData;
    qemuDomainBackupStats *stats = &priv->stats.backup;

    if (ferryBackupIsPull(backup)) {
        stats->tmp_used = backup->cur;
        stats->tmp_total = backup->end;
    } else {
        stats->transferred = backup->cur;
        stats->total = backup->end;
    }
}


/**
 * ferryBackupStats:
 *
 * Fills in @data with current statistics. Domain locked, job held.
 */
int
ferryBackupStats(ferryOp *op,
                 virDomainJobData *data)
{
    if (qemuDomainJobDataUpdateTime(data) < 0)
        return -1;

    data->status = VIR_DOMAIN_JOB_STATUS_ACTIVE;

    if (ferryBackupProgress(op) < 0)
        return -1;

    ferryBackupFillStats(op, data);
    return 0;
}
