/*
 * data.h: block copy: the data of the operation
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "block/image.h"
#include "block/volume_delete.h"
#include "engine/op.h"
#include "ops/quiesce.h"

/* What the client wants of a copy. */
typedef enum {
    FERRY_COPY_GOAL_MIRROR, /* copy, then keep both images the same */
    FERRY_COPY_GOAL_PIVOT,  /* move the guest to the target */
    FERRY_COPY_GOAL_ABORT,  /* end the copy, the guest stays on the source */

    FERRY_COPY_GOAL_LAST
} ferryCopyGoal;

VIR_ENUM_DECL(ferryCopyGoal);

/* A copy of one disk. The journal holds all fields but those of the last group. */
typedef struct _ferryCopy ferryCopy;
struct _ferryCopy {
    char *dst;                /* the disk's name in the guest, such as vda */
    virStorageSource *target; /* the image copied to; also disk->mirror once published */
    virStorageSource *old;    /* the source's chain; NULL before the pivot */
    ferryImageOrigin origin;  /* what was at the target's path before the copy */
    ferryFile *file;          /* the target's file, if the undo is to remove or empty it */
    ferryVolume *volume;      /* the target, if it is created through its pool, in place of a file */
    ferryCopyGoal goal;
    ferryQuiesce quiesce; /* of the pivot, or abort, that has begun */
    bool shallow;         /* copy the top image only, or those above base */
    bool own;             /* what is below the target is of the disk's own chain */
    char *base;           /* node of the disk's image that the target is put onto; NULL: that
                               * right below the top one, or as target says */
    char *layer;          /* with a base: node of the image that is being copied; NULL: a driver
                               * that knew it is gone */
    bool reuse;           /* the target exists and is formatted: do not create it */
    bool overlay;         /* of a snapshot's overlay, which is made after "size" */
    bool pending;         /* of a snapshot that is not complete: no client's yet */
    bool pause;           /* the guest's CPUs are stopped while the disk is held */
    bool keep;            /* aborted when ready: the target is a full copy, keep it */

    bool rewind;                    /* a driver died during the pivot: see ferryCopyRewind() */
    bool told;                      /* the mirror job was told to complete, or may have been: QEMU cannot take
                               * that back, and to finalize the job moves the guest, even after a
                               * cancel without force */
    bool held;                      /* the mirror job was PENDING when its group was last asked for */
    bool moved;                     /* QEMU has said that the guest is on the target */
    bool granted;                   /* the "access" step let QEMU open the target */
    bool ready;                     /* clients got the READY event */
    bool reported;                  /* the log says that the definition cannot be saved */
    bool refused;                   /* the call that began it has failed: clients know of no copy */
    bool unsaved;                   /* the persistent definition in memory is newer than its file */
    ferryVolumeRemoval *removal;    /* of the volume, begun by stopped(), and not done yet; or NULL */
    bool synchronous;               /* a guest write ends when both images have it */
    unsigned long long impatient;   /* ms: when a mirror that does not catch up is made so; 0: not begun
                                   * to wait, ULLONG_MAX: QEMU does not do it */
    unsigned long long bandwidth;   /* bytes/s; 0: unlimited */
    unsigned long long granularity; /* bytes; 0: QEMU chooses */
    unsigned long long bufSize;     /* bytes; 0: the mirror step chooses */
    unsigned long long size;        /* of the disk, in bytes; known when "size" has run */
};

/* The operation that pending copies belong to: a domain has only one. */
#define FERRY_COPY_SNAPSHOT "snapshot"

/* Reported when there is something at the target's path, also if it has just come there. */
#define FERRY_COPY_EXISTS \
    _("external destination file for disk %1$s already exists and is not a block device: %2$s; " \
      "name another one, or reuse it (--reuse-external)")

void ferryCopyFree(void *data);
const ferryFile *ferryCopyFileOf(const ferryCopy *copy);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ferryCopy, ferryCopyFree);
FERRY_OP_DATA(ferryCopy, ferryCopyOf, ferryCopyFree);
bool ferryCopyOpensLate(const ferryCopy *copy);
const char *ferryCopyFirstJob(const ferryCopy *copy);
virDomainDiskDef *ferryCopyDisk(ferryOp *op);
int ferryCopyRequireDisk(ferryOp *op);
virStorageSource *ferryCopyImageAbove(virStorageSource *chain, const char *node);
virStorageSource *ferryCopyBase(ferryOp *op);
void ferryCopyTakeOptions(virStorageSource *target, const virDomainDiskDef *disk);
void ferryCopyClearMirror(ferryOp *op);
virStorageSource *ferryCopyTargetBacking(ferryOp *op);
bool ferryCopyIsOneLayer(ferryOp *op);
int ferryCopyDiscard(ferryOp *op);
void ferryCopyYank(ferryOp *op);
void ferryCopyRestoreTarget(ferryOp *op);
GPtrArray *ferryCopyVolumes(ferryOp *op);
bool ferryCopyIsDetected(virStorageSource *target);
void ferryCopySetDetected(virStorageSource *target);
