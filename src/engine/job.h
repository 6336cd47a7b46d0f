/*
 * job.h: the QEMU jobs of an operation
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"
#include "qemu/qemu_monitor.h"

/* The state of a QEMU job of an operation. */
typedef struct _ferryJobInfo ferryJobInfo;
struct _ferryJobInfo {
    qemuMonitorJobStatus status; /* UNKNOWN: QEMU knows no such job */
    char *error;                 /* why the job failed; NULL: it did not */
};

void ferryJobInfoClear(ferryJobInfo *info);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(ferryJobInfo, ferryJobInfoClear);

/* Which jobs a name selects. */
typedef enum {
    FERRY_JOB_NAMED,  /* the job of this name */
    FERRY_JOBS_BELOW, /* all jobs whose names begin with it */
    FERRY_JOBS_ALL,   /* all jobs of ours in the domain; it begins their names */
} ferryJobMatch;

#define FERRY_JOB_PREFIX "ferry-"
#define FERRY_JOB_STATE(state) (1U << QEMU_MONITOR_JOB_STATUS_##state)

void ferryJobConnectionLost(qemuMonitor *mon);
bool ferryJobStatusIsReady(qemuMonitorJobStatus status);
bool ferryJobQEMUReachable(ferryOp *op);
char *ferryJobName(ferryOp *op, const char *what);
bool ferryJobIsOf(ferryOp *op, const char *jobname);
GPtrArray *ferryJobFind(ferryOp *op, const char *name, ferryJobMatch match);
GPtrArray *ferryJobListAll(ferryOp *op);
GPtrArray *ferryJobList(ferryOp *op, const char *what);
void ferryJobInfoFill(ferryJobInfo *info, GPtrArray *jobs);
int ferryJobQuery(ferryOp *op, const char *jobname, ferryJobInfo *info);
void ferryJobDismiss(ferryOp *op, const char *jobname);
void ferryJobCancel(ferryOp *op, const qemuMonitorJobInfo *job);
