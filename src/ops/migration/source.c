/*
 * source.c: storage migration: the source's steps
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Theory of operation
 *
 * The stock driver moves the memory. Its perform phase calls us in its own thread:
 *
 *  - when QEMU has the migration's parameters and the memory does not move yet: mirror
 *    all disks to the destination's exports, until all are READY (plan "storage");
 *  - when the guest is paused and QEMU waits for the command to switch over: complete all
 *    mirrors together and remove the NBD nodes (plan "finish");
 *  - when the phase has failed and still has the domain's job: undo everything.
 *
 * This file has the steps. perform.c has the functions that the perform phase calls.
 *
 * The mirrors only write copies. Until the destination has started the guest, the guest
 * can go on here with its own images; so there is no point of no return.
 */

#include <config.h>

#include "block/cache.h"
#include "block/like.h"
#include "block/node.h"
#include "block/nodename.h"
#include "block/qmp.h"
#include "block/source.h"
#include "engine/engine.h"
#include "engine/plan.h"
#include "engine/wait.h"
#include "ops/migration/outgoing.h"
#include "ops/migration/ready.h"
#include "ops/migration/source.h"
#include "ops/migration/view.h"
#include "qemu/qemu_block.h"
#include "qemu/qemu_monitor.h"
#include "virerror.h"
#include "virlog.h"
#include "virxml.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.migration");

/* The most that completing the mirrors may take. The guest is paused meanwhile; the
 * mirrors have little left to copy, and must not wait for a lost network. */
#define FERRY_MIGRATION_FINISH_MS (30 * 1000)


/* Returns the domain's disk, borrowed. It is there until the migration ends, also while we
 * wait: the asynchronous job of a migration lets in nobody who could unplug a disk. */
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


/* cache, restore: Reads that bypass the page cache cost a fraction of the CPU time and
 * evict no data of the guest. Both steps come before the guest is paused. */
static void
ferryMigrationSetCache(ferryOp *op,
                       bool direct)
{
    ferryMigration *migration = ferryMigrationOf(op);
    size_t i;

    for (i = 0; i < migration->ndisks; i++) {
        virDomainDiskDef *disk = ferryMigrationDomainDisk(op, &migration->disks[i]);

        ferryNodeReadDirect(op->vm, disk, disk && migration->shallow ? disk->src->backingStore : NULL,
                            direct);
    }
}


static int
ferryMigrationCacheOff(ferryOp *op)
{
    ferryMigrationSetCache(op, /* direct= */ true);
    return 0;
}


static void
ferryMigrationCacheBack(ferryOp *op)
{
    ferryMigrationSetCache(op, /* direct= */ false);
}


/* The mirrors are about to end: the guest must stay on the files that it uses. */
static void
ferryMigrationHoldSources(ferryOp *op)
{
    ferryMigration *migration = ferryMigrationOf(op);
    size_t i;

    for (i = 0; i < migration->ndisks; i++)
        ferryNodeHoldSource(op->vm, ferryMigrationDomainDisk(op, &migration->disks[i]));
}


static int
ferryMigrationRestoreCache(ferryOp *op)
{
    ferryMigrationCacheBack(op);
    return 0;
}


/* QEMU would refuse other sizes, too, but its message would say less. Also sets @granularity to
 * that of the mirror: an image that the destination creates has the properties of this one. */
static int
ferryMigrationCheckSize(ferryOp *op,
                        ferryMigrationDisk *disk,
                        unsigned long long *granularity)
{
    g_autoptr(GHashTable) nodes = ferryNodeData(op->vm);
    virStorageSource *src = ferryMigrationDomainDisk(op, disk)->src;
    unsigned long long sizes[2];

    if (!nodes ||
        ferryNodeCapacity(nodes, ferryNodeName(src), &sizes[0]) < 0 ||
        ferryNodeCapacity(nodes, ferryNodeStorage(disk->target), &sizes[1]) < 0)
        return -1;

    *granularity = ferryLikeGranularity(nodes, ferryNodeName(src));

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
    ferryMirrorParams params = {
        .source = qemuDomainDiskGetTopNodename(def),
        .target = ferryNodeStorage(disk->target),
        .shallow = migration->shallow || ferrySourceIsOneRawLayer(def->src),
        .synchronous = migration->synchronous,
        .bandwidth = ferryMigrationShare(migration->bandwidth, migration->ndisks, /* ready= */ 0),
        .bufSize = migration->bufSize,
        .patient = true,
    };

    if (ferryNodeAddNBD(op->vm, disk->target) < 0 ||
        ferryMigrationCheckSize(op, disk, &params.granularity) < 0)
        return -1;

    if (ferryQMPMirror(op->vm, jobname, &params) < 0)
        return -1;

    disk->mirrored = true;
    return 0;
}


/* mirror: one by one; QEMU takes 0.1 s to connect over TCP, while earlier mirrors copy */
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
    g_autoptr(GPtrArray) jobs = NULL;

    ferryMigrationYank(op);
    ferryMigrationHoldSources(op);

    if (!(jobs = ferryJobList(op, "")) || ferryJobKillAll(op, "", jobs) < 0)
        VIR_WARN("the mirrors of the disks of domain '%s' do not end: %s",
                 op->vm->def->name, virGetLastErrorMessage());
    else if (!ferryOpIsLost(op))
        ferryMigrationTellEnded(op, jobs, /* failed= */ true);

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


/* Returns true if all mirrors have ended, or if a stopped one never will on its own. */
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

    stopped = ferryMigrationFindStopped(opaque, jobs, /* resume= */ false);
    return stopped;
}


/* finish: complete all mirrors together, while the guest is paused */
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

    /* later a mirror that is lost by now could not be told from a complete one */
    if (!(jobs = ferryJobList(op, "")) || ferryMigrationCheckJobs(op, jobs) < 0 ||
        ferryMigrationCheckRunning(op, jobs) < 0)
        return -1;

    /* the guest may have to go on here */
    ferryMigrationHoldSources(op);

    qemuDomainObjEnterMonitor(op->vm);
    for (i = 0; i < migration->ndisks && rc == 0; i++) {
        g_autofree char *jobname = ferryJobName(op, migration->disks[i].dst);

        rc = qemuMonitorBlockJobCancel(qemuDomainGetMonitor(op->vm), jobname,
                                       /* force= */ false);
    }
    qemuDomainObjExitMonitor(op->vm);

    if (rc < 0 ||
        !(ended = ferryJobWaitUntil(op, "", FERRY_MIGRATION_FINISH_MS, ferryMigrationFinished, op)) ||
        ferryMigrationCheckRunning(op, ended) < 0 ||
        /* a client whose abort has succeeded must not see the migration succeed */
        op->klass->mayWait(op) < 0)
        return -1;

    ferryJobConclude(op, "", ended, &failed, &error);
    ferryMigrationTellEnded(op, ended, /* failed= */ false);
    if (error) {
        ferryMigrationReportFailure(op, failed, error);
        return -1;
    }

    return 0;
}


/* disconnect: leave QEMU only the guest's nodes. The mirrors have flushed everything. */
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


/* READY matters to a waiting thread; the other states may mean that a mirror failed. */
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


/* Cancels the migration of the memory; its thread then undoes that of the disks, too. */
static void
ferryMigrationCancelMemory(ferryOp *op)
{
    ferryMigrationOf(op)->error = virSaveLastError();

    /* QEMU drains all nodes when a migration is cancelled */
    ferryMigrationYank(op);

    qemuDomainObjEnterMonitor(op->vm);
    ignore_value(qemuMonitorMigrateCancel(qemuDomainGetMonitor(op->vm)));
    qemuDomainObjExitMonitor(op->vm);
}


/**
 * ferryMigrationTakeBack:
 *
 * The migration has failed: undoes what was done for the disks, and ends the operation. If that cannot be
 * done yet, it is tried again after a while (retry.c), and by the next driver. Domain locked,
 * job held.
 */
void
ferryMigrationTakeBack(ferryOp *op)
{
    if (ferryPlanUndo(op, &ferryMigrationFinishPlan) == 0 &&
        ferryPlanUndo(op, &ferryMigrationStoragePlan) == 0 && !op->over)
        ferryOpEnd(op);
}


/* The memory moves, and a mirror's state changed or the destination's driver was lost. */
static void
ferryMigrationJobChanged(ferryOp *op)
{
    ferryMigration *migration = ferryMigrationOf(op);
    g_autoptr(GPtrArray) jobs = NULL;

    if (op->stuck) {
        ferryMigrationTakeBack(op);
        return;
    }

    if (migration->error || !(jobs = ferryJobList(op, "")))
        return;

    if (ferryMigrationCheckJobs(op, jobs) < 0 || ferryMigrationCheckRunning(op, jobs) < 0 ||
        ferryMigrationMayWait(op) < 0)
        ferryMigrationCancelMemory(op);
}


static char *
ferryMigrationDescribe(ferryOp *op G_GNUC_UNUSED,
                       const char *name)
{
    return g_strdup_printf(_("migration of the disks of domain '%1$s'"), name);
}


const ferryOpClass ferryMigrationClass = {
    .name = "migration",
    .job = VIR_JOB_MODIFY_MIGRATION_SAFE,
    .plans = (const ferryPlan *const[]) { &ferryMigrationStoragePlan, &ferryMigrationFinishPlan, NULL },
    .describe = ferryMigrationDescribe,
    .format = ferryMigrationFormat,
    .parse = ferryMigrationParse,
    .dataFree = ferryMigrationFree,
    .jobMatters = ferryMigrationJobMatters,
    .mayWait = ferryMigrationMayWait,
    .blockJob = &ferryMigrationBlockJob,
    .jobChanged = ferryMigrationJobChanged,
    .recover = ferryMigrationTakeBack, /* the stock driver cancels the migration of the memory */
    .stopped = ferryOpEnd,
};
