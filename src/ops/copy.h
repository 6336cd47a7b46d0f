/*
 * copy.h: block copy: start, pivot, abort
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "block/image.h"
#include "engine/engine.h"
#include "ops/blockjob.h"

/* What a copy is heading for. */
typedef enum {
    FERRY_COPY_GOAL_MIRROR, /* copy, then keep both images the same */
    FERRY_COPY_GOAL_PIVOT,  /* the guest shall go on with the target */
    FERRY_COPY_GOAL_ABORT,  /* the guest shall stay with the source */

    FERRY_COPY_GOAL_LAST
} ferryCopyGoal;

VIR_ENUM_DECL(ferryCopyGoal);

/* A copy of one disk. All but the last group goes into the journal. */
typedef struct _ferryCopy ferryCopy;
struct _ferryCopy {
    char *dst;                /* the disk's target in the guest: vda */
    virStorageSource *target; /* where to; also disk->mirror once published */
    virStorageSource *old;    /* the source's chain, once a pivot is under way */
    ferryImageOrigin origin;  /* what was where the target is */
    ferryCopyGoal goal;
    bool shallow;             /* copy the top image only */
    bool reuse;               /* the target is formatted: do not touch it */
    bool keep;                /* aborted when ready: the copy is worth keeping */

    bool granted;             /* QEMU may open the target */
    bool ready;               /* clients were told */
    bool synchronous;
    unsigned long long bandwidth;
    unsigned long long granularity;
    unsigned long long bufSize;
};

/* What a client asked for, before any of it is checked. */
typedef struct _ferryCopyRequest ferryCopyRequest;
struct _ferryCopyRequest {
    const char *path;             /* disk: target, or path of its source */
    virStorageSource *target;     /* borrowed */
    bool keepLabel;               /* target takes the source's seclabels */
    unsigned long long bandwidth; /* bytes/s */
    unsigned int granularity;     /* bytes */
    unsigned long long bufSize;   /* bytes */
    unsigned int flags;           /* virDomainBlockCopyFlags */
};

extern const ferryOpClass ferryCopyClass;
extern const ferryPlan ferryCopyStartPlan;
extern const ferryPlan ferryCopyPivotPlan;
extern const ferryBlockJobHandler ferryCopyBlockJob;

/* copy.c */
int ferryCopyStart(virDomainObj *vm,
                   const ferryCopyRequest *req);
virDomainDiskDef *ferryCopyDisk(ferryOp *op);
virStorageSource *ferryCopyTargetBacking(ferryOp *op);
int ferryCopyDiscard(ferryOp *op);

/* copy_request.c */
ferryCopy *ferryCopyPrepare(virDomainObj *vm,
                            const ferryCopyRequest *req);
void ferryCopyFree(void *data);

/* copy_control.c */
int ferryCopyAbort(ferryOp *op,
                   bool async);
int ferryCopyPivot(ferryOp *op,
                   bool async);
void ferryCopySettle(ferryOp *op);

/* copy_recover.c */
int ferryCopyFormat(ferryOp *op,
                    virBuffer *buf);
void *ferryCopyParse(virQEMUDriver *driver,
                     xmlXPathContextPtr ctxt);
bool ferryCopyJobMatters(ferryOp *op,
                         int status);
void ferryCopyJobChanged(ferryOp *op);
void ferryCopyRevive(virDomainObj *vm);
void ferryCopyRecover(ferryOp *op);
void ferryCopyStopped(ferryOp *op);

/* copy_pivot.c */
int ferryCopyAdoptConfig(ferryOp *op);
