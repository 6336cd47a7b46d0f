/*
 * start.c: block copy: the steps from a request to a running mirror
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The operation exists from the first step until the copy is pivoted, is aborted or
 * fails. An abort undoes the steps below; a pivot is a second plan (pivot.c) after them.
 *
 * While the mirror job runs, target and source bypass the host's page cache where the
 * storage supports it. This takes a fraction of the CPU time, does not push the guest's
 * data out of the cache, and leaves nothing to flush while the guest waits for the pivot.
 * Afterwards the cache mode of the disk's definition applies again.
 */

#include <config.h>

#include "block/access.h"
#include "block/bitmap.h"
#include "block/cache.h"
#include "block/durable.h"
#include "block/feature.h"
#include "block/identity.h"
#include "block/like.h"
#include "block/node.h"
#include "block/nodename.h"
#include "block/qmp.h"
#include "engine/wait.h"
#include "ops/copy/data.h"
#include "ops/copy/layers.h"
#include "ops/copy/start.h"
#include "ops/opfile.h"
#include "ops/opvolume.h"
#include "domain_audit.h"
#include "qemu/qemu_block.h"
#include "virerror.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.copy");

/* Bytes that the mirror job has in flight. QEMU's default of 16 MiB starves a TCP
 * connection; more than 64 MiB gains nothing. A local disk needs less, and at the pivot
 * the guest waits while QEMU frees this memory: 6 ms for 64 MiB. But the job also steps
 * over holes in pieces of this size, which is all that it does on a large sparse disk. */
#define FERRY_COPY_BUF_MAX (64 * 1024 * 1024)
#define FERRY_COPY_BUF_LOCAL (8 * 1024 * 1024)
#define FERRY_COPY_BUF_PIECES 8192 /* of a disk */

/* Creating an image takes little time, but the server of a remote image may hang. */
#define FERRY_COPY_CREATE_MS (20 * 1000)


/* Makes the target the disk's <mirror>. */
static void
ferryCopyShow(ferryOp *op)
{
    virDomainDiskDef *disk = ferryCopyDisk(op);

    disk->mirror = virObjectRef(ferryCopyOf(op)->target);
    disk->mirrorJob = VIR_DOMAIN_BLOCK_JOB_TYPE_COPY;
    disk->mirrorState = VIR_DOMAIN_DISK_MIRROR_STATE_NONE;

    qemuDomainSaveStatus(op->vm);
}


/* publish: makes the target the disk's <mirror>, which keeps other operations off, and
 * creates the target's file without a name: the entry of "file" has its inode (file.c) */
static int
ferryCopyPublish(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);

    /* it would keep off the snapshot, too: see ferryCopyCacheOff() */
    if (!copy->overlay)
        ferryCopyShow(op);

    if (ferryOpFileAnswers(op, copy->target) < 0)
        return -1;

    return ferryImagePrepare(op->vm, copy->target, copy->origin, &copy->file);
}


static void
ferryCopyUnpublish(ferryOp *op)
{
    virDomainDiskDef *disk = ferryCopyDisk(op);

    if (disk && disk->mirror && disk->mirror == ferryCopyOf(op)->target)
        ferryCopyClearMirror(op);
}


/* file: gives the target, an empty file, its name, so that "access" can label it */
static int
ferryCopyFile(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    int rc = ferryOpFileAnswers(op, copy->target);

    if (rc == 0 && copy->volume) {
        if (ferryCopyRequireDisk(op) < 0)
            return -1;
        return ferryOpVolumeCreate(op, copy->target, ferryCopyDisk(op), &copy->volume);
    }

    if (rc < 0 || (rc = ferryOpFileMake(op, copy->target, copy->file)) < 0)
        return -1;

    if (rc > 0)
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED, FERRY_COPY_EXISTS, copy->dst, copy->target->path);

    return rc == 0 ? 0 : -1;
}


static void
ferryCopyUnfile(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    g_autoptr(GPtrArray) volumes = ferryCopyVolumes(op);

    if (ferryOpFileAnswers(op, copy->target) < 0) {
        op->stuck = true;
    } else if (copy->keep) {
        ferryOpFileKeep(op, copy->target);
    } else {
        ferryCopyRestoreTarget(op);
        /* no definition may name a volume that is deleted */
        if (copy->volume)
            ferryCopyUnpublish(op);
        if (ferryOpVolumeDiscard(op, volumes) < 0) {
            if (!ferryOpIsLost(op))
                VIR_WARN("domain '%s': %s", op->vm->def->name, virGetLastErrorMessage());
            op->stuck = true;
        }
    }
}


/* access: lets QEMU open the target */
static int
ferryCopyGrant(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    virStorageSource *backing = NULL;
    int rc;

    /* labels are set by name: not on what somebody else has put there */
    if (ferryOpFileAnswers(op, copy->target) < 0 ||
        ferryImageCheckOurs(op->vm, copy->target, ferryCopyFileOf(copy)) < 0)
        return -1;

    /* it need not be there yet */
    if (copy->overlay)
        backing = g_steal_pointer(&copy->target->backingStore);
    rc = ferryAccessGrant(op->vm, copy->target);
    if (copy->overlay)
        copy->target->backingStore = backing;

    copy->granted = rc == 0;
    return rc;
}


static void
ferryCopyRevoke(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);

    if (ferryOpFileAnswers(op, copy->target) < 0) {
        op->stuck = true;
        return;
    }

    /* only what this copy granted: an image in use before still needs its labels */
    if (copy->granted)
        ferryAccessRevoke(op->vm, copy->target);
    copy->granted = false;
}


/* backing: adds the chain that the client gave for the target of a shallow copy */
static bool
ferryCopyHasOwnBacking(ferryCopy *copy)
{
    return copy->shallow && !ferryCopyOpensLate(copy) && virStorageSourceHasBacking(copy->target);
}


static bool
ferryCopyAddsNoBacking(ferryOp *op)
{
    return !ferryCopyHasOwnBacking(ferryCopyOf(op));
}


static int
ferryCopyAddBacking(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);

    if (!ferryCopyHasOwnBacking(copy))
        return 0;

    return ferryNodeAddChain(op->vm, copy->target->backingStore);
}


static void
ferryCopyRemoveBacking(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);

    if (ferryCopyHasOwnBacking(copy))
        ferryNodeRemove(op->vm, copy->target->backingStore);
}


/* create, format: create the image, unless one is reused. Both steps are "alone": QEMU up
 * to 7.2 dies when it is asked for its nodes while an image is being formatted. */
static int
ferryCopyCreateLayer(ferryOp *op,
                     bool storage)
{
    ferryCopy *copy = ferryCopyOf(op);
    g_autofree char *jobname = ferryJobName(op, "create");
    g_autoptr(virStorageSource) backing = NULL;
    g_auto(ferryJobInfo) info = { 0 };
    int rc;

    if (copy->reuse)
        return 0;

    if (ferryOpFileAnswers(op, copy->target) < 0 ||
        ferryImageCheckOurs(op->vm, copy->target, ferryCopyFileOf(copy)) < 0)
        return -1;

    backing = copy->overlay ? virObjectRef(copy->target->backingStore) : ferryCopyTargetBacking(op);

    if ((rc = ferryImageFormatStart(op->vm, copy->target, backing, storage, jobname)) <= 0)
        return rc;

    if (ferryJobWait(op, jobname, FERRY_JOB_STATE(CONCLUDED), FERRY_COPY_CREATE_MS, &info) < 0)
        return -1;

    ferryJobDismiss(op, jobname);

    if (info.error) {
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("failed to format image '%1$s' for disk '%2$s' of domain '%3$s': %4$s"),
                       NULLSTR(copy->target->path), copy->dst, op->vm->def->name, info.error);
        return -1;
    }

    return 0;
}


static int
ferryCopyCreate(ferryOp *op)
{
    g_autoptr(ferryLike) like = NULL;
    ferryCopy *copy = ferryCopyOf(op);

    if (copy->reuse)
        return 0;

    /* on a device there is nothing to create */
    if (copy->target->sliceStorage && !virStorageSourceIsBlockLocal(copy->target)) {
        virReportError(VIR_ERR_OPERATION_UNSUPPORTED, "%s",
                       _("creation of images with slice type='storage' is not supported"));
        return -1;
    }

    if (!(like = ferryLikeAsk(op->vm)) || ferryCopyRequireDisk(op) < 0 ||
        ferryLikeApply(like, copy->target, ferryCopyDisk(op)->src, /* lasting= */ true) < 0)
        return -1;

    return ferryCopyCreateLayer(op, /* storage= */ true);
}


static int
ferryCopyFormatImage(ferryOp *op)
{
    return ferryCopyCreateLayer(op, /* storage= */ false);
}


static void
ferryCopyUncreate(ferryOp *op)
{
    g_autofree char *jobname = ferryJobName(op, "create");

    ignore_value(ferryJobKill(op, jobname));
}


static bool
ferryCopyIsPlain(ferryOp *op)
{
    return ferryImageIsPlain(ferryCopyOf(op)->target);
}


/* storage, node: add the target's nodes to QEMU. For a plain image "node" adds both,
 * because QEMU formats it without a storage node. */
static int
ferryCopyAddStorage(ferryOp *op)
{
    return ferryCopyIsPlain(op) ? 0 : ferryNodeAddStorage(op->vm, ferryCopyOf(op)->target);
}


static int
ferryCopyAddPlainStorage(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    int cachemode = copy->target->cachemode;
    int rc;

    if (ferryNodeMayBypassCache(op->vm, copy->target)) {
        copy->target->cachemode = VIR_DOMAIN_DISK_CACHE_DISABLE;
        rc = ferryNodeAddStorage(op->vm, copy->target);
        copy->target->cachemode = cachemode;

        /* not every file system supports direct I/O */
        if (rc == 0)
            return 0;
        virResetLastError();
    }

    return ferryNodeAddStorage(op->vm, copy->target);
}


static int
ferryCopyAddNode(ferryOp *op)
{
    virStorageSource *target = ferryCopyOf(op)->target;
    g_autoptr(virStorageSource) backing = NULL;
    int discard = target->discard;
    int rc;

    if (ferryOpFileAnswers(op, target) < 0)
        return -1;

    backing = ferryCopyTargetBacking(op);

    if (ferryImageCheckOurs(op->vm, target, ferryCopyFileOf(ferryCopyOf(op))) < 0 ||
        (ferryImageIsPlain(target) && ferryCopyAddPlainStorage(op) < 0))
        return -1;

    target->discard = ferryCopyDiscard(op);
    rc = ferryNodeAddFormat(op->vm, target, backing);
    target->discard = discard;

    /* the pivot must not go to a file that is put under the target's name from now on */
    if (rc == 0)
        ferryIdentityLearn(op->vm, target);

    return rc;
}


static void
ferryCopyRemoveNodes(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    virStorageSource *backing = g_steal_pointer(&copy->target->backingStore);

    /* hidden: another step removes the chain below, or it was not added by this copy */
    ferryNodeRemove(op->vm, copy->target);
    copy->target->backingStore = backing;
}


/* size: what shows only now that QEMU has opened the target. QEMU would notice another size
 * only after the guest's disk changed its own, and missing room for bitmaps at the pivot. */
static int
ferryCopyCheckSize(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    g_autoptr(GHashTable) nodes = ferryNodeData(op->vm);
    virStorageSource *src;
    unsigned long long sizes[2];

    /* after the wait for QEMU */
    if (!nodes || ferryCopyRequireDisk(op) < 0)
        return -1;

    src = ferryCopyDisk(op)->src;
    if (ferryBitmapsFit(op->vm, nodes, src, copy->target, ferryCopyBase(op)) < 0 ||
        ferryNodeCapacity(nodes, ferryNodeName(src), &sizes[0]) < 0 ||
        ferryNodeCapacity(nodes, ferryNodeName(copy->target), &sizes[1]) < 0)
        return -1;

    if (copy->granularity == 0)
        copy->granularity = ferryLikeGranularity(nodes, ferryNodeName(copy->target));

    if (sizes[0] == sizes[1]) {
        copy->size = sizes[0];
        return 0;
    }

    virReportError(VIR_ERR_OPERATION_FAILED,
                   _("target '%1$s' has %2$llu bytes but disk '%3$s' of domain '%4$s' has %5$llu: %6$s"),
                   NULLSTR(copy->target->path), sizes[1], copy->dst, op->vm->def->name, sizes[0],
                   sizes[1] < sizes[0] ? _("use a larger target") :
                                         _("name a target that is as large as the disk"));
    return -1;
}


/* cache: makes source and target bypass the page cache. Not before the target is
 * formatted: that takes many small writes, each of which would wait for the disk. */
static int
ferryCopyCacheOff(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);

    if (ferryCopyRequireDisk(op) < 0)
        return -1;

    if (copy->overlay)
        ferryCopyShow(op);

    /* "node" opened a plain target with direct I/O already, if possible */
    if (!ferryImageIsPlain(copy->target))
        ferryNodeBypassCache(op->vm, ferryCopyDisk(op), copy->target, /* direct= */ true);
    ferryNodeReadDirect(op->vm, ferryCopyDisk(op), ferryCopyBase(op), /* direct= */ true);
    return 0;
}


/* Only for the source: the undo of "storage" removes the target's nodes. */
static void
ferryCopyCacheBack(ferryOp *op)
{
    virDomainDiskDef *disk = ferryCopyDisk(op);

    if (disk)
        ferryNodeReadDirect(op->vm, disk, ferryCopyBase(op), /* direct= */ false);
}


/* mirror: starts the mirror job */
static unsigned long long
ferryCopyBufSize(ferryCopy *copy)
{
    if (copy->bufSize > 0)
        return copy->bufSize;

    if (!virStorageSourceIsLocalStorage(copy->target))
        return FERRY_COPY_BUF_MAX;

    return CLAMP(copy->size / FERRY_COPY_BUF_PIECES, FERRY_COPY_BUF_LOCAL, FERRY_COPY_BUF_MAX);
}


/* Returns whether the target certainly reads as zeroes, and QEMU can be told so: it is a file that was
 * empty, or has just been formatted as qcow2. What was never written of an encrypted raw image is no
 * zeroes. */
static bool
ferryCopyTargetIsZero(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);

    if (copy->reuse || copy->shallow ||
        (copy->target->format != VIR_STORAGE_FILE_QCOW2 &&
         (copy->target->format != VIR_STORAGE_FILE_RAW || copy->target->encryption ||
          copy->origin == FERRY_IMAGE_FOREIGN)))
        return false;

    return ferryFeatureHas(op->vm, FERRY_FEATURE_TARGET_IS_ZERO);
}


static int
ferryCopyMirror(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    bool zero = ferryCopyTargetIsZero(op);
    virDomainDiskDef *disk = ferryCopyDisk(op);
    g_autofree char *jobname = ferryJobName(op, "mirror");
    ferryMirrorParams params = {
        .target = ferryNodeName(copy->target),
        .targetIsZero = zero,
        .shallow = copy->shallow || ferryCopyIsOneLayer(op),
        .synchronous = copy->synchronous,
        .bandwidth = copy->bandwidth,
        .granularity = copy->granularity,
        .bufSize = ferryCopyBufSize(copy),
        .decisive = true,
    };
    int rc;

    if (ferryCopyRequireDisk(op) < 0)
        return -1;

    params.source = qemuDomainDiskGetTopNodename(disk);
    if (ferryNodeHasFilter(disk)) /* the pivot replaces the image below it */
        params.replaces = ferryNodeName(disk->src);
    rc = ferryQMPMirror(op->vm, jobname, &params);

    virDomainAuditDisk(op->vm, /* oldDef= */ NULL, copy->target, "mirror", rc == 0);
    return rc;
}


static void
ferryCopyUnmirror(ferryOp *op)
{
    g_autofree char *jobname = ferryJobName(op, "mirror");
    virDomainDiskDef *disk = ferryCopyDisk(op);

    if (disk)
        ferryNodeHoldSource(op->vm, disk);

    ferryCopyYank(op);
    if (ferryJobKill(op, jobname) < 0)
        VIR_WARN("the mirror job of disk '%s' of domain '%s' does not end: %s",
                 ferryCopyOf(op)->dst, op->vm->def->name, virGetLastErrorMessage());
}


const ferryPlan ferryCopyStartPlan = {
    .name = "start",
    .steps = (const ferryStep[]) {
        { .name = "publish", .run = ferryCopyPublish, .undo = ferryCopyUnpublish },
        { .name = "file", .run = ferryCopyFile, .undo = ferryCopyUnfile, .durable = true },
        { .name = "access", .run = ferryCopyGrant, .undo = ferryCopyRevoke },
        { .name = "backing", .run = ferryCopyAddBacking, .undo = ferryCopyRemoveBacking, .idle = ferryCopyAddsNoBacking },
        { .name = "create", .run = ferryCopyCreate, .undo = ferryCopyUncreate, .alone = true },
        { .name = "storage", .run = ferryCopyAddStorage, .undo = ferryCopyRemoveNodes, .idle = ferryCopyIsPlain },
        { .name = "format", .run = ferryCopyFormatImage, .undo = ferryCopyUncreate, .alone = true },
        { .name = "node", .run = ferryCopyAddNode },
        { .name = "size", .run = ferryCopyCheckSize },
        { .name = "cache", .run = ferryCopyCacheOff, .undo = ferryCopyCacheBack },
        { .name = "layer", .run = ferryLayersCopy, .undo = ferryLayersStop, .idle = ferryLayersNone },
        { .name = "mirror", .run = ferryCopyMirror, .undo = ferryCopyUnmirror },
        { 0 },
    },
};
