/*
 * data.h: what a block copy is
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "block/image.h"
#include "engine/op.h"

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

void ferryCopyFree(void *data);
FERRY_OP_DATA(ferryCopy, ferryCopyOf, ferryCopyFree);
virDomainDiskDef *ferryCopyDisk(ferryOp *op);
virStorageSource *ferryCopyTargetBacking(ferryOp *op);
bool ferryCopyIsOneLayer(ferryOp *op);
int ferryCopyDiscard(ferryOp *op);
