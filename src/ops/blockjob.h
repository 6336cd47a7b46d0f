/*
 * blockjob.h: who answers for the block job on a disk
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

/* What a client may do with the job that an operation runs on a disk. */
struct _ferryBlockJobHandler {
    virDomainBlockJobType type;

    /* Returns the name of the QEMU job of disk @dst, or NULL when the operation
     * has none. */
    char *(*jobName)(ferryOp *op, const char *dst);

    /* Has the job of disk @dst ended, while the operation has not? Clients see
     * none then. Domain locked, job held; NULL: the two end together. */
    bool (*jobEnded)(ferryOp *op, const char *dst);

    /* Domain locked, modify job held; the caller has a reference to @op. */
    int (*abort)(ferryOp *op, bool async);

    /* The same; NULL when there is nothing to pivot to. */
    int (*pivot)(ferryOp *op, bool async);
};

/* The job on one disk, found. Cleared by ferryBlockJobClear(). */
typedef struct _ferryBlockJob ferryBlockJob;
struct _ferryBlockJob {
    const ferryBlockJobHandler *handler;
    ferryOp *op; /* NULL: none of ours */
    char *name;  /* of the QEMU job */
    char *dst;   /* the disk */
};

void ferryBlockJobClear(ferryBlockJob *job);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(ferryBlockJob, ferryBlockJobClear);

void ferryBlockJobFind(virDomainObj *vm, const char *path, ferryBlockJob *job);
int ferryBlockJobInfo(ferryBlockJob *job, virDomainBlockJobInfoPtr info, bool bytes);
int ferryBlockJobSetSpeed(ferryBlockJob *job, unsigned long long speed);
int ferryBlockJobAbort(ferryBlockJob *job, bool pivot, bool async);
