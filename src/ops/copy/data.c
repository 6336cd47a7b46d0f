/*
 * data.c: block copy: the data of the operation
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "block/feature.h"
#include "block/nodename.h"
#include "block/qmp.h"
#include "block/source.h"
#include "ops/copy/data.h"
#include "ops/opfile.h"
#include "virerror.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_ENUM_IMPL(ferryCopyGoal,
              FERRY_COPY_GOAL_LAST,
              "mirror",
              "pivot",
              "abort");


void
ferryCopyFree(void *data)
{
    ferryCopy *copy = data;

    g_free(copy->dst);
    g_free(copy->base);
    g_free(copy->layer);
    virObjectUnref(copy->target);
    virObjectUnref(copy->old);
    ferryFileFree(copy->file);
    ferryVolumeFree(copy->volume);
    ferryVolumeRemovalUnref(copy->removal);
    g_free(copy);
}


/**
 * ferryCopyFileOf:
 *
 * Returns which file the target is, if it was created for the copy; NULL: it was not, or is none.
 */
const ferryFile *
ferryCopyFileOf(const ferryCopy *copy)
{
    return copy->volume ? copy->volume->file : copy->file;
}


/**
 * ferryCopyOpensLate:
 *
 * Returns whether the images below the target are opened only at the pivot, because somebody else
 * puts them there while the top image is copied.
 */
bool
ferryCopyOpensLate(const ferryCopy *copy)
{
    return copy->shallow && !copy->base && (copy->reuse || copy->overlay);
}


/**
 * ferryCopyFirstJob:
 *
 * Returns the step of the start plan that starts the first job: the call that begins the copy is
 * answered then.
 */
const char *
ferryCopyFirstJob(const ferryCopy *copy)
{
    return copy->base ? "layer" : "mirror";
}


/**
 * ferryCopyDisk:
 *
 * Returns the disk of @op, or NULL. Clients cannot unplug a disk that has a mirror, but the
 * guest can eject it: then the disk is gone whenever the domain's job was not held.
 */
virDomainDiskDef *
ferryCopyDisk(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);

    return virDomainDiskByTarget(op->vm->def, copy->dst);
}


/**
 * ferryCopyRequireDisk:
 *
 * Returns 0 while the domain has the disk of @op, else -1 with an error reported. To be
 * asked before a step uses the disk, after whatever released the domain's job.
 */
int
ferryCopyRequireDisk(ferryOp *op)
{
    if (ferryCopyDisk(op))
        return 0;

    virReportError(VIR_ERR_OPERATION_FAILED,
                   _("domain '%1$s' has no disk '%2$s' any more: its copy ends"),
                   op->vm->def->name, ferryCopyOf(op)->dst);
    return -1;
}


/**
 * ferryCopyImageAbove:
 *
 * Returns the image of @chain, borrowed, that is right above the one whose node is @node; NULL if there
 * is none.
 */
virStorageSource *
ferryCopyImageAbove(virStorageSource *chain,
                    const char *node)
{
    virStorageSource *n;

    for (n = chain; virStorageSourceIsBacking(n); n = n->backingStore) {
        if (virStorageSourceIsBacking(n->backingStore) && STREQ_NULLABLE(ferryNodeName(n->backingStore), node))
            return n;
    }

    return NULL;
}


/**
 * ferryCopyBase:
 *
 * Returns the image of the disk's chain, borrowed, above which everything is copied; NULL: everything
 * is, or the disk is gone. Domain locked.
 */
virStorageSource *
ferryCopyBase(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    virDomainDiskDef *disk = ferryCopyDisk(op);
    virStorageSource *above;

    if (!copy->shallow || !disk)
        return NULL;

    if (!copy->base)
        return disk->src->backingStore;

    above = ferryCopyImageAbove(disk->src, copy->base);
    return above ? above->backingStore : NULL;
}


/* The options that the definition gives a disk count for the image that it uses. */
void
ferryCopyTakeOptions(virStorageSource *target,
                     const virDomainDiskDef *disk)
{
    target->cachemode = disk->cachemode;
    target->iomode = disk->iomode;
    target->discard = disk->discard;
    target->detect_zeroes = disk->detect_zeroes;
}


/* Takes the <mirror> out of the live definition, if the disk is still there. */
void
ferryCopyClearMirror(ferryOp *op)
{
    virDomainDiskDef *disk = ferryCopyDisk(op);

    /* what ends late may find another job there */
    if (!disk || disk->mirror != ferryCopyOf(op)->target)
        return;

    g_clear_pointer(&disk->mirror, virObjectUnref);
    disk->mirrorJob = VIR_DOMAIN_BLOCK_JOB_TYPE_UNKNOWN;
    disk->mirrorState = VIR_DOMAIN_DISK_MIRROR_STATE_NONE;

    qemuDomainSaveStatus(op->vm);
}


/**
 * ferryCopyTargetBacking:
 *
 * Returns a new reference to the image below the target while the copy runs. For a
 * late chain this is an empty source, meaning no backing image: the chain is opened
 * only at the pivot, because oVirt fills it while the top image is being copied.
 */
virStorageSource *
ferryCopyTargetBacking(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    virDomainDiskDef *disk = ferryCopyDisk(op);

    if (ferryCopyOpensLate(copy) || (copy->reuse && !copy->base) || !disk)
        return virStorageSourceNew();

    if (copy->shallow && !virStorageSourceHasBacking(copy->target))
        return virObjectRef(ferryCopyBase(op));

    return virObjectRef(copy->target->backingStore);
}


/* Returns whether the mirror job is told to copy only the top layer because the source
 * has no other (ferrySourceIsOneRawLayer). A local target does not need that: zeroing a
 * new file, which has no data yet, costs nothing. */
bool
ferryCopyIsOneLayer(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    virDomainDiskDef *disk = ferryCopyDisk(op);

    return !virStorageSourceIsLocalStorage(copy->target) && disk &&
           ferrySourceIsOneRawLayer(disk->src);
}


/**
 * ferryCopyDiscard:
 *
 * Returns the discard mode of the target while the mirror job runs. With "unmap", QEMU
 * makes holes instead of writing zeroes, but a full mirror also begins with zeroing the
 * whole target. That takes long if a server has no holes to make: of network images only
 * those that ferryCopyIsOneLayer() accepts get it, unless QEMU (not 7.2, but 10.0) would
 * allocate all the zeroes else. Domain locked, job held; may ask QEMU.
 */
int
ferryCopyDiscard(ferryOp *op)
{
    virStorageSource *target = ferryCopyOf(op)->target;

    if (virStorageSourceIsLocalStorage(target) || ferryCopyIsOneLayer(op) ||
        ferryFeatureHas(op->vm, FERRY_FEATURE_SET_ACTIVE))
        return VIR_DOMAIN_DISK_DISCARD_UNMAP;

    return target->discard;
}


/**
 * ferryCopyYank:
 *
 * The mirror job is being cancelled. If nobody is to use the target, and it is on an NBD server, cuts the
 * connection to it: the job ends when its requests have, and a slow server may need a minute for what is in
 * flight. Domain locked, job held. Reports no error.
 */
void
ferryCopyYank(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);

    if (!copy->keep && virStorageSourceGetActualType(copy->target) == VIR_STORAGE_TYPE_NETWORK &&
        copy->target->protocol == VIR_STORAGE_NET_PROTOCOL_NBD)
        ferryQMPYank(op->vm, ferryNodeStorage(copy->target));
}


/**
 * ferryCopyRestoreTarget:
 *
 * Removes the target's file, or empties it again, if that is what it was before the copy.
 * Domain locked; op->vm is NULL if the domain is gone.
 */
void
ferryCopyRestoreTarget(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    g_autoptr(ferryUse) use = ferryOpFileUse(op);

    ferryOpFileRemove(op, use, op->vm, copy->target, copy->origin, copy->file);
}


/**
 * ferryCopyVolumes:
 *
 * Returns a list, for ferryOpVolumeDiscard(), with what was created through a pool. The caller
 * frees it.
 */
GPtrArray *
ferryCopyVolumes(ferryOp *op)
{
    GPtrArray *volumes = g_ptr_array_new();

    g_ptr_array_add(volumes, &ferryCopyOf(op)->volume);
    return volumes;
}


/**
 * ferryCopyIsDetected:
 *
 * Returns whether the chain below @target was detected in the image, not named by the
 * client: only a named one goes into the configuration. The XML does not record which.
 */
bool
ferryCopyIsDetected(virStorageSource *target)
{
    return target->backingStore && target->backingStore->detected;
}


void
ferryCopySetDetected(virStorageSource *target)
{
    virStorageSource *n;

    for (n = target->backingStore; virStorageSourceIsBacking(n); n = n->backingStore)
        n->detected = true;
}
