/*
 * ready.c: storage migration: the progress of the mirrors
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "block/export_peer.h"
#include "block/feature.h"
#include "block/qmp.h"
#include "engine/wait.h"
#include "ops/config.h"
#include "ops/migration/outgoing.h"
#include "ops/migration/ready.h"
#include "ops/migration/view.h"
#include "qemu/qemu_domainjob.h"
#include "qemu/qemu_monitor.h"
#include "virerror.h"
#include "virfile.h"
#include "virlog.h"
#include "virtime.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.migration");

/* Bytes that the mirrors may be behind when the memory starts to move: about what QEMU
 * has in flight, a few milliseconds of copying; and how often this is compared. */
#define FERRY_MIGRATION_LEVEL (16ULL * 1024 * 1024)
#define FERRY_MIGRATION_LEVEL_MS 500


static bool
ferryMigrationJobEnded(qemuMonitorJobInfo *job)
{
    return job->status == QEMU_MONITOR_JOB_STATUS_ABORTING ||
           job->status == QEMU_MONITOR_JOB_STATUS_CONCLUDED;
}


/**
 * ferryMigrationCount:
 *
 * Fills @data with the progress of @jobs, which are all mirrors.
 */
void
ferryMigrationCount(GPtrArray *jobs,
                    virDomainJobData *data)
{
    qemuDomainMirrorStats *stats = &((qemuDomainJobDataPrivate *) data->privateData)->mirrorStats;
    size_t i;

    memset(stats, 0, sizeof(*stats));

    for (i = 0; i < jobs->len; i++) {
        qemuMonitorJobInfo *job = g_ptr_array_index(jobs, i);

        stats->transferred += job->progressCurrent;
        stats->total += job->progressTotal;
    }
}


/* What a waiting step knows of the mirrors and the destination. */
typedef struct {
    ferryOp *op;
    size_t ready;              /* mirrors that are READY */
    size_t known;              /* value of ready when the step last acted on it */
    unsigned long long copied; /* bytes, by all mirrors, at the last look */
    int probe;                 /* socket of ferryExportServerProbe(), or -1 */
    unsigned long long silent; /* ms: when the destination stopped answering; 0: it answers */
    bool gone;                 /* the destination has gone, or was silent for too long */
    bool stopped;              /* a mirror is stopped because it could not write */

    bool level;                /* wait until the mirrors are level: all were READY before */
    unsigned long long behind; /* bytes that the mirrors had left to copy... */
    unsigned long long when;   /* ...at this time in ms; 0: not looked at yet */
    bool blocking;             /* the guest's writes have been made to wait for the destination */
} ferryMigrationReadiness;


/* Returns true if QEMU has paused a mirror. It does that when the mirror cannot write,
 * but also for a moment for many other reasons. */
static bool
ferryMigrationMayBeStopped(GPtrArray *jobs)
{
    size_t i;

    for (i = 0; i < jobs->len; i++) {
        qemuMonitorJobInfo *job = g_ptr_array_index(jobs, i);

        if (job->status == QEMU_MONITOR_JOB_STATUS_PAUSED ||
            job->status == QEMU_MONITOR_JOB_STATUS_STANDBY)
            return true;
    }

    return false;
}


/**
 * ferryMigrationFindStopped:
 * @jobs: all mirrors
 * @resume: resume the stopped mirrors; QEMU then connects again
 *
 * Looks for mirrors that QEMU has stopped because they could not write. Returns the name
 * of the disk of one, which the caller frees, or NULL. Reports no error.
 */
char *
ferryMigrationFindStopped(ferryOp *op,
                          GPtrArray *jobs,
                          bool resume)
{
    g_autofree char *prefix = ferryJobName(op, "");
    g_autofree char *found = NULL;
    g_autoptr(virJSONValue) all = NULL;
    size_t i;

    if (!ferryMigrationMayBeStopped(jobs))
        return NULL;

    if (ferryQMP(op->vm, "query-block-jobs", /* args= */ NULL, &all) < 0) {
        virResetLastError();
        return NULL;
    }

    for (i = 0; virJSONValueIsArray(all) && i < virJSONValueArraySize(all); i++) {
        virJSONValue *job = virJSONValueArrayGet(all, i);
        const char *name = virJSONValueObjectGetString(job, "device");
        const char *status = virJSONValueObjectGetString(job, "io-status");
        g_autoptr(virJSONValue) args = NULL;

        if (!name || !g_str_has_prefix(name, prefix) || STREQ_NULLABLE(status, "ok"))
            continue;

        if (resume &&
            (virJSONValueObjectAdd(&args, "s:device", name, NULL) < 0 ||
             ferryQMP(op->vm, "block-job-resume", &args, /* reply= */ NULL) < 0))
            virResetLastError();

        g_free(found);
        found = g_strdup(name + strlen(prefix));
    }

    return g_steal_pointer(&found);
}


/* Returns true if the destination has gone, or was silent for over migrate_reconnect.
 * QEMU waits for TCP's timeout, and after that a stopped mirror waits without a limit. */
static bool
ferryMigrationDestinationIsGone(ferryMigrationReadiness *readiness,
                                GPtrArray *jobs)
{
    ferryMigration *migration = ferryMigrationOf(readiness->op);
    unsigned long long before = readiness->copied;
    ferryExportState state = FERRY_EXPORT_ALIVE;
    unsigned long long now;
    size_t i;

    readiness->copied = 0;
    for (i = 0; i < jobs->len; i++)
        readiness->copied += ((qemuMonitorJobInfo *) g_ptr_array_index(jobs, i))->progressCurrent;

    if (readiness->copied == before && (migration->server.name || migration->server.socket))
        state = ferryExportServerProbe(&migration->server, &readiness->probe);

    /* the server accepts connections, but a mirror cannot write: the same as silence */
    if (readiness->stopped && state == FERRY_EXPORT_ALIVE)
        state = FERRY_EXPORT_SILENT;

    if (state != FERRY_EXPORT_SILENT || virTimeMillisNow(&now) < 0) {
        readiness->silent = 0;
        return state == FERRY_EXPORT_GONE;
    }

    if (readiness->silent == 0)
        readiness->silent = now;

    return now - readiness->silent > ferryConfigGet()->migrateReconnect * 1000ULL;
}


/* Makes the guest's writes wait for the destination, if QEMU can change that. Returns whether all
 * mirrors now do so and did not before. */
static bool
ferryMigrationBlockWrites(ferryMigrationReadiness *readiness,
                          GPtrArray *jobs)
{
    ferryOp *op = readiness->op;
    size_t i;

    if (readiness->blocking || ferryMigrationOf(op)->synchronous ||
        !ferryFeatureHas(op->vm, FERRY_FEATURE_COPY_MODE))
        return false;

    readiness->blocking = true;

    for (i = 0; i < jobs->len; i++) {
        qemuMonitorJobInfo *job = g_ptr_array_index(jobs, i);

        if (ferryQMPMirrorBlockWrites(op->vm, job->id) < 0) {
            VIR_WARN("the guest of domain '%s' writes as fast as its disks are copied, and QEMU cannot "
                     "change that: %s",
                     op->vm->def->name, virGetLastErrorMessage());
            virResetLastError();
            return false;
        }
    }

    return true;
}


/* Returns true if the mirrors are level, or if the guest writes as fast as they copy. */
static bool
ferryMigrationIsLevel(ferryMigrationReadiness *readiness,
                      GPtrArray *jobs)
{
    unsigned long long behind = 0;
    unsigned long long now;
    bool nearer;
    size_t i;

    for (i = 0; i < jobs->len; i++) {
        qemuMonitorJobInfo *job = g_ptr_array_index(jobs, i);

        if (job->progressTotal > job->progressCurrent)
            behind += job->progressTotal - job->progressCurrent;
    }

    if (behind <= FERRY_MIGRATION_LEVEL || virTimeMillisNow(&now) < 0)
        return true;

    if (now - readiness->when < FERRY_MIGRATION_LEVEL_MS)
        return false;

    nearer = readiness->when == 0 || behind < readiness->behind;
    readiness->behind = behind;
    readiness->when = now;
    return !nearer && !ferryMigrationBlockWrites(readiness, jobs);
}


/* Returns true if the step has something to do. A failed mirror ends the wait for all. */
static bool
ferryMigrationMoved(GPtrArray *jobs,
                    void *opaque)
{
    ferryMigrationReadiness *readiness = opaque;
    virDomainObj *vm = readiness->op->vm;
    bool ended = jobs->len < ferryMigrationOf(readiness->op)->ndisks;
    g_autofree char *stopped = ferryMigrationFindStopped(readiness->op, jobs, /* resume= */ true);
    size_t i;

    if (vm->job->current)
        ferryMigrationCount(jobs, vm->job->current);

    readiness->ready = 0;

    for (i = 0; i < jobs->len; i++) {
        qemuMonitorJobInfo *job = g_ptr_array_index(jobs, i);

        if (ferryJobStatusIsReady(job->status))
            readiness->ready++;
        else if (ferryMigrationJobEnded(job))
            ended = true;
    }

    readiness->stopped = stopped;
    readiness->gone = ferryMigrationDestinationIsGone(readiness, jobs);

    if (ended || readiness->gone)
        return true;

    if (readiness->stopped)
        return false;

    return readiness->level ? ferryMigrationIsLevel(readiness, jobs) :
                              readiness->ready > readiness->known;
}


void
ferryMigrationReportFailure(ferryOp *op,
                            const char *dst,
                            const char *error)
{
    /* the mirror may have ended because the migration was aborted: then report that */
    if (op->klass->mayWait(op) < 0)
        return;

    virReportError(VIR_ERR_OPERATION_FAILED,
                   _("migration of disk '%1$s' of domain '%2$s' failed: %3$s"), dst, op->vm->def->name,
                   error ? error : _("its mirror ended; see the destination's log"));
}


/**
 * ferryMigrationCheckJobs:
 *
 * Returns 0, or -1 with an error reported if a mirror has ended or is not in @jobs.
 */
int
ferryMigrationCheckJobs(ferryOp *op,
                        GPtrArray *jobs)
{
    g_autofree char *prefix = ferryJobName(op, "");
    size_t i;

    for (i = 0; i < jobs->len; i++) {
        qemuMonitorJobInfo *job = g_ptr_array_index(jobs, i);

        if (ferryMigrationJobEnded(job)) {
            ferryMigrationReportFailure(op, job->id + strlen(prefix), job->error);
            return -1;
        }
    }

    if (jobs->len < ferryMigrationOf(op)->ndisks) {
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("a mirror of a disk of domain '%1$s' is gone"), op->vm->def->name);
        return -1;
    }

    return 0;
}


/**
 * ferryMigrationCheckRunning:
 *
 * Returns 0, or -1 with an error reported if one of @jobs is stopped because it could not
 * write. Not for use before the memory moves, when such a mirror may try again.
 */
int
ferryMigrationCheckRunning(ferryOp *op,
                           GPtrArray *jobs)
{
    g_autofree char *stopped = ferryMigrationFindStopped(op, jobs, /* resume= */ false);

    if (!stopped)
        return 0;

    ferryMigrationReportFailure(op, stopped, _("its connection was lost"));
    return -1;
}


/**
 * ferryMigrationShare:
 * @bandwidth: bytes/s of all mirrors together; 0: unlimited
 * @ndisks: number of mirrors, of which @ready are READY; both may be 0
 *
 * Returns the bytes/s of each mirror that is to get a share. 0 stands for unlimited, so
 * the share of a limited bandwidth is never 0.
 */
unsigned long long
ferryMigrationShare(unsigned long long bandwidth,
                    size_t ndisks,
                    size_t ready)
{
    size_t sharers = ready < ndisks ? ndisks - ready : ndisks;

    if (bandwidth == 0)
        return 0;

    return MAX(bandwidth / MAX(sharers, 1), 1);
}


/**
 * ferryMigrationBalance:
 *
 * Divides the bandwidth among @jobs, which are all mirrors. A READY mirror copies only
 * what the guest writes, so the others share the bandwidth until all mirrors are READY.
 * Returns 0, or -1 with an error reported.
 */
int
ferryMigrationBalance(ferryOp *op,
                      GPtrArray *jobs)
{
    ferryMigration *migration = ferryMigrationOf(op);
    unsigned long long share;
    size_t ready = 0;
    bool all;
    size_t i;
    int rc = 0;

    for (i = 0; i < jobs->len; i++) {
        qemuMonitorJobInfo *job = g_ptr_array_index(jobs, i);

        ready += ferryJobStatusIsReady(job->status);
    }

    all = ready >= migration->ndisks;
    share = ferryMigrationShare(migration->bandwidth, migration->ndisks, ready);

    qemuDomainObjEnterMonitor(op->vm);
    for (i = 0; i < jobs->len && rc == 0; i++) {
        qemuMonitorJobInfo *job = g_ptr_array_index(jobs, i);

        if (all || !ferryJobStatusIsReady(job->status))
            rc = qemuMonitorBlockJobSetSpeed(qemuDomainGetMonitor(op->vm), job->id, share);
    }
    qemuDomainObjExitMonitor(op->vm);

    return rc;
}


static int
ferryMigrationReportGone(ferryOp *op,
                         const ferryMigrationReadiness *readiness)
{
    if (readiness->silent > 0)
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("the destination of domain '%1$s' did not answer for %2$u seconds: look at the "
                         "network, or at migrate_reconnect in ferry.conf"),
                       op->vm->def->name, ferryConfigGet()->migrateReconnect);
    else
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("the destination does not take disks of domain '%1$s' any more: its QEMU has "
                         "ended; see the log there"),
                       op->vm->def->name);

    return -1;
}


/**
 * ferryMigrationAwaitReady:
 *
 * The step "ready": waits until all mirrors are READY, and so follow the guest's writes.
 */
int
ferryMigrationAwaitReady(ferryOp *op)
{
    ferryMigration *migration = ferryMigrationOf(op);
    ferryMigrationReadiness readiness = { .op = op, .probe = -1 };
    int rc = 0;

    while (rc == 0 && readiness.known < migration->ndisks) {
        g_autoptr(GPtrArray) jobs = ferryJobWaitUntil(op, "", /* timeout= */ 0,
                                                      ferryMigrationMoved, &readiness);

        if (jobs)
            ferryMigrationTellReady(op, jobs);

        if (!jobs || ferryMigrationCheckJobs(op, jobs) < 0)
            rc = -1;
        else if (readiness.gone)
            rc = ferryMigrationReportGone(op, &readiness);
        else if (migration->bandwidth > 0)
            rc = ferryMigrationBalance(op, jobs);

        readiness.known = readiness.ready;
    }

    VIR_FORCE_CLOSE(readiness.probe);
    return rc;
}


/**
 * ferryMigrationAwaitLevel:
 *
 * The step "level": waits until the mirrors have copied most of what the guest has
 * written meanwhile. What is left at the switchover is copied while the guest is paused.
 */
int
ferryMigrationAwaitLevel(ferryOp *op)
{
    ferryMigrationReadiness readiness = { .op = op, .probe = -1, .level = true };
    g_autoptr(GPtrArray) jobs = ferryJobWaitUntil(op, "", /* timeout= */ 0,
                                                  ferryMigrationMoved, &readiness);

    VIR_FORCE_CLOSE(readiness.probe);

    if (!jobs || ferryMigrationCheckJobs(op, jobs) < 0)
        return -1;

    return readiness.gone ? ferryMigrationReportGone(op, &readiness) : 0;
}
