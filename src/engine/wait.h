/*
 * wait.h: wait for the QEMU jobs of an operation, or for a change of its domain
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/job.h"

/* Returns true when @jobs (array of qemuMonitorJobInfo) are in the state waited for. */
typedef bool (*ferryJobsDone)(GPtrArray *jobs, void *opaque);

int ferryAsyncEnter(virDomainObj *vm, virDomainJob job);
void ferryAsyncLeave(virDomainObj *vm);
void ferryWaitStopAll(bool stop);
bool ferryOpIsLost(ferryOp *op);
void ferryOpReportLost(ferryOp *op);
bool ferryOpTakeJob(ferryOp *op);
bool ferryDomainHasJob(virDomainObj *vm);
void ferryDomainEndJob(virDomainObj *vm);
void ferryOpYield(ferryOp *op);
int ferryOpResume(ferryOp *op);
int ferryOpAwaitEnd(ferryOp *op);
int ferryOpSleep(ferryOp *op, unsigned int timeout);
int ferryJobWait(ferryOp *op,
                 const char *jobname,
                 unsigned int states,
                 unsigned int timeout,
                 ferryJobInfo *info);
GPtrArray *ferryJobWaitUntil(ferryOp *op,
                             const char *what,
                             unsigned int timeout,
                             ferryJobsDone done,
                             void *opaque);
void ferryJobConclude(ferryOp *op, const char *what, GPtrArray *jobs, char **failed, char **error);
int ferryJobWaitAll(ferryOp *op,
                    const char *what,
                    unsigned int timeout,
                    char **failed,
                    char **error);
int ferryJobKill(ferryOp *op, const char *jobname);
int ferryJobKillAll(ferryOp *op, const char *what, GPtrArray *known);
