/*
 * blockjob.h: what clients do with the block job of a disk
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

    /* Returns whether the job of disk @dst has ended and the operation has not: clients
     * then see no job. Domain locked, job held. NULL: job and operation end together. */
    bool (*jobEnded)(ferryOp *op, const char *dst);

    /* Reports why clients may only look at the job of disk @dst: it is neither aborted,
     * pivoted nor changed. Domain locked. NULL: they may. */
    void (*refuse)(ferryOp *op, const char *dst);

    /* Keeps @speed for jobs that follow that of now. Locks as for jobEnded. Returns whether there
     * will be any. NULL: none. */
    bool (*keepSpeed)(ferryOp *op, unsigned long long speed);

    /* Changes the progress of the job of now to that of the whole operation. Locks as for
     * jobEnded. NULL: they are the same. */
    void (*scale)(ferryOp *op, unsigned long long *cur, unsigned long long *end);

    /* Aborts the operation. Domain locked, modify job held; the caller references @op. */
    int (*abort)(ferryOp *op, bool async);

    /* Moves the guest to the copy. Locks as for abort. NULL: there is no pivot. */
    int (*pivot)(ferryOp *op, bool async);

    /* Pivots or aborts several operations, of which each has its disk, at one point in time: all or
     * none. Locks as for abort; the array has a reference to each. NULL: there are no groups. */
    int (*group)(GPtrArray *ops, bool pivot, bool async);
};

/* What ferryBlockJobFind() found. Cleared by ferryBlockJobClear(). */
typedef struct _ferryBlockJob ferryBlockJob;
struct _ferryBlockJob {
    const ferryBlockJobHandler *handler;
    ferryOp *op; /* NULL: no operation of ours works on the disk */
    char *name;  /* of the QEMU job */
    char *dst;   /* target of the disk */
};

void ferryBlockJobClear(ferryBlockJob *job);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(ferryBlockJob, ferryBlockJobClear);

void ferryBlockJobFind(virDomainObj *vm, const char *path, ferryBlockJob *job);
int ferryBlockJobMayChange(virDomainObj *vm, const char *path);
int ferryBlockJobInfo(ferryBlockJob *job, virDomainBlockJobInfoPtr info, bool bytes);
int ferryBlockJobSetSpeed(ferryBlockJob *job, unsigned long long speed);
int ferryBlockJobAbort(ferryBlockJob *job, bool pivot, bool async);
const ferryBlockJobHandler *ferryBlockJobGroup(virDomainObj *vm, const char *path, GPtrArray *ops);
int ferryBlockJobMayResize(virDomainObj *vm, const char *device, const char *node);
int ferryBlockJobMayEject(virDomainObj *vm, const char *qom);
