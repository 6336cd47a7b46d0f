/*
 * data.h: mirrored snapshots: the data of the operation
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "block/image.h"
#include "engine/op.h"
#include "ops/copy/request.h"
#include "ops/quiesce.h"
#include "virdomainsnapshotobjlist.h"

/* Takes the snapshot: the stock driver's call. No lock or job is held. Returns 0, or -1 with an
 * error reported. */
typedef int (*ferrySnapshotTaker)(void *opaque);

/* A disk that gets an overlay. The journal holds the first group of fields. */
typedef struct {
    char *dst;
    char *base;                /* format node of the disk's image before the snapshot */
    virStorageSource *overlay; /* by name only; the stock driver has its own of the same name */
    ferryImageOrigin origin;   /* what was at the overlay's path before */
    ferryFile *file;           /* the overlay's file, if it was made for the snapshot */
    bool reverted;             /* the image below has all that the guest has written */
    bool paused;               /* the guest's CPUs are stopped, for the end of its commit */

    bool unsaved;             /* the configuration in memory names the base again, its file does not */
    virStorageSource *mirror; /* target of its copy; NULL: there is none */
    ferryCopy *copy;          /* the checked copy, until "copies" has begun it */
} ferrySnapshotDisk;

typedef struct _ferrySnapshotLooks ferrySnapshotLooks; /* stopped.c */

typedef struct _ferrySnapshot ferrySnapshot;
struct _ferrySnapshot {
    char *name;       /* of the snapshot in the domain's list */
    bool metadata;    /* it gets into that list */
    GPtrArray *disks; /* of ferrySnapshotDisk */
    ferryQuiesce quiesce;
    bool complete; /* nothing is to be taken back any more */

    bool taking;             /* the stock driver is at it */
    bool lingers;            /* a commit that was given up has not ended yet */
    GPtrArray *driven;       /* copies that the client's thread drives; NULL: there is none */
    bool reuse;              /* overlays and mirrors exist and are formatted */
    ferrySnapshotTaker take; /* valid while the client's call lasts, as is the next */
    void *opaque;
    ferrySnapshotLooks *looks; /* at the overlays, when QEMU has ended */
};

void ferrySnapshotLooksUnref(void *opaque);

void ferrySnapshotFree(void *data);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ferrySnapshot, ferrySnapshotFree);
FERRY_OP_DATA(ferrySnapshot, ferrySnapshotOf, ferrySnapshotFree);
ferrySnapshot *ferrySnapshotNew(void);
ferrySnapshotDisk *ferrySnapshotAddDisk(ferrySnapshot *snapshot);
ferrySnapshotDisk *ferrySnapshotDiskAt(ferrySnapshot *snapshot, size_t i);
bool ferrySnapshotHasImage(virDomainMomentObj *moment, const char *dst, virStorageSource *image);
GPtrArray *ferrySnapshotCopies(ferryOp *op);
int ferrySnapshotFormat(ferryOp *op, virBuffer *buf);
void *ferrySnapshotParse(virQEMUDriver *driver, xmlXPathContextPtr ctxt);
