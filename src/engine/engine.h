/*
 * engine.h: the operations of all domains, their jobs and their recovery
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"
#include "qemu/qemu_monitor.h"

int ferryEngineStart(virQEMUDriver *driver,
                     const ferryOpClass *const *classes);
void ferryEngineStop(void);
void ferryEngineReconnected(virDomainObj *vm);
void ferryEngineStopped(qemuDomainObjPrivate *priv);
bool ferryEngineJobEvent(virDomainObj *vm,
                         const char *jobname,
                         int status);
int ferryEngineSubmit(ferryOp *op);
GPtrArray *ferryEngineOps(virDomainObj *vm);

/* A QEMU job of an operation, as QEMU tells of it now. */
typedef struct _ferryJobInfo ferryJobInfo;
struct _ferryJobInfo {
    qemuMonitorJobStatus status; /* UNKNOWN: QEMU knows no such job */
    char *error;                 /* why it failed; NULL when it did not */
};

void ferryJobInfoClear(ferryJobInfo *info);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(ferryJobInfo, ferryJobInfoClear);

#define FERRY_JOB_PREFIX "ferry-"
#define FERRY_JOB_STATE(state) (1U << QEMU_MONITOR_JOB_STATUS_##state)

bool ferryJobQEMUReachable(ferryOp *op);
char *ferryJobName(ferryOp *op,
                   const char *what);
GPtrArray *ferryJobListAll(ferryOp *op);
GPtrArray *ferryJobList(ferryOp *op,
                        const char *what);
int ferryJobQuery(ferryOp *op,
                  const char *jobname,
                  ferryJobInfo *info);
int ferryJobWait(ferryOp *op,
                 const char *jobname,
                 unsigned int states,
                 unsigned int timeout,
                 ferryJobInfo *info);
typedef bool (*ferryJobsDone)(GPtrArray *jobs,
                              void *opaque);
GPtrArray *ferryJobWaitUntil(ferryOp *op,
                             const char *what,
                             unsigned int timeout,
                             ferryJobsDone done,
                             void *opaque);
void ferryJobConclude(ferryOp *op,
                      const char *what,
                      GPtrArray *jobs,
                      char **failed,
                      char **error);
int ferryJobWaitAll(ferryOp *op,
                    const char *what,
                    unsigned int timeout,
                    char **failed,
                    char **error);
void ferryJobConnectionLost(qemuMonitor *mon);
void ferryJobDismiss(ferryOp *op,
                     const char *jobname);
int ferryJobKill(ferryOp *op,
                 const char *jobname);
int ferryJobKillAll(ferryOp *op,
                    const char *what,
                    GPtrArray *known);
int ferryAsyncEnter(virDomainObj *vm,
                    virDomainJob job);
void ferryAsyncLeave(virDomainObj *vm);
void ferryOpYield(ferryOp *op);
void ferryOpResume(ferryOp *op);
int ferryOpSleep(ferryOp *op,
                 unsigned int timeout);
