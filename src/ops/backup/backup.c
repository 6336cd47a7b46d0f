/*
 * backup.c: backup: the operation, and the request to begin one
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "block/alias.h"
#include "block/resolve.h"
#include "block/source.h"
#include "block/volume.h"
#include "engine/engine.h"
#include "engine/plan.h"
#include "engine/wait.h"
#include "ops/backup/backup.h"
#include "ops/backup/begin.h"
#include "ops/backup/control.h"
#include "ops/backup/data.h"
#include "ops/backup/end.h"
#include "ops/backup/recover.h"
#include "ops/backup/request.h"
#include "ops/backup/watch.h"
#include "ops/backup/xml.h"
#include "ops/copy/copy.h"
#include "qemu/qemu_domainjob.h"
#include "virerror.h"

#define VIR_FROM_THIS VIR_FROM_QEMU


static bool
ferryBackupRemovesImage(ferryOp *op,
                        virStorageSource *image)
{
    ferryBackup *backup = ferryBackupOf(op);
    size_t i;

    if (backup->result == FERRY_BACKUP_RESULT_COMPLETED && !ferryBackupIsPull(backup))
        return false;

    for (i = 0; i < backup->ndisks; i++) {
        ferryBackupDisk *disk = &backup->disks[i];

        if ((disk->volume || disk->origin != FERRY_IMAGE_FOREIGN) &&
            ferrySourceIsSamePlace(disk->def->store, image))
            return true;
    }

    return false;
}


static bool
ferryBackupRemovesCheckpoint(ferryOp *op,
                             const char *name)
{
    ferryBackup *backup = ferryBackupOf(op);

    return backup->result != FERRY_BACKUP_RESULT_COMPLETED && STREQ_NULLABLE(backup->checkpoint, name);
}


const ferryOpClass ferryBackupClass = {
    .name = "backup",
    .job = VIR_JOB_MODIFY,
    .plans = (const ferryPlan *const[]) { &ferryBackupBeginPlan, NULL },
    .describe = ferryBackupDescribe,
    .format = ferryBackupFormat,
    .parse = ferryBackupParse,
    .dataFree = ferryBackupFree,
    .jobMatters = ferryBackupJobMatters,
    .jobChanged = ferryBackupJobChanged,
    .revive = ferryBackupRevive,
    .recall = ferryBackupRecall,
    .recover = ferryBackupRecover,
    .stopped = ferryBackupStopped,
    .blockJob = &ferryBackupBlockJob,
    .checkpointDeleted = ferryBackupForgetCheckpoint,
    .removesImage = ferryBackupRemovesImage,
    .removesCheckpoint = ferryBackupRemovesCheckpoint,
    .needsCheckpoints = ferryBackupNeedsCheckpoints,
};


/* Begins the domain's asynchronous job of a backup, which lets in only the jobs of
 * FERRY_BACKUP_JOB_MASK, and a modify job inside it. If there is another backup, the first is
 * refused (ferryBesideMayBegin() in a seam). No thread owns the asynchronous job:
 * threads that carry the backup on or end it hold a modify job. */
static int
ferryBackupBeginJob(virDomainObj *vm,
                    unsigned int flags)
{
    /* REUSE_EXTERNAL keeps the stock driver from removing images: Ferry does that */
    if (virDomainObjBeginAsyncJob(vm, VIR_ASYNC_JOB_BACKUP, VIR_DOMAIN_JOB_OPERATION_BACKUP,
                                  flags | VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL) < 0)
        return -1;

    vm->job->phase = FERRY_BACKUP_PHASE_ASKED;
    qemuDomainObjSetAsyncJobMask(vm, FERRY_BACKUP_JOB_MASK);
    qemuDomainJobSetStatsType(vm->job->current, QEMU_DOMAIN_JOB_STATS_TYPE_BACKUP);
    qemuDomainObjReleaseAsyncJob(vm);

    if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0) {
        virDomainObjEndAsyncJob(vm);
        return -1;
    }

    return 0;
}


/* Adds the paths of the disks whose images get their default names, beside the disk's own
 * image: later, since that needs the job. */
static void
ferryBackupAskDefaults(virDomainObj *vm,
                       virDomainBackupDef *def,
                       GPtrArray *paths)
{
    size_t i;
    size_t k;

    for (i = 0; i < vm->def->ndisks; i++) {
        virDomainDiskDef *disk = vm->def->disks[i];
        bool wanted = def->ndisks == 0;

        for (k = 0; k < def->ndisks && !wanted; k++) {
            wanted = STREQ_NULLABLE(def->disks[k].name, disk->dst) &&
                     def->disks[k].backup != VIR_TRISTATE_BOOL_NO &&
                     (!def->disks[k].store || !def->disks[k].store->path);
        }

        if (wanted && disk->src->path && virStorageSourceIsLocalStorage(disk->src))
            g_ptr_array_add(paths, disk->src->path);
    }
}


/* @create: volumes that are missing are going to be created
 *
 * Finds out whether the storage of the images to write answers and what their names lead to, and
 * whether the server's address can be resolved. Nobody may have to wait for that: no job is held,
 * and the domain's lock is released meanwhile. */
static int
ferryBackupAskAhead(virDomainObj *vm,
                    virDomainBackupDef *def,
                    bool create,
                    GPtrArray **aliases,
                    char ***hosts)
{
    g_autoptr(GPtrArray) paths = g_ptr_array_new();
    bool pull = def->type == VIR_DOMAIN_BACKUP_TYPE_PULL && def->server;
    size_t i;

    for (i = 0; i < def->ndisks; i++) {
        virStorageSource *store = def->disks[i].store;

        if (store && ferryVolumeResolve(vm, store, def->disks[i].name, create) < 0)
            return -1;

        if (store && store->path && virStorageSourceIsLocalStorage(store))
            g_ptr_array_add(paths, store->path);
    }
    ferryBackupAskDefaults(vm, def, paths);

    if (pull && def->server->socket)
        g_ptr_array_add(paths, def->server->socket);
    g_ptr_array_add(paths, NULL);

    if (!(*aliases = ferryAliasAsk(vm, (const char *const *) paths->pdata)))
        return -1;

    if (!pull || def->server->transport != VIR_STORAGE_NET_HOST_TRANS_TCP || !def->server->name)
        return 0;

    return (*hosts = ferryResolve(vm, def->server->name)) ? 0 : -1;
}


static int
ferryBackupRun(virDomainObj *vm,
               ferryBackup *backup)
{
    g_autoptr(ferryOp) op = ferryOpNew(vm, &ferryBackupClass, FERRY_BACKUP_NAME, backup);
    int rc;

    backup->begun = vm->job->asyncStarted;
    ferryOpDrive(op);

    /* threads that wait to see whether the request is refused (ferryBackupLasts) */
    vm->job->phase = 0;
    virCondBroadcast(&vm->job->asyncCond);

    rc = ferryPlanRun(op, &ferryBackupBeginPlan);

    if (rc == 0)
        ferryBackupWatch(op);
    else if (rc < 0 && (op->over || *ferryPlanProgress(op, &ferryBackupBeginPlan) == 0))
        ferryBackupEnd(op, FERRY_BACKUP_RESULT_NONE);

    ferryOpRelease(op);

    /* what could not be undone yet is tried again by a worker */
    if (rc < 0 && !ferryOpIsLost(op))
        ignore_value(ferryEngineSubmit(op));

    return rc;
}


/**
 * ferryBackupBegin:
 * @vm: domain, locked, without a job
 *
 * Begins the backup of @backupXML, and with it makes the checkpoint of @checkpointXML (or
 * NULL). Returns 0 once the backup runs, or -1 with an error reported and all steps
 * undone; if QEMU cannot be reached, its end or the next driver undoes them.
 */
int
ferryBackupBegin(virDomainObj *vm,
                 const char *backupXML,
                 const char *checkpointXML,
                 unsigned int flags)
{
    virQEMUDriver *driver = QEMU_DOMAIN_PRIVATE(vm)->driver;
    ferryBackupExtras extras = { 0 };
    bool create = !(flags & VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL);
    g_autoptr(GPtrArray) aliases = NULL;
    g_auto(GStrv) hosts = NULL;
    virDomainBackupDef *def;
    ferryBackup *backup;
    int rc = -1;

    if (!(def = ferryBackupParseXML(driver, backupXML, &extras)))
        return -1;

    if (((checkpointXML || def->incremental) && ferryCopyAwaitPivots(vm) < 0) ||
        ferryBackupAskAhead(vm, def, create, &aliases, &hosts) < 0 ||
        ferryBackupBeginJob(vm, flags) < 0) {
        virDomainBackupDefFree(def);
        return -1;
    }

    if ((backup = ferryBackupPrepare(vm, def, &extras, aliases, checkpointXML, flags))) {
        backup->server.hosts = g_steal_pointer(&hosts);
        rc = ferryBackupRun(vm, backup);
    } else {
        virDomainObjEndAsyncJob(vm);
    }

    ferryDomainEndJob(vm);
    return rc;
}
