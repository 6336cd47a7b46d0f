/*
 * opvolume.c: volumes of storage pools that an operation creates
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A volume that is missing is created through its pool, and deleted through it if the operation
 * fails, so that the storage driver knows of it. That driver may keep its callers waiting: it is
 * asked while the domain is neither locked nor its job held. The journal names the volume before
 * it is created, and says which one it is as soon as it is there.
 */

#include <config.h>

#include "block/image.h"
#include "block/node.h"
#include "block/nodename.h"
#include "engine/engine.h"
#include "engine/journal.h"
#include "engine/leftover.h"
#include "engine/unlocked.h"
#include "engine/wait.h"
#include "ops/opvolume.h"
#include "virerror.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.volume");


/* The volume was created, or not, while something happened to @op. */
static void
ferryOpVolumeIsLate(ferryOp *op,
                    ferryVolume **volume)
{
    ferryVolumeRemoval *removal;

    if (op->over && *volume) {
        /* whoever settled @op could not delete it yet */
        removal = ferryVolumeRemovalNew(op->driver, /* own= */ NULL, /* wait= */ 0);
        ferryVolumeRemovalAdd(removal, *volume);
        ignore_value(ferryVolumeRemovalAwait(op->vm, removal));
        ferryVolumeRemovalUnref(removal);
        g_clear_pointer(volume, ferryVolumeFree);
    } else if (!op->over && op->stopped) {
        /* stopped() waits for this */
        ferryEngineSubmitAgain(op, op->vm->def->uuid);
    } else if (!op->over) {
        /* the driver is about to end: the next one must know which volume it is */
        ignore_value(ferryJournalWrite(op->vm, /* durable= */ true));
    }
}


/**
 * ferryOpVolumeCreate:
 * @image: what the volume is for, with its path and format
 * @disk: disk of the domain whose size the volume gets
 * @volume: names it; replaced by the record of what was created
 *
 * Creates the volume. Whoever wants it formats it as if it were a file. Domain locked, job held, by
 * the thread that drives @op; both are released meanwhile (the job unless op->holdJob). Returns 0,
 * or -1 with an error reported: check ferryOpIsLost().
 */
int
ferryOpVolumeCreate(ferryOp *op,
                    virStorageSource *image,
                    virDomainDiskDef *disk,
                    ferryVolume **volume)
{
    g_autofree char *pool = g_strdup((*volume)->pool);
    g_autofree char *name = g_strdup((*volume)->name);
    g_autoptr(GHashTable) nodes = ferryNodeData(op->vm);
    ferryVolumeSpec spec = { .format = image->format };
    ferryVolume *made;

    if (!nodes || ferryNodeCapacity(nodes, ferryNodeName(disk->src), &spec.capacity) < 0)
        return -1;

    (*volume)->creating = true;

    ferryOpYield(op);
    made = ferryVolumeCreate(op->vm, pool, name, image->path, &spec);

    if (!made && virGetLastErrorCode() == VIR_ERR_OPERATION_TIMEOUT)
        VIR_WARN("volume '%s' of pool '%s' may still be created; then it is deleted at once, unless this "
                 "driver ends before",
                 name, pool);

    ferryVolumeFree(*volume);
    *volume = made;

    if (ferryOpResume(op) < 0) {
        ferryOpVolumeIsLate(op, volume);
        return -1;
    }

    if (!made || ferryJournalWrite(op->vm, /* durable= */ true) < 0)
        return -1;

    ferryImageCutToSize(image, spec.capacity);
    return 0;
}


/* @volumes: of ferryVolume **; those that are NULL do not count. Sets @removal, to NULL if there are
 * none. Returns 0, or -1 with an error reported if one is just being created: whoever does that goes
 * on with @op. */
static int
ferryOpVolumePrepare(ferryOp *op,
                     GPtrArray *volumes,
                     unsigned int wait,
                     ferryVolumeRemoval **removal)
{
    size_t i;

    for (i = 0; i < volumes->len; i++) {
        ferryVolume *volume = *(ferryVolume **) g_ptr_array_index(volumes, i);

        if (volume && volume->creating) {
            virReportError(VIR_ERR_OPERATION_FAILED,
                           _("volume '%1$s' of pool '%2$s' is still being created"), volume->name, volume->pool);
            return -1;
        }
    }

    for (i = 0; i < volumes->len; i++) {
        ferryVolume *volume = *(ferryVolume **) g_ptr_array_index(volumes, i);

        if (!volume)
            continue;

        /* all definitions count, those of the domain, too: no mirror of it is left */
        if (!*removal)
            *removal = ferryVolumeRemovalNew(op->driver, /* own= */ NULL, wait);
        if (op->stopped)
            ferryVolumeRemovalIsLate(*removal);
        ferryVolumeRemovalAdd(*removal, volume);
    }

    return 0;
}


/* Returns the pool of the first volume of which there is one. */
static const char *
ferryOpVolumePool(GPtrArray *volumes)
{
    size_t i = 0;

    while (!*(ferryVolume **) g_ptr_array_index(volumes, i))
        i++;

    return (*(ferryVolume **) g_ptr_array_index(volumes, i))->pool;
}


static void
ferryOpVolumeForget(GPtrArray *volumes)
{
    size_t i;

    for (i = 0; i < volumes->len; i++)
        g_clear_pointer((ferryVolume **) g_ptr_array_index(volumes, i), ferryVolumeFree);
}


/**
 * ferryOpVolumeDiscard:
 * @volumes: of ferryVolume **, pointers to the operation's own; those that are NULL do not count
 *
 * Deletes volumes that were created, for an undo while QEMU runs, and forgets them. Locks as for
 * ferryOpVolumeCreate().
 *
 * Returns 0; or -1 with an error reported if volumes are still there, or may be: the caller sets
 * op->stuck. If the storage driver is only late, the undo is tried again by itself.
 */
int
ferryOpVolumeDiscard(ferryOp *op,
                     GPtrArray *volumes)
{
    ferryVolumeRemoval *removal = NULL;
    g_autofree char *names = NULL;
    g_autofree char *place = NULL;
    const char *failure;
    int rc = 0;

    if (ferryOpVolumePrepare(op, volumes, FERRY_VOLUME_REMOVAL_MS, &removal) < 0)
        return -1;

    if (!removal)
        return 0;

    names = ferryVolumeRemovalDescribe(removal);
    /* threads that wait for a pool are counted */
    place = g_strdup_printf("pool %s", ferryOpVolumePool(volumes));
    if (!ferryOpRunUnlockedAgain(op, place, ferryVolumeRemovalRun, removal, ferryVolumeRemovalUnref,
                                 FERRY_VOLUME_REMOVAL_MS)) {
        if (!ferryOpIsLost(op))
            virReportError(VIR_ERR_OPERATION_TIMEOUT,
                           _("the storage driver must answer before volumes that operation '%1$s' has left "
                             "can be deleted: %2$s"),
                           op->name, names);
        return -1;
    }

    if ((failure = ferryVolumeRemovalFailure(removal))) {
        virReportError(VIR_ERR_OPERATION_FAILED, "%s", failure);
        rc = -1;
    } else {
        ferryOpVolumeForget(volumes);
    }

    ferryVolumeRemovalUnref(removal);
    return rc;
}


/**
 * ferryOpVolumeDelete:
 * @op: its QEMU is gone
 * @volumes: as for ferryOpVolumeDiscard()
 * @removal: kept by the operation from one call to the next; at first NULL
 *
 * Like ferryOpVolumeDiscard(), for stopped(), which must not wait. Returns 0, or -1 with an error
 * reported if volumes are still there: stopped() is called again.
 */
int
ferryOpVolumeDelete(ferryOp *op,
                    GPtrArray *volumes,
                    ferryVolumeRemoval **removal)
{
    g_autofree char *names = NULL;
    const char *failure;
    int rc;

    if (!*removal && ferryOpVolumePrepare(op, volumes, FERRY_LEFTOVER_MS, removal) < 0)
        return -1;

    if (!*removal)
        return 0;

    names = ferryVolumeRemovalDescribe(*removal);

    if (!ferryLeftoverRun(op, ferryVolumeRemovalRun, ferryVolumeRemovalRef(*removal),
                          ferryVolumeRemovalUnref)) {
        virReportError(VIR_ERR_OPERATION_TIMEOUT,
                       _("the storage driver must answer before volumes that operation '%1$s' has left "
                         "can be deleted: %2$s"),
                       op->name, names);
        return -1;
    }

    if ((failure = ferryVolumeRemovalFailure(*removal)))
        virReportError(VIR_ERR_OPERATION_FAILED, "%s", failure);
    else
        ferryOpVolumeForget(volumes);

    rc = failure ? -1 : 0;
    g_clear_pointer(removal, ferryVolumeRemovalUnref);
    return rc;
}
