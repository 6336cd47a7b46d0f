/*
 * migration_source.c: storage migration: the source's steps
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
 * What the mirrors wrote is a copy: until the destination has started the guest
 * the source can go on as if nothing had been, which is why there is no point
 * of no return here.
 */

#include <config.h>

#include "block/node.h"
#include "block/qmp.h"
#include "ops/config.h"
#include "ops/migration.h"
#include "qemu/qemu_alias.h"
#include "qemu/qemu_block.h"
#include "qemu/qemu_domainjob.h"
#include "qemu/qemu_migration.h"
#include "qemu/qemu_monitor.h"
#include "qemu/qemu_security.h"
#include "viralloc.h"
#include "virerror.h"
#include "virfile.h"
#include "virlog.h"
#include "virtime.h"
#include "virxml.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.migration");

/* Data in flight over all mirrors. QEMU's own 16 MiB starve a TCP connection, 32
 * still do; more than this gains nothing, and QEMU gives the memory back while
 * the guest waits. */
#define FERRY_MIGRATION_BUF_SIZE (64ULL * 1024 * 1024)
#define FERRY_MIGRATION_BUF_SIZE_MIN (16ULL * 1024 * 1024)

/* What the mirrors still have to do while the guest is paused is little. It
 * must not wait for a network that is away just then. */
#define FERRY_MIGRATION_FINISH_MS (30 * 1000)

/* The perform phase that this thread is in, if any. */
typedef struct {
    const ferryMigrationRequest *req;
    ferryOp *op;   /* once the storage is on its way: reference */
    bool tried;    /* to finish the mirrors, whether or not with success */
} ferryMigrationCall;

static __thread ferryMigrationCall call;


static void
ferryMigrationFree(void *opaque)
{
    ferryMigration *migration = opaque;
    size_t i;

    for (i = 0; i < migration->ndisks; i++) {
        g_free(migration->disks[i].dst);
        virObjectUnref(migration->disks[i].target);
    }

    g_free(migration->disks);
    virStorageNetHostDefClear(&migration->server);
    virFreeError(migration->error);
    g_free(migration);
}


static virDomainDiskDef *
ferryMigrationDomainDisk(ferryOp *op,
                         ferryMigrationDisk *disk)
{
    return virDomainDiskByTarget(op->vm->def, disk->dst);
}


/* The nodes by which this QEMU knows what the destination exports. */
static virStorageSource *
ferryMigrationTargetNew(const char *dst)
{
    virStorageSource *target = virStorageSourceNew();

    target->type = VIR_STORAGE_TYPE_NETWORK;
    target->protocol = VIR_STORAGE_NET_PROTOCOL_NBD;
    target->format = VIR_STORAGE_FILE_RAW;
    target->nodestorage = g_strdup_printf("ferry-%s-nbd", dst);
    target->nodeformat = g_strdup_printf("ferry-%s-nbd-raw", dst);

    return target;
}


/* connect: to the exports */
static int
ferryMigrationConnect(ferryOp *op)
{
    ferryMigration *migration = op->data;
    size_t i;

    for (i = 0; i < migration->ndisks; i++) {
        if (ferryNodeAddNBD(op->vm, migration->disks[i].target,
                            ferryConfigGet()->migrateReconnect) < 0)
            return -1;
    }

    return 0;
}


/* What is in flight, and closing a node flushes it, would wait as long as TCP
 * does and then for a new connection, and QEMU's main loop with it. */
static void
ferryMigrationYank(ferryOp *op)
{
    ferryMigration *migration = op->data;
    size_t i;

    for (i = 0; i < migration->ndisks; i++)
        ferryQMPYank(op->vm, migration->disks[i].target->nodestorage);
}


static void
ferryMigrationRemoveNodes(ferryOp *op)
{
    ferryMigration *migration = op->data;
    size_t i;

    for (i = 0; i < migration->ndisks; i++)
        ferryNodeRemoveStorage(op->vm, migration->disks[i].target);
}


static void
ferryMigrationDisconnect(ferryOp *op)
{
    ferryMigrationYank(op);
    ferryMigrationRemoveNodes(op);
}


/* size: QEMU would notice, disk after disk, and say less */
static int
ferryMigrationCheckSizes(ferryOp *op)
{
    ferryMigration *migration = op->data;
    g_autoptr(GHashTable) nodes = qemuBlockGetNamedNodeData(op->vm, VIR_ASYNC_JOB_NONE);
    size_t i;

    if (!nodes)
        return -1;

    for (i = 0; i < migration->ndisks; i++) {
        ferryMigrationDisk *disk = &migration->disks[i];
        const char *name = ferryMigrationDomainDisk(op, disk)->src->nodeformat;
        qemuBlockNamedNodeData *source = virHashLookup(nodes, name);
        qemuBlockNamedNodeData *target = virHashLookup(nodes, disk->target->nodestorage);

        if (!source || !target) {
            virReportError(VIR_ERR_INTERNAL_ERROR, _("QEMU knows no block node '%s'"),
                           source ? disk->target->nodestorage : name);
            return -1;
        }

        if (source->capacity == target->capacity)
            continue;

        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("disk '%s' of domain '%s' has %llu bytes, but its image at the "
                         "destination has %llu: remove that one, or give it the disk's size"),
                       disk->dst, op->vm->def->name, source->capacity, target->capacity);
        return -1;
    }

    return 0;
}


/* cache, restore: reading past the page cache costs a fraction of the CPU, and
 * leaves the guest's data in it. Only while all is copied: nothing of this is to
 * be done when the guest is paused. */
static void
ferryMigrationSetCache(ferryOp *op,
                       bool direct)
{
    ferryMigration *migration = op->data;
    size_t i;

    for (i = 0; i < migration->ndisks; i++) {
        virDomainDiskDef *disk = ferryMigrationDomainDisk(op, &migration->disks[i]);
        virStorageSource *n;

        for (n = disk->src; virStorageSourceIsBacking(n); n = n->backingStore) {
            ferryNodeBypassCache(op->vm, disk, n, direct);

            if (migration->shallow)
                break;
        }
    }
}


static int
ferryMigrationCacheOff(ferryOp *op)
{
    ferryMigrationSetCache(op, true);
    return 0;
}


static int
ferryMigrationCacheOn(ferryOp *op)
{
    ferryMigrationSetCache(op, false);
    return 0;
}


static void
ferryMigrationCacheBack(ferryOp *op)
{
    ferryMigrationSetCache(op, false);
}


/* mirror: all disks. A full mirror to a target where zeroes may become holes begins with zeroing all
 * of it, which in a raw image costs as much as writing it. One that is a single
 * raw layer has no range that a mirror of the top layer would leave out, its
 * holes being zeroes: it need not begin so. */
static bool
ferryMigrationIsOneLayer(virStorageSource *src)
{
    return src->format == VIR_STORAGE_FILE_RAW && !virStorageSourceHasBacking(src);
}


static int
ferryMigrationMirror(ferryOp *op)
{
    ferryMigration *migration = op->data;
    size_t i;

    for (i = 0; i < migration->ndisks; i++) {
        ferryMigrationDisk *disk = &migration->disks[i];
        g_autofree char *jobname = ferryJobName(op, disk->dst);
        virDomainDiskDef *def = ferryMigrationDomainDisk(op, disk);
        const ferryMirrorParams params = {
            .source = qemuDomainDiskGetTopNodename(def),
            .target = disk->target->nodestorage,
            .shallow = migration->shallow || ferryMigrationIsOneLayer(def->src),
            .synchronous = migration->synchronous,
            .bandwidth = migration->bandwidth / migration->ndisks,
            .bufSize = MAX(FERRY_MIGRATION_BUF_SIZE / migration->ndisks,
                           FERRY_MIGRATION_BUF_SIZE_MIN),
        };

        if (ferryQMPMirror(op->vm, jobname, &params) < 0)
            return -1;
    }

    return 0;
}


static void
ferryMigrationUnmirror(ferryOp *op)
{
    ferryMigrationYank(op);

    if (ferryJobKillAll(op, "") < 0)
        VIR_WARN("mirrors of domain '%s' do not end: %s",
                 op->vm->def->name, virGetLastErrorMessage());
}


/* ready: source and destination are the same, and stay so */
static bool
ferryMigrationJobIsReady(qemuMonitorJobInfo *job)
{
    return job->status == QEMU_MONITOR_JOB_STATUS_READY ||
           job->status == QEMU_MONITOR_JOB_STATUS_STANDBY;
}


static bool
ferryMigrationJobEnded(qemuMonitorJobInfo *job)
{
    return job->status == QEMU_MONITOR_JOB_STATUS_ABORTING ||
           job->status == QEMU_MONITOR_JOB_STATUS_CONCLUDED;
}


static void
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


/* How many mirrors are READY, and were when anybody last acted upon that. */
typedef struct {
    ferryOp *op;
    size_t ready;
    size_t known;
    unsigned long long copied; /* bytes, when last looked at */
    int probe;                 /* for ferryExportServerProbe() */
    unsigned long long silent; /* ms: since when the destination does not answer; 0: it does */
    bool gone;                 /* the destination */
} ferryMigrationReadiness;


/* Nothing was copied since the last look: is the destination there? QEMU would
 * wait for as long as TCP does, and then for as long as it is told to. */
static bool
ferryMigrationDestinationIsGone(ferryMigrationReadiness *readiness,
                                GPtrArray *jobs)
{
    ferryMigration *migration = readiness->op->data;
    unsigned long long before = readiness->copied;
    ferryExportState state = FERRY_EXPORT_ALIVE;
    unsigned long long now;
    size_t i;

    readiness->copied = 0;
    for (i = 0; i < jobs->len; i++)
        readiness->copied += ((qemuMonitorJobInfo *) g_ptr_array_index(jobs, i))->progressCurrent;

    if (readiness->copied == before && (migration->server.name || migration->server.socket))
        state = ferryExportServerProbe(&migration->server, &readiness->probe);

    if (state != FERRY_EXPORT_SILENT || virTimeMillisNow(&now) < 0) {
        readiness->silent = 0;
        return state == FERRY_EXPORT_GONE;
    }

    if (readiness->silent == 0)
        readiness->silent = now;

    return now - readiness->silent > ferryConfigGet()->migrateReconnect * 1000ULL;
}


/* Is there anything to act upon? One that failed ends the wait for the others. */
static bool
ferryMigrationMoved(GPtrArray *jobs,
                    void *opaque)
{
    ferryMigrationReadiness *readiness = opaque;
    virDomainObj *vm = readiness->op->vm;
    bool ended = jobs->len < ((ferryMigration *) readiness->op->data)->ndisks;
    size_t i;

    if (vm->job->current)
        ferryMigrationCount(jobs, vm->job->current);

    readiness->ready = 0;

    for (i = 0; i < jobs->len; i++) {
        qemuMonitorJobInfo *job = g_ptr_array_index(jobs, i);

        if (ferryMigrationJobIsReady(job))
            readiness->ready++;
        else if (ferryMigrationJobEnded(job))
            ended = true;
    }

    readiness->gone = ferryMigrationDestinationIsGone(readiness, jobs);

    return ended || readiness->gone || readiness->ready > readiness->known;
}


static void
ferryMigrationReportFailure(ferryOp *op,
                            const char *dst,
                            const char *error)
{
    virReportError(VIR_ERR_OPERATION_FAILED,
                   _("migration of disk '%s' of domain '%s' failed: %s"), dst, op->vm->def->name,
                   error ? error : _("its mirror ended; see the destination's log"));
}


static int
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

    if (jobs->len < ((ferryMigration *) op->data)->ndisks) {
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("a mirror of a disk of domain '%s' is gone"), op->vm->def->name);
        return -1;
    }

    return 0;
}


/* A disk that is READY has only what the guest writes left to copy: those that
 * are not share the bandwidth, until all are. */
static int
ferryMigrationBalance(ferryOp *op,
                      GPtrArray *jobs,
                      size_t ready)
{
    ferryMigration *migration = op->data;
    bool all = ready == migration->ndisks;
    unsigned long long share;
    size_t i;
    int rc = 0;

    if (migration->bandwidth == 0)
        return 0;

    share = MAX(migration->bandwidth / (all ? migration->ndisks : migration->ndisks - ready), 1);

    qemuDomainObjEnterMonitor(op->vm);
    for (i = 0; i < jobs->len && rc == 0; i++) {
        qemuMonitorJobInfo *job = g_ptr_array_index(jobs, i);

        if (all || !ferryMigrationJobIsReady(job))
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
                       _("the destination of domain '%s' did not answer for %u seconds: look at the "
                         "network, or at migrate_reconnect in ferry.conf"),
                       op->vm->def->name, ferryConfigGet()->migrateReconnect);
    else
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("the destination does not take disks of domain '%s' any more: its QEMU has "
                         "ended; see the log there"), op->vm->def->name);

    return -1;
}


static int
ferryMigrationAwaitReady(ferryOp *op)
{
    ferryMigration *migration = op->data;
    ferryMigrationReadiness readiness = { .op = op, .probe = -1 };
    int rc = 0;

    while (rc == 0 && readiness.known < migration->ndisks) {
        g_autoptr(GPtrArray) jobs = ferryJobWaitUntil(op, "", 0, ferryMigrationMoved, &readiness);

        if (!jobs || ferryMigrationCheckJobs(op, jobs) < 0)
            rc = -1;
        else if (readiness.gone)
            rc = ferryMigrationReportGone(op, &readiness);
        else
            rc = ferryMigrationBalance(op, jobs, readiness.ready);

        readiness.known = readiness.ready;
    }

    VIR_FORCE_CLOSE(readiness.probe);
    return rc;
}


static const ferryStep ferryMigrationStorageSteps[] = {
    { .name = "connect", .run = ferryMigrationConnect, .undo = ferryMigrationDisconnect },
    { .name = "size", .run = ferryMigrationCheckSizes },
    { .name = "cache", .run = ferryMigrationCacheOff, .undo = ferryMigrationCacheBack },
    { .name = "mirror", .run = ferryMigrationMirror, .undo = ferryMigrationUnmirror },
    { .name = "ready", .run = ferryMigrationAwaitReady },
    { .name = "restore", .run = ferryMigrationCacheOn },
    { 0 },
};

static const ferryPlan ferryMigrationStoragePlan = {
    .name = "storage", .steps = ferryMigrationStorageSteps
};


/* finish: the guest is paused: one last look at all disks, together */
static int
ferryMigrationFinish(ferryOp *op)
{
    ferryMigration *migration = op->data;
    g_autofree char *failed = NULL;
    g_autofree char *error = NULL;
    g_autoptr(GPtrArray) jobs = NULL;
    size_t i;
    int rc = 0;

    /* one that was lost by now must not be taken for one that is done */
    if (!(jobs = ferryJobList(op, "")) || ferryMigrationCheckJobs(op, jobs) < 0)
        return -1;

    qemuDomainObjEnterMonitor(op->vm);
    for (i = 0; i < migration->ndisks && rc == 0; i++) {
        g_autofree char *jobname = ferryJobName(op, migration->disks[i].dst);

        rc = qemuMonitorBlockJobCancel(qemuDomainGetMonitor(op->vm), jobname, false);
    }
    qemuDomainObjExitMonitor(op->vm);

    if (rc < 0 || ferryJobWaitAll(op, "", FERRY_MIGRATION_FINISH_MS, &failed, &error) < 0)
        return -1;

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


static const ferryStep ferryMigrationFinishSteps[] = {
    { .name = "finish", .run = ferryMigrationFinish },
    { .name = "disconnect", .run = ferryMigrationRunDisconnect },
    { 0 },
};

static const ferryPlan ferryMigrationFinishPlan = {
    .name = "finish", .steps = ferryMigrationFinishSteps
};


static int
ferryMigrationFormat(ferryOp *op,
                     virBuffer *buf)
{
    ferryMigration *migration = op->data;
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
    if (op->driven && (status == QEMU_MONITOR_JOB_STATUS_READY ||
                       status == QEMU_MONITOR_JOB_STATUS_STANDBY))
        return true;

    return status == QEMU_MONITOR_JOB_STATUS_CONCLUDED;
}


static int
ferryMigrationMayWait(ferryOp *op)
{
    virDomainObj *vm = op->vm;

    if (((ferryMigration *) op->data)->lost) {
        virReportError(VIR_ERR_OPERATION_FAILED, "%s", _("Lost connection to destination host"));
        return -1;
    }

    if (!vm->job->abortJob)
        return 0;

    if (vm->job->current)
        vm->job->current->status = VIR_DOMAIN_JOB_STATUS_CANCELED;

    virReportError(VIR_ERR_OPERATION_ABORTED, _("%s: %s"),
                   virDomainAsyncJobTypeToString(vm->job->asyncJob), _("canceled by client"));
    return -1;
}


/* There is no use in moving the memory any more. The thread that waits for it
 * takes everything back. */
static void
ferryMigrationCancelMemory(ferryOp *op)
{
    ((ferryMigration *) op->data)->error = virSaveLastError();

    qemuDomainObjEnterMonitor(op->vm);
    ignore_value(qemuMonitorMigrateCancel(qemuDomainGetMonitor(op->vm)));
    qemuDomainObjExitMonitor(op->vm);
}


/* A mirror ended, or the destination is lost, while the memory moves. */
static void
ferryMigrationJobChanged(ferryOp *op)
{
    g_autoptr(GPtrArray) jobs = NULL;

    if (((ferryMigration *) op->data)->error || !(jobs = ferryJobList(op, "")))
        return;

    if (ferryMigrationCheckJobs(op, jobs) < 0 || ferryMigrationMayWait(op) < 0)
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


static const ferryPlan *const ferryMigrationPlans[] = {
    &ferryMigrationStoragePlan,
    &ferryMigrationFinishPlan,
    NULL,
};

const ferryOpClass ferryMigrationClass = {
    .name = "migration",
    .job = VIR_JOB_MODIFY_MIGRATION_SAFE,
    .plans = ferryMigrationPlans,
    .format = ferryMigrationFormat,
    .parse = ferryMigrationParse,
    .dataFree = ferryMigrationFree,
    .jobMatters = ferryMigrationJobMatters,
    .mayWait = ferryMigrationMayWait,
    .jobChanged = ferryMigrationJobChanged,
    .recover = ferryMigrationRecover,
    .stopped = ferryOpEnd,
};


/* The perform phase owns the domain's asynchronous job; the engine takes and
 * gives back one of its own, which that lets in. */
static int
ferryMigrationEnter(virDomainObj *vm)
{
    qemuDomainObjReleaseAsyncJob(vm);

    if (virDomainObjBeginJob(vm, ferryMigrationClass.job) == 0)
        return 0;

    qemuDomainObjStartJobPhase(vm, vm->job->phase);
    return -1;
}


static void
ferryMigrationLeave(virDomainObj *vm)
{
    virDomainObjEndJob(vm);

    qemuDomainObjStartJobPhase(vm, vm->job->phase);
}


/* Where the exports of @migration are. */
static int
ferryMigrationLocate(virDomainObj *vm,
                     ferryMigration *migration,
                     const ferryMigrationRequest *req,
                     qemuMigrationParams *params)
{
    virQEMUDriver *driver = QEMU_DOMAIN_PRIVATE(vm)->driver;
    g_autofree char *tlsAlias = NULL;
    size_t i;

    if (req->address.transport == VIR_STORAGE_NET_HOST_TRANS_UNIX) {
        if (qemuSecurityDomainSetPathLabel(driver, vm, req->address.socket, false) < 0)
            return -1;
    } else if (req->address.port == 0 || !req->address.name) {
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("the destination does not say where it takes the disks of domain '%s'"),
                       vm->def->name);
        return -1;
    }

    migration->server.transport = req->address.transport;
    migration->server.port = req->address.port;
    migration->server.name = g_strdup(req->numeric);
    migration->server.socket = g_strdup(req->address.socket);

    if (req->flags & VIR_MIGRATE_TLS)
        tlsAlias = qemuAliasTLSObjFromSrcAlias(FERRY_MIGRATION_TLS_BASE);

    for (i = 0; i < migration->ndisks; i++) {
        virDomainDiskDef *disk = virDomainDiskByTarget(vm->def, migration->disks[i].dst);
        virStorageSource *target = migration->disks[i].target;

        if (!(target->path = qemuAliasDiskDriveFromDisk(disk)))
            return -1;

        target->hosts = virStorageNetHostDefCopy(1, (virStorageNetHostDef *) &req->address);
        target->nhosts = 1;

        if (tlsAlias) {
            target->haveTLS = VIR_TRISTATE_BOOL_YES;
            target->tlsAlias = g_strdup(tlsAlias);
            target->tlsHostname = g_strdup(qemuMigrationParamsGetTLSHostname(params));
        }
    }

    return 0;
}


static ferryMigration *
ferryMigrationPrepare(virDomainObj *vm,
                      const ferryMigrationRequest *req,
                      qemuMigrationParams *params)
{
    ferryMigration *migration = g_new0(ferryMigration, 1);
    size_t i;

    migration->shallow = req->flags & VIR_MIGRATE_NON_SHARED_INC;
    migration->synchronous = req->flags & VIR_MIGRATE_NON_SHARED_SYNCHRONOUS_WRITES;
    if (QEMU_DOMAIN_PRIVATE(vm)->migMaxBandwidth < QEMU_DOMAIN_MIG_BANDWIDTH_MAX)
        migration->bandwidth = (unsigned long long) QEMU_DOMAIN_PRIVATE(vm)->migMaxBandwidth << 20;
    migration->disks = g_new0(ferryMigrationDisk, vm->def->ndisks);

    for (i = 0; i < vm->def->ndisks; i++) {
        virDomainDiskDef *disk = vm->def->disks[i];
        ferryMigrationDisk *ours = &migration->disks[migration->ndisks];

        if (!ferryMigrationWants(req, disk))
            continue;

        if (disk->src->readonly || virStorageSourceIsEmpty(disk->src)) {
            virReportError(VIR_ERR_OPERATION_UNSUPPORTED,
                           _("Cannot migrate empty or read-only disk %s"), disk->dst);
            goto error;
        }

        ours->dst = g_strdup(disk->dst);
        ours->target = ferryMigrationTargetNew(disk->dst);
        migration->ndisks++;
    }

    if (ferryMigrationLocate(vm, migration, req, params) < 0)
        goto error;

    return migration;

 error:
    ferryMigrationFree(migration);
    return NULL;
}


/**
 * ferryMigrationPerformBegin:
 *
 * This thread is about to call the stock driver's perform phase, without the
 * flags that ask for storage: what @req wants of it is ours. Until
 * ferryMigrationPerformEnd().
 */
void
ferryMigrationPerformBegin(const ferryMigrationRequest *req)
{
    call = (ferryMigrationCall) { .req = req };
}


/**
 * ferryMigrationCopyStorage:
 * @vm: domain, locked, with the asynchronous job of a migration that this
 *      thread owns
 *
 * Returns 0 once all mirrors are READY, or there are none to be; -1 with an
 * error reported and everything taken back.
 */
int
ferryMigrationCopyStorage(virDomainObj *vm,
                          qemuMigrationParams *params)
{
    ferryMigration *migration;
    int rc = -1;

    if (!call.req || call.op)
        return 0;

    if (!(migration = ferryMigrationPrepare(vm, call.req, params)))
        return -1;

    if (ferryMigrationEnter(vm) < 0) {
        ferryMigrationFree(migration);
        return -1;
    }

    call.op = ferryOpNew(vm, &ferryMigrationClass, FERRY_MIGRATION_NAME, migration);

    ferryOpDrive(call.op);
    rc = ferryPlanRun(call.op, &ferryMigrationStoragePlan);
    if (rc < 0 && !call.op->over && *ferryPlanProgress(call.op, &ferryMigrationStoragePlan) == 0)
        ferryOpEnd(call.op);
    ferryOpRelease(call.op);

    ferryMigrationLeave(vm);
    return rc;
}


static bool
ferryMigrationIsOn(virDomainObj *vm)
{
    return call.op && !call.op->over && call.op->vm == vm;
}


/**
 * ferryMigrationSwitchOver:
 * @vm: domain, locked; its QEMU is about to be told something
 *
 * Is the guest paused and its memory at the destination, so that QEMU will be
 * told to switch over next? Then finishes all mirrors. Returns 0, or -1 with an
 * error reported. That may get lost: ferryMigrationMaySwitchOver() has it, too.
 */
int
ferryMigrationSwitchOver(virDomainObj *vm)
{
    ferryMigration *migration;
    int rc;

    if (!ferryMigrationIsOn(vm) || call.tried ||
        vm->job->current->status != VIR_DOMAIN_JOB_STATUS_PAUSED)
        return 0;

    call.tried = true;
    migration = call.op->data;

    if (ferryMigrationEnter(vm) < 0)
        return -1;

    ferryOpDrive(call.op);
    if ((rc = ferryPlanRun(call.op, &ferryMigrationFinishPlan)) == 0)
        ferryOpEnd(call.op);
    else if (!migration->error)
        migration->error = virSaveLastError();
    ferryOpRelease(call.op);

    ferryMigrationLeave(vm);
    return rc;
}


/**
 * ferryMigrationMaySwitchOver:
 *
 * This thread is about to tell QEMU to switch over. Returns 0 when the disks are
 * at the destination, or are not ours; -1 with an error reported when the guest
 * must go on here. Called with the monitor locked.
 */
int
ferryMigrationMaySwitchOver(void)
{
    ferryMigration *migration;

    if (!call.op)
        return 0;

    migration = call.op->data;

    if (*ferryPlanProgress(call.op, &ferryMigrationFinishPlan) > 0 && call.op->over &&
        !migration->error)
        return 0;

    if (migration->error)
        virSetError(migration->error);
    else
        virReportError(VIR_ERR_OPERATION_FAILED, "%s",
                       _("the disks have not arrived at the destination"));

    return -1;
}


/**
 * ferryMigrationGiveUp:
 * @vm: domain, locked, with the asynchronous job of a migration that failed
 *
 * Takes back what is left of its storage. Keeps the last error.
 */
void
ferryMigrationGiveUp(virDomainObj *vm)
{
    virErrorPtr err = NULL;

    if (!ferryMigrationIsOn(vm))
        return;

    virErrorPreserveLast(&err);

    if (ferryMigrationEnter(vm) == 0) {
        ferryOpDrive(call.op);
        if (ferryPlanUndo(call.op, &ferryMigrationStoragePlan) == 0 && !call.op->over)
            ferryOpEnd(call.op);
        ferryOpRelease(call.op);
        ferryMigrationLeave(vm);
    }

    virErrorRestore(&err);
}


/**
 * ferryMigrationPerformEnd:
 * @rc: what the stock driver's perform phase returned
 *
 * Ends ferryMigrationPerformBegin(). A mirror that failed is why the rest did:
 * the error says so.
 */
int
ferryMigrationPerformEnd(int rc)
{
    ferryMigration *migration = call.op ? call.op->data : NULL;

    if (rc < 0 && migration && migration->error)
        virSetError(migration->error);

    g_clear_pointer(&call.op, ferryOpUnref);
    call = (ferryMigrationCall) { 0 };

    return rc;
}


/**
 * ferryMigrationPeerLost:
 * @vm: domain, locked
 *
 * The connection to the other driver, by which this one migrates @vm, is closed.
 * Does not wait.
 */
void
ferryMigrationPeerLost(virDomainObj *vm)
{
    ferryOp *op = ferryOpFind(vm, FERRY_MIGRATION_NAME);

    if (!op || op->klass != &ferryMigrationClass)
        return;

    ((ferryMigration *) op->data)->lost = true;
    op->events++;

    if (op->driven)
        virDomainObjBroadcast(vm);
    else
        ignore_value(ferryEngineSubmit(op));
}


/**
 * ferryMigrationStats:
 * @vm: domain, locked, with a job
 *
 * Fills in how far the mirrors are. Returns 1, 0 when there are none of ours,
 * or -1 with an error reported.
 */
int
ferryMigrationStats(virDomainObj *vm,
                    virDomainJobData *data)
{
    ferryOp *op = ferryOpFind(vm, FERRY_MIGRATION_NAME);
    g_autoptr(GPtrArray) jobs = NULL;

    if (!op || op->klass != &ferryMigrationClass)
        return 0;

    if (!(jobs = ferryJobList(op, "")))
        return -1;

    if (jobs->len > 0)
        ferryMigrationCount(jobs, data);
    return 1;
}


/**
 * ferryMigrationSetSpeed:
 * @bandwidth: bytes/s for all disks together; 0: unlimited
 *
 * Returns 0, also when no storage is on its way, or -1 with an error reported.
 */
int
ferryMigrationSetSpeed(virDomainObj *vm,
                       unsigned long long bandwidth)
{
    ferryOp *op = ferryOpFind(vm, FERRY_MIGRATION_NAME);
    size_t ready = 0;
    size_t i;
    g_autoptr(GPtrArray) jobs = NULL;

    if (!op || op->klass != &ferryMigrationClass)
        return 0;

    /* QEMU takes 0 for unlimited, too */
    ((ferryMigration *) op->data)->bandwidth = bandwidth;

    if (!(jobs = ferryJobList(op, "")))
        return -1;

    for (i = 0; i < jobs->len; i++)
        ready += ferryMigrationJobIsReady(g_ptr_array_index(jobs, i));

    return ferryMigrationBalance(op, jobs, ready);
}
