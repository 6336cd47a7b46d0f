/*
 * images.c: storage migration: the destination's images that are missing
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "block/bounded.h"
#include "block/durable.h"
#include "block/tool.h"
#include "compat/block.h"
#include "engine/wait.h"
#include "ops/migration/images.h"
#include "ops/migration/incoming.h"
#include "ops/migration/volumes.h"
#include "ops/opfile.h"
#include "virerror.h"
#include "virfile.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.incoming");


static int
ferryIncomingSyncName(ferryOp *op,
                      virStorageSource *image)
{
    g_autoptr(virStorageSource) own = virObjectRef(image);
    int rc;

    virObjectUnlock(op->vm);
    rc = ferryDurableImage(own);
    virObjectLock(op->vm);

    return rc < 0 ? -1 : ferryIncomingRequire(op);
}


/* Asks the storage of the images that we create: everything below works on them with the domain
 * locked. @vm: as for ferryIncomingDiscard() */
static int
ferryIncomingImagesAnswer(ferryOp *op,
                          virDomainObj *vm)
{
    ferryIncoming *incoming = ferryIncomingOf(op);
    g_autoptr(GPtrArray) paths = g_ptr_array_new_with_free_func(g_free);
    size_t i;

    for (i = 0; i < incoming->ndisks; i++)
        ferryOpFileList(paths, incoming->disks[i].image, incoming->disks[i].origin);
    g_ptr_array_add(paths, NULL);

    return ferryBoundedAnswers(vm, (const char *const *) paths->pdata);
}


/* images: create those that are missing. Each is formatted before it gets its name, and
 * keeps root as its owner until the stock driver labels it. */
static int
ferryIncomingFormatImage(ferryOp *op,
                         ferryIncomingDisk *disk)
{
    ferryIncoming *incoming = ferryIncomingOf(op);
    ferryMigrationOffer *offer = g_hash_table_lookup(incoming->req->disks, disk->dst);
    const char *format = virStorageFileFormatTypeToString(disk->image->format);
    g_autoptr(virCommand) cmd = NULL;
    g_autofree char *tool = virFindFileInPath("qemu-img");
    g_autofree char *path = ferryToolPath(disk->file->fd);
    uid_t uid;
    gid_t gid;
    int rc;

    if (!tool) {
        virReportError(VIR_ERR_INTERNAL_ERROR, "%s", _("unable to find qemu-img"));
        return -1;
    }

    cmd = virCommandNewArgList(tool, "create", "-q", "-f", format, NULL);

    if (offer->props.clusterSize > 0 && disk->image->format == VIR_STORAGE_FILE_QCOW2) {
        virCommandAddArg(cmd, "-o");
        virCommandAddArgFormat(cmd, "cluster_size=%llu%s%s%s", offer->props.clusterSize,
                               offer->props.subclusters ? ",extended_l2=on" : "",
                               offer->props.old ? ",compat=0.10" : "",
                               offer->props.lazy ? ",lazy_refcounts=on" : "");
    }

    if (incoming->req->flags & VIR_MIGRATE_NON_SHARED_INC) {
        /* -u: do not open the backing image; QEMU will, as its own user */
        virCommandAddArgList(cmd, "-u", "-b", offer->backing, "-F",
                             virStorageFileFormatTypeToString(offer->backingFormat), NULL);
    }

    virCommandAddArg(cmd, path);
    virCommandAddArgFormat(cmd, "%llu", offer->capacity);

    ferryBlockImageIds(op->driver, op->vm, disk->image, &uid, &gid);

    /* The asynchronous job of the migration keeps the domain; its lock must not be held while
     * the tool works. */
    virObjectUnlock(op->vm);
    rc = ferryToolRun(g_steal_pointer(&cmd), disk->file->fd, /* lend= */ true, uid, gid);
    virObjectLock(op->vm);

    return rc < 0 ? -1 : ferryIncomingRequire(op);
}


static int
ferryIncomingTouch(ferryOp *op,
                   ferryIncomingDisk *disk)
{
    int rc = ferryOpFileMake(op, disk->image, disk->file);

    if (rc > 0)
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("image '%1$s' of disk '%2$s' of domain '%3$s' was missing, and somebody else "
                         "has just made it: migrate again"),
                       disk->image->path, disk->dst, op->vm->def->name);

    return rc == 0 ? 0 : -1;
}


static int
ferryIncomingCreateImage(ferryOp *op,
                         ferryIncomingDisk *disk)
{
    /* without nameless files (file.c) the image gets its name first */
    if (disk->file->fd < 0)
        return ferryIncomingTouch(op, disk) < 0 ? -1 : ferryIncomingFormatImage(op, disk);

    return ferryIncomingFormatImage(op, disk) < 0 ? -1 : ferryIncomingTouch(op, disk);
}


static int
ferryIncomingRunImages(ferryOp *op)
{
    ferryIncoming *incoming = ferryIncomingOf(op);
    size_t i;

    if (ferryIncomingImagesAnswer(op, op->vm) < 0 || ferryIncomingRequire(op) < 0)
        return -1;

    for (i = 0; i < incoming->ndisks; i++) {
        ferryIncomingDisk *disk = &incoming->disks[i];

        if (disk->file && ferryIncomingCreateImage(op, disk) < 0)
            return -1;

        /* the source's images are given up for these, so their names must be on the disk */
        if ((disk->file || disk->volume) && ferryIncomingSyncName(op, disk->image) < 0)
            return -1;
    }

    return 0;
}


/* Returns whether the storage of what we created answers; otherwise that is in the log. */
static bool
ferryIncomingMayRemove(ferryOp *op,
                       virDomainObj *vm)
{
    virErrorPtr err = NULL;
    int rc;

    virErrorPreserveLast(&err);
    if ((rc = ferryIncomingImagesAnswer(op, vm)) < 0)
        VIR_WARN("what incoming migration of domain '%s' has created cannot be removed%s: %s",
                 NULLSTR(ferryIncomingOf(op)->domain), op->over ? "; remove it by hand" : " yet",
                 virGetLastErrorMessage());
    virErrorRestore(&err);

    return rc == 0;
}


/**
 * ferryIncomingDiscard:
 * @vm: the domain, locked, whose lock is released meanwhile; NULL: the caller holds no lock
 *
 * Removes the images and volumes that we created for a guest that never ran here and goes on at the
 * source. No QEMU may be using them; @op may be over. The definitions of the domain
 * itself, which name them, do not count, unless @op was read from a journal: since then
 * the domain may have been defined on the images. Keeps the last error.
 *
 * If storage does not answer or a volume could not be deleted, @op is stuck (op->stuck).
 */
void
ferryIncomingDiscard(ferryOp *op,
                     virDomainObj *vm)
{
    ferryIncoming *incoming = ferryIncomingOf(op);
    g_autoptr(ferryUse) use = NULL;
    bool silent = false;
    size_t i;

    /* stopped() has asked in another way */
    if (!op->stopped && !ferryIncomingMayRemove(op, vm))
        op->stuck = silent = true;

    use = incoming->domain ? ferryUseNew(op->driver, incoming->domain) : ferryOpFileUse(op);
    for (i = 0; !silent && i < incoming->ndisks; i++) {
        ferryIncomingDisk *disk = &incoming->disks[i];

        ferryOpFileRemove(op, use, /* vm= */ NULL, disk->image, disk->origin, disk->file);
    }

    ferryIncomingDiscardVolumes(op, vm);
}


static void
ferryIncomingUndo(ferryOp *op)
{
    ferryIncomingDiscard(op, op->vm);
}


const ferryPlan ferryIncomingVolumesPlan = {
    .name = "volumes",
    .steps = (const ferryStep[]) {
        { .name = "volumes", .run = ferryIncomingRunVolumes, .undo = ferryIncomingUndo, .durable = true },
        { 0 },
    },
};


/* Its undo also deletes the volumes: no volume stays without the images. */
const ferryPlan ferryIncomingImagesPlan = {
    .name = "images",
    .steps = (const ferryStep[]) {
        { .name = "images", .run = ferryIncomingRunImages, .undo = ferryIncomingUndo, .durable = true },
        { 0 },
    },
};
