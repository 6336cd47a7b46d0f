/*
 * seams.c: where Ferry meets the unmodified QEMU driver
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The module links the stock driver's objects with ours, and ld --wrap redirects their
 * calls of the functions below to here. Only this folder knows that libvirt is extended.
 */

#include <config.h>

#include "block/identity.h"
#include "compat/monitor.h"
#include "engine/engine.h"
#include "engine/job.h"
#include "engine/settle.h"
#include "hook/api.h"
#include "hook/api_blockjob.h"
#include "hook/api_snapshot.h"
#include "hook/seams.h"
#include "hook/version.h"
#include "ops/backup/begin.h"
#include "ops/backup/control.h"
#include "ops/backup/data.h"
#include "ops/backup/progress.h"
#include "ops/backup/recover.h"
#include "ops/backup/watch.h"
#include "ops/beside.h"
#include "ops/blockjob.h"
#include "ops/checkpoint/load.h"
#include "ops/classes.h"
#include "ops/config.h"
#include "ops/migration/destination.h"
#include "driver.h"
#include "qemu/qemu_backup.h"
#include "qemu/qemu_blockjob.h"
#include "qemu/qemu_monitor.h"
#include "qemu/qemu_process.h"
#define LIBVIRT_QEMU_MONITOR_PRIV_H_ALLOW
#include "qemu/qemu_monitor_priv.h"
#include "virerror.h"
#include "virlog.h"
#include "virtime.h"

VIR_LOG_INIT("ferry.seams");

FERRY_SEAM(virRegisterConnectDriver);
FERRY_SEAM(virRegisterStateDriver);
FERRY_SEAM(qemuProcessReconnectAll);
FERRY_SEAM(qemuMonitorOpen);
FERRY_SEAM(qemuMonitorSend);
FERRY_SEAM(qemuBlockJobRefreshJobs);
FERRY_SEAM(qemuDomainObjPrivateDataClear);
FERRY_SEAM(qemuBlockJobDiskGetJob);
FERRY_SEAM(qemuBackupJobCancelBlockjobs);
FERRY_SEAM(qemuBackupGetJobInfoStats);
FERRY_SEAM(qemuDomainUpdateMemoryDeviceInfo);
FERRY_SEAM(qemuMonitorBlockResize);
FERRY_SEAM(qemuMonitorBlockdevTrayOpen);
FERRY_SEAM(qemuMonitorBlockdevMediumRemove);
FERRY_SEAM(virDomainObjBeginJob);
FERRY_SEAM(virDomainObjBeginAsyncJob);
FERRY_SEAM(virDomainObjSetDefTransient);
FERRY_SEAM(virDomainObjListRemove);
FERRY_SEAM(virDomainObjListRemoveLocked);
FERRY_SEAM(virDomainCheckpointDefParseString);

/* How long an embedded driver waits at start-up for all its domains to be reconnected. */
#define FERRY_RECONNECT_MS (3 * 1000)

static virStateDriver stockState;

/* atomic: the driver has read all definitions of domains and checkpoints */
static int loaded;

/* The stock driver's table of monitor callbacks, and a copy with ours, which monitors get.
 * Threads that reconnect to domains open monitors at the same time: the first one fills
 * in both tables, and the tables are constant from then on. */
static struct {
    virMutex lock; /* protects @filled, and the tables until it is set */
    bool filled;
    qemuMonitorCallbacks stock;
    qemuMonitorCallbacks ours;
} callbacks = { .lock = VIR_MUTEX_INITIALIZER };


/* The stock driver registers its API table. Replace entries before anyone calls them. */
int
__wrap_virRegisterConnectDriver(virConnectDriver *driver,
                                bool setSharedDrivers)
{
    ferryApiInstall(driver->hypervisorDriver);

    return __real_virRegisterConnectDriver(driver, setSharedDrivers);
}


/* The daemon has been told to end, and waits for its threads. */
static int
ferryStateShutdownPrepare(void)
{
    ignore_value(ferryEnginePrepareStop());

    return stockState.stateShutdownPrepare ? stockState.stateShutdownPrepare() : 0;
}


static int
ferryStateCleanup(void)
{
    ferryEngineStop();

    return stockState.stateCleanup();
}


/* The engine's threads must end before the driver they use is freed. */
int
__wrap_virRegisterStateDriver(virStateDriver *driver)
{
    stockState = *driver;
    driver->stateShutdownPrepare = ferryStateShutdownPrepare;
    driver->stateCleanup = ferryStateCleanup;

    return __real_virRegisterStateDriver(driver);
}


/* A short-lived process that embeds the driver may exit while threads reconnect domains.
 * The threads would take that for a QEMU failure and kill QEMU: wait for their jobs. */
static void
ferryAwaitReconnect(virQEMUDriver *driver)
{
    unsigned long long deadline;
    virDomainObj **vms = NULL;
    size_t nvms = 0;
    size_t i;

    if (virTimeMillisNow(&deadline) < 0)
        return;
    deadline += FERRY_RECONNECT_MS;

    virDomainObjListCollect(driver->domains, /* conn= */ NULL, &vms, &nvms,
                            /* filter= */ NULL, VIR_CONNECT_LIST_DOMAINS_ACTIVE);

    for (i = 0; i < nvms; i++) {
        VIR_WITH_OBJECT_LOCK_GUARD(vms[i]) {
            while (vms[i]->job->active != VIR_JOB_NONE &&
                   virCondWaitUntil(&vms[i]->job->cond, &vms[i]->parent.lock, deadline) == 0)
                ;
        }
    }

    virObjectListFreeCount(vms, nvms);
}


/* All domains are loaded and none is reconnected yet. Read the journals now, so that the
 * operations are known when the stock driver reconnects, or finds that QEMU is gone. */
void
__wrap_qemuProcessReconnectAll(virQEMUDriver *driver)
{
    g_atomic_int_set(&loaded, true);

    /* a daemon's log has this at its default level; one who embeds the driver would see it at each call */
    if (driver->embeddedRoot)
        VIR_INFO("Ferry " FERRY_VERSION " for libvirt " FERRY_LIBVIRT_VERSION);
    else
        VIR_WARN("Ferry " FERRY_VERSION " for libvirt " FERRY_LIBVIRT_VERSION " runs");

    ferryConfigLoad(driver);

    if (ferryEngineStart(driver, ferryClasses) < 0)
        VIR_ERROR(_("operations of an earlier run may be left unfinished: %1$s"),
                  virGetLastErrorMessage());

    __real_qemuProcessReconnectAll(driver);

    if (driver->embeddedRoot)
        ferryAwaitReconnect(driver);
}


/* While the driver starts these are its own files; later a client may have sent the text. */
virDomainCheckpointDef *
__wrap_virDomainCheckpointDefParseString(const char *text,
                                         virDomainXMLOption *xmlopt,
                                         void *parseOpaque,
                                         unsigned int flags)
{
    virDomainCheckpointDef *def = NULL;

    if (!g_atomic_int_get(&loaded) && flags == VIR_DOMAIN_CHECKPOINT_PARSE_REDEFINE)
        def = ferryCheckpointRead(text, xmlopt, parseOpaque);

    return def ? def : __real_virDomainCheckpointDefParseString(text, xmlopt, parseOpaque, flags);
}


static void
ferryJobStatusChange(qemuMonitor *mon,
                     virDomainObj *vm,
                     const char *jobname,
                     int status)
{
    bool ours;

    virObjectLock(vm);
    ours = ferryEngineJobEvent(vm, jobname, status);
    virObjectUnlock(vm);

    if (!ours)
        callbacks.stock.jobStatusChange(mon, vm, jobname, status);
}


static void
ferryIOError(virDomainObj *vm)
{
    virObjectLock(vm);
    ferryBackupIOError(vm);
    virObjectUnlock(vm);
}


static void
ferryMigrationStatus(qemuMonitor *mon,
                     virDomainObj *vm,
                     int status)
{
    callbacks.stock.domainMigrationStatus(mon, vm, status);

    virObjectLock(vm);
    ferryIncomingStatus(vm, status);
    virObjectUnlock(vm);
}


/* Returns the table for a monitor for which the stock driver passes @cb. It redirects
 * three events: job states, because the stock driver does not know our jobs; I/O errors,
 * because a backup's scratch image may be full; and a migration's status, because the
 * finish phase can be prepared as soon as the memory has arrived. */
static qemuMonitorCallbacks *
ferryCallbacks(qemuMonitorCallbacks *cb)
{
    VIR_LOCK_GUARD lock = virLockGuardLock(&callbacks.lock);

    if (!callbacks.filled) {
        callbacks.stock = *cb;
        callbacks.ours = *cb;
        callbacks.ours.jobStatusChange = ferryJobStatusChange;
        ferryMonitorWatchIOErrors(&callbacks.ours, ferryIOError);
        callbacks.ours.domainMigrationStatus = ferryMigrationStatus;
        callbacks.filled = true;
    }

    return &callbacks.ours;
}


qemuMonitor *
__wrap_qemuMonitorOpen(virDomainObj *vm,
                       virDomainChrSourceDef *config,
                       GMainContext *context,
                       qemuMonitorCallbacks *cb)
{
    /* All domains share one table of the stock driver, which never changes. The
     * capabilities probe passes another one, without events: leave that alone. */
    return __real_qemuMonitorOpen(vm, config, context,
                                  cb->jobStatusChange ? ferryCallbacks(cb) : cb);
}


/* A command that gets no reply shows that the connection is lost. Record that here: on a
 * clean EOF qemuMonitor sets no lastError, so qemuMonitorLastError() cannot tell. */
int
__wrap_qemuMonitorSend(qemuMonitor *mon,
                       qemuMonitorMessage *msg)
{
    int rc = __real_qemuMonitorSend(mon, msg);

    if (rc < 0 || !msg->rxObject)
        ferryJobConnectionLost(mon);

    return rc;
}


/* The stock driver reconnected to a running QEMU and recovers its own block jobs. Ferry
 * recovers its operations under the same domain job, before any client gets in. */
int
__wrap_qemuBlockJobRefreshJobs(virDomainObj *vm)
{
    int rc = __real_qemuBlockJobRefreshJobs(vm);

    if (rc == 0) {
        ferryIdentityInherit(vm);
        ferryEngineReconnected(vm);
        ferryBackupReconnected(vm);
    }

    return rc;
}


/* The reconnecting thread calls this function after it has found out whether the guest
 * runs, and before it decides what becomes of a migration. A thread that starts QEMU calls
 * it, too: QEMU has just opened its images. */
int
__wrap_qemuDomainUpdateMemoryDeviceInfo(virDomainObj *vm,
                                        int asyncJob)
{
    ferryIncomingReconnected(vm);
    ferryIdentityLearnAll(vm);

    return __real_qemuDomainUpdateMemoryDeviceInfo(vm, asyncJob);
}


/* QEMU is gone and labels are restored: settle operations while the definitions exist. */
void
__wrap_qemuDomainObjPrivateDataClear(qemuDomainObjPrivate *priv)
{
    ferryEngineStopped(priv);
    ferryIdentityForget(priv);

    __real_qemuDomainObjPrivateDataClear(priv);
}


/* The stock entry that aborts a domain's job ends the block jobs of its own backup, and says that
 * it has. It must not say so of a backup of Ferry's, which has none of them. */
void
__wrap_qemuBackupJobCancelBlockjobs(virDomainObj *vm,
                                    virDomainBackupDef *backup,
                                    bool terminate,
                                    int asyncJob)
{
    if (!ferryBackupMeet(vm))
        __real_qemuBackupJobCancelBlockjobs(vm, backup, terminate, asyncJob);
}


/* A stock entry looks for the block job that a client wants to change. Ferry had none when it
 * called the entry; if it has begun a backup since, the client does not mean that, and QEMU
 * does not know the job that stands for it. */
qemuBlockJobData *
__wrap_qemuBlockJobDiskGetJob(virDomainDiskDef *disk)
{
    g_autoptr(qemuBlockJobData) job = __real_qemuBlockJobDiskGetJob(disk);

    return job && ferryApiIsDelegating() && ferryBackupIsMark(job) ? NULL : g_steal_pointer(&job);
}


/* Fills in the statistics of the domain's job, which is a backup. */
int
__wrap_qemuBackupGetJobInfoStats(virDomainObj *vm,
                                 virDomainJobData *data)
{
    ferryOp *op = ferryBackupFind(vm);

    return op ? ferryBackupStats(op, data) : __real_qemuBackupGetJobInfoStats(vm, data);
}


/* QEMU refuses to resize a disk that has a block job, in words that name neither. */
int
__wrap_qemuMonitorBlockResize(qemuMonitor *mon,
                              const char *device,
                              const char *nodename,
                              unsigned long long size)
{
    if (ferryBlockJobMayResize(mon->vm, device, nodename) < 0)
        return -1;

    return __real_qemuMonitorBlockResize(mon, device, nodename, size);
}


/* A medium is to be ejected or changed: the first of these for a drive with a tray, the second
 * for one without. */
int
__wrap_qemuMonitorBlockdevTrayOpen(qemuMonitor *mon,
                                   const char *id,
                                   bool force)
{
    if (ferryBlockJobMayEject(mon->vm, id) < 0)
        return -1;

    return __real_qemuMonitorBlockdevTrayOpen(mon, id, force);
}


int
__wrap_qemuMonitorBlockdevMediumRemove(qemuMonitor *mon,
                                       const char *id)
{
    if (ferryBlockJobMayEject(mon->vm, id) < 0)
        return -1;

    return __real_qemuMonitorBlockdevMediumRemove(mon, id);
}


/* A job that has to wait for the end of a backup or of a migration is refused. */
int
__wrap_virDomainObjBeginJob(virDomainObj *vm,
                            virDomainJob job)
{
    if (ferryBesideMayBegin(vm, job, VIR_ASYNC_JOB_NONE) < 0)
        return -1;

    return __real_virDomainObjBeginJob(vm, job);
}


int
__wrap_virDomainObjBeginAsyncJob(virDomainObj *vm,
                                 virDomainAsyncJob asyncJob,
                                 virDomainJobOperation operation,
                                 unsigned int apiFlags)
{
    if (ferryBesideMayBegin(vm, VIR_JOB_ASYNC, asyncJob) < 0)
        return -1;

    if (__real_virDomainObjBeginAsyncJob(vm, asyncJob, operation, apiFlags) < 0)
        return -1;

    return ferryApiSnapshotBegun(vm);
}


/* The domain is about to start, and nothing has been done for that yet. The configuration
 * may still name the image before a pivot, if it could not be saved then. */
int
__wrap_virDomainObjSetDefTransient(virDomainXMLOption *xmlopt,
                                   virDomainObj *vm,
                                   void *parseOpaque)
{
    if (ferrySettleBeforeStart(vm) < 0)
        return -1;

    return __real_virDomainObjSetDefTransient(xmlopt, vm, parseOpaque);
}


/* The domain is about to be forgotten: its operations must not outlive it. */
void
__wrap_virDomainObjListRemove(virDomainObjList *doms,
                              virDomainObj *vm)
{
    ferrySettleBeforeRemoval(vm, /* listLocked= */ false);

    __real_virDomainObjListRemove(doms, vm);
}


void
__wrap_virDomainObjListRemoveLocked(virDomainObjList *doms,
                                    virDomainObj *vm)
{
    ferrySettleBeforeRemoval(vm, /* listLocked= */ true);

    __real_virDomainObjListRemoveLocked(doms, vm);
}
