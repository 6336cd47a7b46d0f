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
#include "ops/opvolume.h"
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

    ferryOpReportLost(op);
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
    g_autofree char *name = NULL;

    if (src->srcpool)
        name = g_strdup_printf(_("volume '%1$s' of pool '%2$s'"), src->srcpool->volume, src->srcpool->pool);
    else
        name = g_strdup_printf(_("image '%1$s'"), src->path);

    if (!offer) {
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("%1$s of disk '%2$s' of domain '%3$s' is missing, and the source does "
                         "not say how large it is to be: create it"),
                       name, disk->dst, vm->def->name);
        return -1;
    }

    if (src->encryption) {
        virReportError(VIR_ERR_OPERATION_UNSUPPORTED,
                       _("%1$s of disk '%2$s' of domain '%3$s' is missing, and is to be encrypted: create it"),
                       name, disk->dst, vm->def->name);
        return -1;
    }

    /* the storage driver would open the backing image as root, by a name that the source gave */
    if ((req->flags & VIR_MIGRATE_NON_SHARED_INC) && src->srcpool) {
        virReportError(VIR_ERR_OPERATION_UNSUPPORTED,
                       _("%1$s of disk '%2$s' of domain '%3$s' is missing, and with "
                         "--copy-storage-inc only missing files are created: create it with "
                         "'virsh vol-create-as' and --backing-vol"),
                       name, disk->dst, vm->def->name);
        return -1;
    }

    if ((req->flags & VIR_MIGRATE_NON_SHARED_INC) && !offer->backing) {
        virReportError(VIR_ERR_OPERATION_UNSUPPORTED,
                       _("%1$s of disk '%2$s' of domain '%3$s' is missing, and its backing "
                         "image is not known: create it"),
                       name, disk->dst, vm->def->name);
        return -1;
    }

    return 0;
}


/* Adds to the last error which volume of which disk it is about, and what to do. */
static void
ferryIncomingExplain(virDomainObj *vm,
                     virStorageSource *image,
                     const char *disk)
{
    g_autofree char *why = g_strdup(virGetLastErrorMessage());

    virReportError(virGetLastErrorCode(),
                   _("volume '%1$s' of pool '%2$s', for disk '%3$s' of domain '%4$s', cannot be "
                     "created: %5$s; check the pool, or create it with 'virsh vol-create-as'"),
                   image->srcpool->volume, image->srcpool->pool, disk, vm->def->name, why);
}


static int
ferryIncomingCreateVolume(ferryOp *op,
                          ferryIncomingDisk *disk)
{
    const ferryMigrationRequest *req = ferryIncomingOf(op)->req;
    ferryMigrationOffer *offer = g_hash_table_lookup(req->disks, disk->dst);
    g_autoptr(virStorageSource) image = virObjectRef(disk->image);
    virDomainObj *vm = op->vm;
    ferryVolumeSpec spec = { .format = MAX(image->format, VIR_STORAGE_FILE_RAW) };
    ferryVolume *made;
    int rc = ferryVolumeExists(vm, image);

    if (ferryIncomingRequire(op) < 0)
        return -1;

    if (rc < 0) {
        ferryIncomingExplain(vm, image, disk->dst);
        return -1;
    }

    if (rc > 0)
        return 0;

    if (ferryIncomingCheckMissing(vm, req, disk) < 0)
        return -1;

    spec.capacity = offer->capacity;
    spec.props = offer->props;
    disk->volume = ferryVolumeNew(image->srcpool->pool, image->srcpool->volume);
    disk->volume->creating = true;

    if (ferryJournalWrite(vm, /* durable= */ true) < 0) {
        g_clear_pointer(&disk->volume, ferryVolumeFree);
        return -1;
    }

    made = ferryVolumeCreate(vm, image->srcpool->pool, image->srcpool->volume, /* path= */ NULL, &spec);

    /* else it may still be created: the journal goes on naming it */
    if (made || virGetLastErrorCode() != VIR_ERR_OPERATION_TIMEOUT) {
        ferryVolumeFree(disk->volume);
        disk->volume = made;
    }

    if (ferryIncomingRequire(op) < 0) {
        ferryIncomingDiscardVolumes(op, vm);
        return -1;
    }

    if (!made) {
        ferryIncomingExplain(vm, image, disk->dst);
        return -1;
    }

    return ferryJournalWrite(vm, /* durable= */ true);
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


/* Returns what deletes the volumes that were created; NULL: there are none. As with files, the
 * definition of the domain itself counts only for an operation that has outlived its QEMU: another
 * one may use them by now.
 * @wait: for how many milliseconds the caller is going to wait */
static ferryVolumeRemoval *
ferryIncomingRemoval(ferryOp *op,
                     unsigned int wait)
{
    ferryIncoming *incoming = ferryIncomingOf(op);
    g_autofree char *own = op->stopped ? NULL : g_strdup(incoming->domain);
    ferryVolumeRemoval *removal = NULL;
    size_t i;

    if (!own && !op->stopped && !op->over)
        own = g_strdup(op->vm->def->name);

    for (i = 0; i < incoming->ndisks; i++) {
        if (!incoming->disks[i].volume)
            continue;

        if (!removal)
            removal = ferryVolumeRemovalNew(op->driver, own, wait);
        if (op->stopped)
            ferryVolumeRemovalIsLate(removal);
        ferryVolumeRemovalAdd(removal, incoming->disks[i].volume);
    }

    return removal;
}


/**
 * ferryIncomingDiscardVolumes:
 * @vm: the domain, locked, whose lock is released meanwhile; NULL: the caller holds no lock
 *
 * Deletes the volumes that we created. Those that could not be deleted stay in the journal, and
 * @op is stuck (op->stuck). Keeps the last error.
 */
void
ferryIncomingDiscardVolumes(ferryOp *op,
                            virDomainObj *vm)
{
    ferryVolumeRemoval *removal = ferryIncomingRemoval(op, FERRY_VOLUME_REMOVAL_MS);
    ferryIncoming *incoming = ferryIncomingOf(op);
    size_t i;

    if (!removal)
        return;

    if (ferryVolumeRemovalAwait(vm, removal) == 0) {
        for (i = 0; i < incoming->ndisks; i++)
            g_clear_pointer(&incoming->disks[i].volume, ferryVolumeFree);
    } else {
        op->stuck = true;
    }

    ferryVolumeRemovalUnref(removal);
}


/**
 * ferryIncomingDeleteVolumes:
 * @op: its QEMU is gone
 *
 * Like ferryIncomingDiscardVolumes(), for stopped(), which must not wait. Returns 0, or -1 with
 * an error reported if volumes are still there: stopped() is called again.
 */
int
ferryIncomingDeleteVolumes(ferryOp *op)
{
    ferryIncoming *incoming = ferryIncomingOf(op);
    g_autoptr(GPtrArray) volumes = g_ptr_array_new();
    size_t i;

    if (!incoming->removal && !(incoming->removal = ferryIncomingRemoval(op, FERRY_LEFTOVER_MS)))
        return 0;

    for (i = 0; i < incoming->ndisks; i++)
        g_ptr_array_add(volumes, &incoming->disks[i].volume);

    return ferryOpVolumeDelete(op, volumes, &incoming->removal);
}
