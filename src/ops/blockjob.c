/*
 * blockjob.c: what clients do with the block job of a disk
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A disk has at most one block job: that of a copy, of a backup, or of the stock driver.
 * API calls that name a disk look up our job here.
 */

#include <config.h>

#include "block/nodename.h"
#include "engine/job.h"
#include "ops/blockjob.h"
#include "qemu/qemu_alias.h"
#include "qemu/qemu_blockjob.h"
#include "qemu/qemu_monitor.h"
#include "virerror.h"

#define VIR_FROM_THIS VIR_FROM_QEMU


void
ferryBlockJobClear(ferryBlockJob *job)
{
    g_clear_pointer(&job->op, ferryOpUnref);
    g_clear_pointer(&job->name, g_free);
    g_clear_pointer(&job->dst, g_free);
}


/**
 * ferryBlockJobFind:
 * @path: target of the disk, or path of its source
 *
 * Fills in @job, which must be zeroed. job->op stays NULL when no operation of ours works
 * on the disk: the stock driver handles the call then. A disk that the guest has ejected is
 * found by its target, so that its job can be ended. Domain locked. Reports no error.
 */
void
ferryBlockJobFind(virDomainObj *vm,
                  const char *path,
                  ferryBlockJob *job)
{
    virDomainDiskDef *disk = virDomainDiskByName(vm->def, path, /* allow_ambiguous= */ true);
    const char *dst = disk ? disk->dst : path;
    GPtrArray *ops = ferryOpList(vm);
    size_t i;

    for (i = 0; ops && i < ops->len; i++) {
        ferryOp *op = g_ptr_array_index(ops, i);
        const ferryBlockJobHandler *handler = op->klass->blockJob;

        if (handler && !op->stopped && (job->name = handler->jobName(op, dst))) {
            job->handler = handler;
            job->op = ferryOpRef(op);
            job->dst = g_strdup(dst);
            return;
        }
    }
}


static int
ferryBlockJobAllows(ferryBlockJob *job)
{
    if (!job->handler->refuse)
        return 0;

    job->handler->refuse(job->op, job->dst);
    return -1;
}


/**
 * ferryBlockJobMayChange:
 * @path: target of the disk, or path of its source
 *
 * Returns 0 if a client may change the block job of the disk, or if that is not ours, or -1
 * with an error reported. To be asked before the call waits for the domain's job: the
 * operation may not let it in. Domain locked.
 */
int
ferryBlockJobMayChange(virDomainObj *vm,
                       const char *path)
{
    g_auto(ferryBlockJob) job = { 0 };

    if (virDomainObjIsActive(vm))
        ferryBlockJobFind(vm, path, &job);

    return job.op ? ferryBlockJobAllows(&job) : 0;
}


static bool
ferryBlockJobHasEnded(ferryBlockJob *job)
{
    return job->handler->jobEnded && job->handler->jobEnded(job->op, job->dst);
}


static int
ferryBlockJobCheck(ferryBlockJob *job)
{
    if (ferryBlockJobAllows(job) < 0)
        return -1;

    if (!ferryBlockJobHasEnded(job))
        return 0;

    virReportError(VIR_ERR_INVALID_ARG,
                   _("disk %1$s does not have an active block job"), job->dst);
    return -1;
}


/**
 * ferryBlockJobInfo:
 *
 * Fills in @info for virDomainGetBlockJobInfo. @bytes: bandwidth in bytes/s, not MiB/s.
 * Clients take cur == end for "ready", so cur stays below end until QEMU says "ready".
 *
 * Returns 1, 0 when the job has ended, or -1 with an error reported.
 */
int
ferryBlockJobInfo(ferryBlockJob *job,
                  virDomainBlockJobInfoPtr info,
                  bool bytes)
{
    virDomainObj *vm = job->op->vm;
    g_autoptr(GHashTable) jobs = NULL;
    qemuMonitorBlockJobInfo *data;

    if (ferryBlockJobHasEnded(job)) {
        memset(info, 0, sizeof(*info));
        return 0;
    }

    qemuDomainObjEnterMonitor(vm);
    jobs = qemuMonitorGetAllBlockJobInfo(qemuDomainGetMonitor(vm), /* rawjobname= */ true);
    qemuDomainObjExitMonitor(vm);

    if (!jobs)
        return -1;

    *info = (virDomainBlockJobInfo) { .type = job->handler->type, .end = 1 };

    /* the job has ended in QEMU, but our operation has not yet */
    if (!(data = g_hash_table_lookup(jobs, job->name)))
        return 1;

    if (data->end > 0) {
        info->cur = data->cur;
        info->end = data->end;
    } else if (data->ready) {
        info->cur = 1;
    }

    if (job->handler->scale)
        job->handler->scale(job->op, &info->cur, &info->end);

    if (!data->ready && info->cur >= info->end)
        info->cur = info->end - 1;

    info->bandwidth = bytes ? data->bandwidth : VIR_DIV_UP(data->bandwidth, 1ULL << 20);
    return 1;
}


/**
 * ferryBlockJobSetSpeed:
 * @speed: bytes/s, 0 for unlimited
 */
int
ferryBlockJobSetSpeed(ferryBlockJob *job,
                      unsigned long long speed)
{
    virDomainObj *vm = job->op->vm;
    g_auto(ferryJobInfo) info = { 0 };
    int rc;

    if (ferryBlockJobCheck(job) < 0)
        return -1;

    qemuDomainObjEnterMonitor(vm);
    rc = qemuMonitorBlockJobSetSpeed(qemuDomainGetMonitor(vm), job->name, speed);
    qemuDomainObjExitMonitor(vm);

    if (rc < 0 &&
        (ferryJobQuery(job->op, job->name, &info) < 0 ||
         (info.status != QEMU_MONITOR_JOB_STATUS_PENDING &&
          info.status != QEMU_MONITOR_JOB_STATUS_CONCLUDED &&
          info.status != QEMU_MONITOR_JOB_STATUS_UNKNOWN)))
        return -1;

    /* QEMU has not checked the speed if the job has just ended */
    if (speed <= LLONG_MAX && job->handler->keepSpeed && job->handler->keepSpeed(job->op, speed)) {
        virResetLastError();
        return 0;
    }

    if (rc == 0)
        return 0;

    virReportError(VIR_ERR_OPERATION_INVALID,
                   _("block job on disk '%1$s' is just ending"), job->dst);
    return -1;
}


/**
 * ferryBlockJobAbort:
 * @pivot: move the guest to the copy, do not give the copy up
 * @async: return before the job has ended
 */
int
ferryBlockJobAbort(ferryBlockJob *job,
                   bool pivot,
                   bool async)
{
    if (ferryBlockJobCheck(job) < 0)
        return -1;

    if (!pivot)
        return job->handler->abort(job->op, async);

    if (!job->handler->pivot) {
        virReportError(VIR_ERR_OPERATION_INVALID,
                       _("job type '%1$s' does not support pivot"),
                       qemuBlockjobTypeToString(job->handler->type));
        return -1;
    }

    return job->handler->pivot(job->op, async);
}


/* Adds to @ops the operation that runs the block job of disk @path. Returns its handler if it can
 * be part of a group and is not in @ops yet; else NULL. */
static const ferryBlockJobHandler *
ferryBlockJobAddTo(virDomainObj *vm,
                   const char *path,
                   GPtrArray *ops)
{
    g_auto(ferryBlockJob) job = { 0 };

    ferryBlockJobFind(vm, path, &job);

    if (!job.op || !job.handler->group || g_ptr_array_find(ops, job.op, /* index= */ NULL))
        return NULL;

    g_ptr_array_add(ops, ferryOpRef(job.op));
    return job.handler;
}


/**
 * ferryBlockJobGroup:
 * @path: what a client named: disks, separated by commas, or "*" for all that have a copy
 * @ops: empty; filled with a reference to the operation of each disk
 *
 * Returns what ends them together; NULL, without an error reported, if @path is no such list: it
 * names a disk, or one of its parts is not a disk with a copy. Domain locked.
 */
const ferryBlockJobHandler *
ferryBlockJobGroup(virDomainObj *vm,
                   const char *path,
                   GPtrArray *ops)
{
    const ferryBlockJobHandler *handler = NULL;
    g_auto(GStrv) parts = NULL;
    size_t i;

    if (!virDomainObjIsActive(vm) || virDomainDiskByName(vm->def, path, /* allow_ambiguous= */ true))
        return NULL;

    if (STREQ(path, "*")) {
        for (i = 0; i < vm->def->ndisks; i++) {
            const ferryBlockJobHandler *found = ferryBlockJobAddTo(vm, vm->def->disks[i]->dst, ops);

            handler = found ? found : handler;
        }
        return handler;
    }

    parts = g_strsplit(path, ",", 0);
    for (i = 0; g_strv_length(parts) > 1 && parts[i]; i++) {
        if (!(handler = ferryBlockJobAddTo(vm, parts[i], ops)))
            return NULL;
    }

    return handler;
}


/* Returns what kind of block job @disk has; NULL: it has none. */
static const char *
ferryBlockJobType(virDomainDiskDef *disk)
{
    qemuBlockJobData *job = QEMU_DOMAIN_DISK_PRIVATE(disk)->blockjob;

    if (job)
        return qemuBlockjobTypeToString(job->type);

    return disk->mirror ? qemuBlockjobTypeToString(QEMU_BLOCKJOB_TYPE_COPY) : NULL;
}


/* Returns the virsh command that ends the block job of @disk. */
static char *
ferryBlockJobEndCommand(virDomainObj *vm,
                        virDomainDiskDef *disk)
{
    qemuBlockJobData *job = QEMU_DOMAIN_DISK_PRIVATE(disk)->blockjob;

    if (job && job->type == QEMU_BLOCKJOB_TYPE_BACKUP)
        return g_strdup_printf("domjobabort %s", vm->def->name);

    return g_strdup_printf("blockjob %s %s --abort", vm->def->name, disk->dst);
}


/**
 * ferryBlockJobMayResize:
 * @vm: domain with a job of this thread, which may be inside the monitor
 * @device, @node: what QEMU is about to resize, a drive or a format node; the other is NULL
 *
 * QEMU does not resize a disk that has a block job, and says "Device '(null)' is in use".
 *
 * Returns 0, or -1 with an error reported that names the job.
 */
int
ferryBlockJobMayResize(virDomainObj *vm,
                       const char *device,
                       const char *node)
{
    size_t i;

    for (i = 0; i < vm->def->ndisks; i++) {
        virDomainDiskDef *disk = vm->def->disks[i];
        g_autofree char *drive = device ? qemuAliasDiskDriveFromDisk(disk) : NULL;
        const char *name = device ? drive : ferryNodeName(disk->src);
        g_autofree char *end = NULL;

        if (!ferryBlockJobType(disk) || STRNEQ_NULLABLE(name, device ? device : node))
            continue;

        end = ferryBlockJobEndCommand(vm, disk);
        virReportError(VIR_ERR_OPERATION_INVALID,
                       _("disk '%1$s' of domain '%2$s' cannot be resized while its %3$s job runs; "
                         "wait until that ends, or end it with 'virsh %4$s'"),
                       disk->dst, vm->def->name, ferryBlockJobType(disk), end);
        return -1;
    }

    return 0;
}


/**
 * ferryBlockJobMayEject:
 * @vm: domain with a job of this thread, which may be inside the monitor
 * @qom: name that QEMU has for the drive that is about to lose its medium
 *
 * QEMU would open the tray, and then say of a medium that has a block job only that some node is
 * busy.
 *
 * Returns 0, or -1 with an error reported that names the job; the code is that of the stock
 * driver for its own jobs.
 */
int
ferryBlockJobMayEject(virDomainObj *vm,
                      const char *qom)
{
    size_t i;

    for (i = 0; i < vm->def->ndisks; i++) {
        virDomainDiskDef *disk = vm->def->disks[i];
        const char *name = QEMU_DOMAIN_DISK_PRIVATE(disk)->qomName;
        g_autofree char *end = NULL;

        if (!ferryBlockJobType(disk) || STRNEQ_NULLABLE(name, qom))
            continue;

        end = ferryBlockJobEndCommand(vm, disk);
        virReportError(VIR_ERR_OPERATION_UNSUPPORTED,
                       _("the medium of disk '%1$s' of domain '%2$s' cannot be ejected while its "
                         "%3$s job runs; wait until that ends, or end it with 'virsh %4$s'"),
                       disk->dst, vm->def->name, ferryBlockJobType(disk), end);
        return -1;
    }

    return 0;
}
