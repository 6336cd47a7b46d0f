/*
 * volumes.c: storage migration: the destination's volumes that are missing
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A disk that is named by pool and volume is created through its pool, as the stock driver
 * does, and deleted through the pool when the migration fails. The journal has the names of the
 * volume before it is created, and its key right after that.
 */

#include <config.h>

#include "engine/journal.h"
#include "engine/leftover.h"
#include "engine/wait.h"
#include "ops/migration/volumes.h"
#include "virerror.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.migration");


/* Returns 0 if @op goes on after its domain was unlocked, or -1 with an error reported. */
int
ferryIncomingRequire(ferryOp *op)
{
    if (!ferryOpIsLost(op))
        return 0;

    virReportError(VIR_ERR_OPERATION_FAILED,
                   _("domain '%1$s' was removed while its images were created"),
                   op->vm->def->name);
    return -1;
}


/* The image of @disk is missing: returns 0 if it can be created, or -1 with an error reported. */
int
ferryIncomingCheckMissing(virDomainObj *vm,
                          const ferryMigrationRequest *req,
                          ferryIncomingDisk *disk)
{
    ferryMigrationOffer *offer = g_hash_table_lookup(req->disks, disk->dst);
    virStorageSource *src = disk->image;
    const char *name = src->srcpool ? src->srcpool->volume : src->path;

    if (!offer) {
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("image '%1$s' of disk '%2$s' of domain '%3$s' is missing, and the source does "
                         "not say how large it is to be: create it"),
                       name, disk->dst, vm->def->name);
        return -1;
    }

    if (src->encryption) {
        virReportError(VIR_ERR_OPERATION_UNSUPPORTED,
                       _("image '%1$s' of disk '%2$s' of domain '%3$s' is encrypted: create it"),
                       name, disk->dst, vm->def->name);
        return -1;
    }

    if ((req->flags & VIR_MIGRATE_NON_SHARED_INC) && !offer->backing) {
        virReportError(VIR_ERR_OPERATION_UNSUPPORTED,
                       _("image '%1$s' of disk '%2$s' of domain '%3$s' is missing, and its backing "
                         "image is not known: create it"),
                       name, disk->dst, vm->def->name);
        return -1;
    }

    return 0;
}


static int
ferryIncomingCreateVolume(ferryOp *op,
                          ferryIncomingDisk *disk)
{
    const ferryMigrationRequest *req = ferryIncomingOf(op)->req;
    ferryMigrationOffer *offer = g_hash_table_lookup(req->disks, disk->dst);
    g_autoptr(virStorageSource) image = virObjectRef(disk->image);
    bool overlay = req->flags & VIR_MIGRATE_NON_SHARED_INC;
    ferryVolumeSpec spec = { .format = image->format };
    int rc;

    if ((rc = ferryVolumeExists(op->vm, image)) < 0 || ferryIncomingRequire(op) < 0)
        return -1;

    if (rc > 0)
        return 0;

    if (ferryIncomingCheckMissing(op->vm, req, disk) < 0)
        return -1;

    spec.capacity = offer->capacity;
    spec.props = offer->props;
    spec.backing = overlay ? offer->backing : NULL;
    spec.backingFormat = offer->backingFormat;

    disk->volume = ferryVolumeNew(image->srcpool->pool, image->srcpool->volume);

    if (ferryJournalWrite(op->vm, /* durable= */ true) < 0 ||
        ferryVolumeCreate(op->vm, image, &spec, disk->volume) < 0) {
        g_clear_pointer(&disk->volume, ferryVolumeFree);
        return -1;
    }

    if (ferryIncomingRequire(op) < 0) {
        ferryIncomingDiscardVolumes(op);
        return -1;
    }

    return ferryJournalWrite(op->vm, /* durable= */ true);
}


/* volumes: create those that are missing. The asynchronous job of the migration keeps the
 * domain; its lock is not held while the storage driver is asked. */
int
ferryIncomingRunVolumes(ferryOp *op)
{
    ferryIncoming *incoming = ferryIncomingOf(op);
    size_t i;

    for (i = 0; i < incoming->ndisks; i++) {
        virStorageSource *image = incoming->disks[i].image;

        if (image->type == VIR_STORAGE_TYPE_VOLUME && image->srcpool &&
            ferryIncomingCreateVolume(op, &incoming->disks[i]) < 0)
            return -1;
    }

    return 0;
}


/* Returns the volumes to delete: those that no definition names. As with files, the definition
 * of the domain itself counts only for an operation that was read from a journal. */
static GPtrArray *
ferryIncomingListVolumes(ferryOp *op)
{
    ferryIncoming *incoming = ferryIncomingOf(op);
    g_autoptr(GPtrArray) volumes = g_ptr_array_new_with_free_func((GDestroyNotify) ferryVolumeFree);
    const char *own = incoming->domain;
    g_autoptr(ferryUse) use = NULL;
    size_t i;

    if (!own && !op->stopped && !op->over)
        own = op->vm->def->name;
    use = ferryUseNew(op->driver, own);

    for (i = 0; i < incoming->ndisks; i++) {
        ferryVolume *volume = incoming->disks[i].volume;
        g_autofree char *user = NULL;

        if (!volume)
            continue;

        if ((user = ferryUseFindVolume(use, volume->pool, volume->name)))
            VIR_WARN("volume '%s' of pool '%s' is not deleted: '%s' names it",
                     volume->name, volume->pool, user);
        else
            g_ptr_array_add(volumes, ferryVolumeCopy(volume));
    }

    return g_steal_pointer(&volumes);
}


static void
ferryIncomingForgetVolumes(ferryOp *op)
{
    ferryIncoming *incoming = ferryIncomingOf(op);
    size_t i;

    for (i = 0; i < incoming->ndisks; i++)
        g_clear_pointer(&incoming->disks[i].volume, ferryVolumeFree);
}


/**
 * ferryIncomingDiscardVolumes:
 *
 * Deletes the volumes that we created. The domain's lock is released meanwhile, unless @op is
 * over: then the caller must hold none. Keeps the last error.
 */
void
ferryIncomingDiscardVolumes(ferryOp *op)
{
    GPtrArray *volumes = ferryIncomingListVolumes(op);

    ferryIncomingForgetVolumes(op);
    ferryVolumeDeleteAll(op->over ? NULL : op->vm, volumes);
}


/**
 * ferryIncomingDeleteVolumes:
 * @op: its QEMU is gone
 *
 * Like ferryIncomingDiscardVolumes(), for stopped(), which must not wait. Returns 0, or -1 with
 * an error reported if the storage driver has not answered yet: stopped() is called again.
 */
int
ferryIncomingDeleteVolumes(ferryOp *op)
{
    GPtrArray *volumes = ferryIncomingListVolumes(op);

    if (volumes->len == 0) {
        g_ptr_array_unref(volumes);
        ferryIncomingForgetVolumes(op);
        return 0;
    }

    if (!ferryLeftoverRun(op, ferryVolumeDeleteList, volumes, (GDestroyNotify) g_ptr_array_unref)) {
        virReportError(VIR_ERR_OPERATION_TIMEOUT,
                       _("the storage driver must answer before the volumes that operation '%1$s' has left "
                         "can be deleted"), op->name);
        return -1;
    }

    ferryIncomingForgetVolumes(op);
    return 0;
}
