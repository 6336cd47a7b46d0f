/*
 * source.c: storage migration: the source's steps
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Theory of operation
 *
 * The stock driver moves the memory, and calls us at three moments of its
 * perform phase, all in the thread of that call:
 *
 *  - when the migration's parameters are set and nothing has begun: every disk
 *    is mirrored to what the destination exports, until all mirrors are READY;
 *  - when the guest is paused and the memory is there: all mirrors are finished
 *    together and their nodes go, so that nothing but the guest's images is
 *    left to hand over;
 *  - when it gives up, before it lets go of the domain's job: everything is
 *    taken back.
 *
 * The steps are here, the calls in perform.c.
 *
 * What the mirrors wrote is a copy: until the destination has started the guest
 * the source can go on as if nothing had been, which is why there is no point
 * of no return here.
 */

#include <config.h>

#include "block/node.h"
#include "block/qmp.h"
#include "block/source.h"
#include "engine/engine.h"
#include "engine/plan.h"
#include "engine/wait.h"
#include "ops/migration/outgoing.h"
#include "ops/migration/ready.h"
#include "ops/migration/source.h"
#include "qemu/qemu_block.h"
#include "qemu/qemu_monitor.h"
#include "virerror.h"
#include "virlog.h"
#include "virxml.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.migration");

/* What the mirrors still have to do while the guest is paused is little. It
 * must not wait for a network that is away just then. */
#define FERRY_MIGRATION_FINISH_MS (30 * 1000)


static virDomainDiskDef *
ferryMigrationDomainDisk(ferryOp *op,
                         ferryMigrationDisk *disk)
{
    return virDomainDiskByTarget(op->vm->def, disk->dst);
}


static void
ferryMigrationRemoveNodes(ferryOp *op)
{
    ferryMigration *migration = ferryMigrationOf(op);
    size_t i;

    for (i = 0; i < migration->ndisks; i++)
        ferryNodeRemoveStorage(op->vm, migration->disks[i].target);
}


/* cache, restore: reading past the page cache costs a fraction of the CPU, and
 * leaves the guest's data in it. Only while all is copied: nothing of this is to
 * be done when the guest is paused. */
static void
ferryMigrationSetCache(ferryOp *op,
                       bool direct)
{
    ferryMigration *migration = ferryMigrationOf(op);
    size_t i;

    for (i = 0; i < migration->ndisks; i++) {
        ferryNodeReadDirect(op->vm, ferryMigrationDomainDisk(op, &migration->disks[i]),
                            migration->shallow, direct);
    }
}


static int
ferryMigrationCacheOff(ferryOp *op)
{
    ferryMigrationSetCache(op, true);
    return 0;
}


static void
ferryMigrationCacheBack(ferryOp *op)
{
    ferryMigrationSetCache(op, false);
}


static int
ferryMigrationRestoreCache(ferryOp *op)
{
    ferryMigrationCacheBack(op);
    return 0;
}


/* QEMU would notice, but say less. */
static int
ferryMigrationCheckSize(ferryOp *op,
                        ferryMigrationDisk *disk)
{
    unsigned long long sizes[2];

    if (ferryNodeCapacities(op->vm, ferryMigrationDomainDisk(op, disk)->src->nodeformat,
                            disk->target->nodestorage, sizes) < 0)
        return -1;

    if (sizes[0] == sizes[1])
        return 0;

    virReportError(VIR_ERR_OPERATION_FAILED,
                   _("disk '%1$s' of domain '%2$s' has %3$llu bytes, but its image at the "
                     "destination has %4$llu: remove that one, or give it the disk's size"),
                   disk->dst, op->vm->def->name, sizes[0], sizes[1]);
    return -1;
}


static int
ferryMigrationMirrorDisk(ferryOp *op,
                         ferryMigrationDisk *disk)
{
    ferryMigration *migration = ferryMigrationOf(op);
    virDomainDiskDef *def = ferryMigrationDomainDisk(op, disk);
    g_autofree char *jobname = ferryJobName(op, disk->dst);
    const ferryMirrorParams params = {
        .source = qemuDomainDiskGetTopNodename(def),
        .target = disk->target->nodestorage,
        .shallow = migration->shallow || ferrySourceIsOneRawLayer(def->src),
        .synchronous = migration->synchronous,
        .bandwidth = migration->bandwidth / migration->ndisks,
        .bufSize = migration->bufSize,
        .patient = true,
    };

    if (ferryNodeAddNBD(op->vm, disk->target) < 0 ||
        ferryMigrationCheckSize(op, disk) < 0)
        return -1;

    return ferryQMPMirror(op->vm, jobname, &params);
}


/* mirror: disk by disk: QEMU takes a tenth of a second to connect over TCP, in
 * which the disks before are being copied already */
static int
ferryMigrationMirror(ferryOp *op)
{
    ferryMigration *migration = ferryMigrationOf(op);
    size_t i;

    for (i = 0; i < migration->ndisks; i++) {
        if (ferryMigrationMirrorDisk(op, &migration->disks[i]) < 0)
            return -1;
    }

    return 0;
}


static void
ferryMigrationUnmirror(ferryOp *op)
{
    ferryMigrationYank(op);

    if (ferryJobKillAll(op, "", NULL) < 0)
        VIR_WARN("mirrors of domain '%s' do not end: %s",
                 op->vm->def->name, virGetLastErrorMessage());

    ferryMigrationRemoveNodes(op);
}


const ferryPlan ferryMigrationStoragePlan = {
    .name = "storage",
    .steps = (const ferryStep[]) {
        { .name = "cache", .run = ferryMigrationCacheOff, .undo = ferryMigrationCacheBack },
        { .name = "mirror", .run = ferryMigrationMirror, .undo = ferryMigrationUnmirror },
        { .name = "ready", .run = ferryMigrationAwaitReady },
        { .name = "restore", .run = ferryMigrationRestoreCache },
        { .name = "level", .run = ferryMigrationAwaitLevel },
        { 0 },
    },
};


/* All have ended, or one never will: the guest is waiting. */
static bool
ferryMigrationFinished(GPtrArray *jobs,
                       void *opaque)
{
    g_autofree char *stopped = NULL;
    size_t i;

    for (i = 0; i < jobs->len; i++) {
        qemuMonitorJobInfo *job = g_ptr_array_index(jobs, i);

        if (job->status != QEMU_MONITOR_JOB_STATUS_CONCLUDED)
            break;
    }

    if (i == jobs->len)
        return true;

    stopped = ferryMigrationFindStopped(opaque, jobs, false);
    return stopped;
}


/* finish: the guest is paused: one last look at all disks, together */
static int
ferryMigrationFinish(ferryOp *op)
{
    ferryMigration *migration = ferryMigrationOf(op);
    g_autofree char *failed = NULL;
    g_autofree char *error = NULL;
    g_autoptr(GPtrArray) jobs = NULL;
    g_autoptr(GPtrArray) ended = NULL;
    size_t i;
    int rc = 0;

    /* one that was lost by now must not be taken for one that is done */
    if (!(jobs = ferryJobList(op, "")) || ferryMigrationCheckJobs(op, jobs) < 0 ||
        ferryMigrationCheckRunning(op, jobs) < 0)
        return -1;

    qemuDomainObjEnterMonitor(op->vm);
    for (i = 0; i < migration->ndisks && rc == 0; i++) {
        g_autofree char *jobname = ferryJobName(op, migration->disks[i].dst);

        rc = qemuMonitorBlockJobCancel(qemuDomainGetMonitor(op->vm), jobname, false);
    }
    qemuDomainObjExitMonitor(op->vm);

    if (rc < 0 ||
        !(ended = ferryJobWaitUntil(op, "", FERRY_MIGRATION_FINISH_MS, ferryMigrationFinished, op)) ||
        ferryMigrationCheckRunning(op, ended) < 0 ||
        /* who was told that it is aborted must not find it done */
        op->klass->mayWait(op) < 0)
        return -1;

    ferryJobConclude(op, "", ended, &failed, &error);
    if (error) {
        ferryMigrationReportFailure(op, failed, error);
        return -1;
    }

    return 0;
}


/* disconnect: QEMU hands over only what is the guest's. All is written and
 * flushed by now. */
static int
ferryMigrationRunDisconnect(ferryOp *op)
{
    ferryMigrationRemoveNodes(op);
    return 0;
}


const ferryPlan ferryMigrationFinishPlan = {
    .name = "finish",
    .steps = (const ferryStep[]) {
        { .name = "finish", .run = ferryMigrationFinish },
        { .name = "disconnect", .run = ferryMigrationRunDisconnect },
        { 0 },
    },
};


static int
ferryMigrationFormat(ferryOp *op,
                     virBuffer *buf)
{
    ferryMigration *migration = ferryMigrationOf(op);
    size_t i;

    for (i = 0; i < migration->ndisks; i++)
        virBufferEscapeString(buf, "<disk name='%s'/>\n", migration->disks[i].dst);

    return 0;
}


static void *
ferryMigrationParse(virQEMUDriver *driver G_GNUC_UNUSED,
                    xmlXPathContextPtr ctxt)
{
    ferryMigration *migration = g_new0(ferryMigration, 1);
    g_autofree xmlNodePtr *nodes = NULL;
    int n = virXPathNodeSet("./disk", ctxt, &nodes);
    int i;

    if (n <= 0) {
        virReportError(VIR_ERR_XML_DETAIL, "%s", _("disks are missing"));
        goto error;
    }

    migration->disks = g_new0(ferryMigrationDisk, n);

    for (i = 0; i < n; i++) {
        if (!(migration->disks[i].dst = virXMLPropStringRequired(nodes[i], "name")))
            goto error;
        migration->disks[i].target = ferryMigrationTargetNew(migration->disks[i].dst);
        migration->ndisks++;
    }

    return migration;

 error:
    ferryMigrationFree(migration);
    return NULL;
}


/* What the thread that performs the migration waits for. */
static bool
ferryMigrationJobMatters(ferryOp *op,
                         int status)
{
    if (op->driven && status == QEMU_MONITOR_JOB_STATUS_READY)
        return true;

    return status == QEMU_MONITOR_JOB_STATUS_PAUSED ||
           status == QEMU_MONITOR_JOB_STATUS_STANDBY ||
           status == QEMU_MONITOR_JOB_STATUS_CONCLUDED;
}


static int
ferryMigrationMayWait(ferryOp *op)
{
    virDomainObj *vm = op->vm;

    if (ferryMigrationOf(op)->lost) {
        virReportError(VIR_ERR_OPERATION_FAILED, "%s", _("Lost connection to destination host"));
        return -1;
    }

    if (!vm->job->abortJob && !ferryMigrationOf(op)->aborted)
        return 0;

    if (vm->job->current)
        vm->job->current->status = VIR_DOMAIN_JOB_STATUS_CANCELED;

    virReportError(VIR_ERR_OPERATION_ABORTED, _("%1$s: %2$s"),
                   virDomainAsyncJobTypeToString(vm->job->asyncJob), _("canceled by client"));
    return -1;
}


/* There is no use in moving the memory any more. The thread that waits for it
 * takes everything back. */
static void
ferryMigrationCancelMemory(ferryOp *op)
{
    ferryMigrationOf(op)->error = virSaveLastError();

    /* QEMU drains all nodes when it gives up */
    ferryMigrationYank(op);

    qemuDomainObjEnterMonitor(op->vm);
    ignore_value(qemuMonitorMigrateCancel(qemuDomainGetMonitor(op->vm)));
    qemuDomainObjExitMonitor(op->vm);
}


/* A mirror ended, or the destination is lost, while the memory moves. */
static void
ferryMigrationJobChanged(ferryOp *op)
{
    ferryMigration *migration = ferryMigrationOf(op);
    g_autoptr(GPtrArray) jobs = NULL;

    if (migration->error || !(jobs = ferryJobList(op, "")))
        return;

    if (ferryMigrationCheckJobs(op, jobs) < 0 || ferryMigrationCheckRunning(op, jobs) < 0 ||
        ferryMigrationMayWait(op) < 0)
        ferryMigrationCancelMemory(op);
}


/* The call that migrated ended with its driver, and the stock driver cancels
 * the rest. */
static void
ferryMigrationRecover(ferryOp *op)
{
    if (ferryPlanUndo(op, &ferryMigrationFinishPlan) == 0 &&
        ferryPlanUndo(op, &ferryMigrationStoragePlan) == 0)
        ferryOpEnd(op);
}


const ferryOpClass ferryMigrationClass = {
    .name = "migration",
    .job = VIR_JOB_MODIFY_MIGRATION_SAFE,
    .plans = (const ferryPlan *const[]) { &ferryMigrationStoragePlan, &ferryMigrationFinishPlan, NULL },
    .format = ferryMigrationFormat,
    .parse = ferryMigrationParse,
    .dataFree = ferryMigrationFree,
    .jobMatters = ferryMigrationJobMatters,
    .mayWait = ferryMigrationMayWait,
    .jobChanged = ferryMigrationJobChanged,
    .recover = ferryMigrationRecover,
    .stopped = ferryOpEnd,
};
