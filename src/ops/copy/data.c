/*
 * data.c: what a block copy is
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "ops/copy/data.h"
#include "block/source.h"

VIR_ENUM_IMPL(ferryCopyGoal,
              FERRY_COPY_GOAL_LAST,
              "mirror", "pivot", "abort");


void
ferryCopyFree(void *data)
{
    ferryCopy *copy = data;

    g_free(copy->dst);
    virObjectUnref(copy->target);
    virObjectUnref(copy->old);
    g_free(copy);
}


/**
 * ferryCopyDisk:
 *
 * Returns the disk that @op copies. A disk with a mirror cannot be unplugged,
 * so it is there as long as the operation is published.
 */
virDomainDiskDef *
ferryCopyDisk(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);

    return virDomainDiskByTarget(op->vm->def, copy->dst);
}


/**
 * ferryCopyTargetBacking:
 *
 * Returns (a reference to) the image below the target while the copy runs.
 * The backing chain of a reused image is opened only at the pivot: oVirt fills
 * it while the top image is being copied.
 */
virStorageSource *
ferryCopyTargetBacking(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);

    if (copy->reuse)
        return virStorageSourceNew();

    if (copy->shallow && !virStorageSourceHasBacking(copy->target))
        return virObjectRef(ferryCopyDisk(op)->src->backingStore);

    return virObjectRef(copy->target->backingStore);
}


/* Whether only the top layer is copied because it is all there is. Not to a file
 * that we format: as long as that has no data its zeroes cost nothing. */
bool
ferryCopyIsOneLayer(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);

    return !virStorageSourceIsLocalStorage(copy->target) &&
        ferrySourceIsOneRawLayer(ferryCopyDisk(op)->src);
}


/**
 * ferryCopyDiscard:
 *
 * Returns the discard mode of the target while it is copied to. In a file zeroes
 * must not be written where a hole will do; nor in a network image, unless the
 * mirror job would begin with zeroing all of it, which takes seconds over TCP.
 */
int
ferryCopyDiscard(ferryOp *op)
{
    virStorageSource *target = ferryCopyOf(op)->target;

    if (virStorageSourceIsLocalStorage(target) || ferryCopyIsOneLayer(op))
        return VIR_DOMAIN_DISK_DISCARD_UNMAP;

    return target->discard;
}
