/*
 * stopped.c: mirrored snapshots: QEMU has ended before one was complete
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The mirrors are lost, and their targets are removed with their copies. A snapshot that the
 * configuration names stays: its overlays have what the guest wrote last. Otherwise the stock driver
 * did not get that far: then the files of the overlays go, unless QEMU was on one already, and the
 * guest has written to it.
 */

#include <config.h>

#include "block/overlay.h"
#include "engine/engine.h"
#include "engine/leftover.h"
#include "ops/opfile.h"
#include "ops/pause.h"
#include "ops/snapshot/create.h"
#include "ops/snapshot/data.h"
#include "ops/snapshot/revert.h"
#include "ops/snapshot/stopped.h"
#include "virerror.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.snapshot");

/* An overlay, as a thread finds it that knows nothing of the domain. */
typedef struct {
    char *path;
    uid_t uid;
    gid_t gid;
    int content; /* as ferryOverlayLookAt() returns it */
} ferrySnapshotLook;

struct _ferrySnapshotLooks {
    int refs;       /* atomic: the operation and the thread */
    GPtrArray *all; /* of ferrySnapshotLook; one for each disk */
};


static void
ferrySnapshotLookFree(void *opaque)
{
    ferrySnapshotLook *look = opaque;

    g_free(look->path);
    g_free(look);
}


/* For both. */
void
ferrySnapshotLooksUnref(void *opaque)
{
    ferrySnapshotLooks *looks = opaque;

    if (!looks || !g_atomic_int_dec_and_test(&looks->refs))
        return;

    g_ptr_array_unref(looks->all);
    g_free(looks);
}


static void
ferrySnapshotLooksRun(void *opaque)
{
    ferrySnapshotLooks *looks = opaque;
    size_t i;

    for (i = 0; i < looks->all->len; i++) {
        ferrySnapshotLook *look = g_ptr_array_index(looks->all, i);

        look->content = look->path ? ferryOverlayLookAt(look->path, look->uid, look->gid) : 0;
        /* the stock driver removes it when its call fails */
        if (look->content < 0 && errno == ENOENT)
            look->content = 0;
    }
}


/* Returns whether the domain's configuration, which the next QEMU gets, has the overlay. */
static bool
ferrySnapshotIsConfigured(ferryOp *op,
                          ferrySnapshotDisk *sdisk)
{
    virDomainDef *def;
    virDomainDiskDef *disk;

    if (!op->vm)
        return false;

    def = op->vm->newDef ? op->vm->newDef : op->vm->def;
    disk = virDomainDiskByTarget(def, sdisk->dst);
    return disk && STREQ_NULLABLE(disk->src->path, sdisk->overlay->path);
}


/* Finds out what the overlays hold. Returns true when that is known. */
static bool
ferrySnapshotLookAtOverlays(ferryOp *op)
{
    ferrySnapshot *snapshot = ferrySnapshotOf(op);
    g_autoptr(virQEMUDriverConfig) cfg = virQEMUDriverGetConfig(op->driver);
    size_t i;

    if (!snapshot->looks) {
        snapshot->looks = g_new0(ferrySnapshotLooks, 1);
        snapshot->looks->refs = 1;
        snapshot->looks->all = g_ptr_array_new_with_free_func(ferrySnapshotLookFree);

        for (i = 0; i < snapshot->disks->len; i++) {
            ferrySnapshotDisk *disk = ferrySnapshotDiskAt(snapshot, i);
            ferrySnapshotLook *look = g_new0(ferrySnapshotLook, 1);

            if (disk->origin != FERRY_IMAGE_FOREIGN)
                look->path = g_strdup(disk->overlay->path);
            look->uid = cfg->user;
            look->gid = cfg->group;
            g_ptr_array_add(snapshot->looks->all, look);
        }
    }

    g_atomic_int_inc(&snapshot->looks->refs);
    return ferryLeftoverRun(op, ferrySnapshotLooksRun, snapshot->looks, ferrySnapshotLooksUnref);
}


/* Returns the names of the overlays' files. The caller frees the list. */
static GPtrArray *
ferrySnapshotFiles(ferrySnapshot *snapshot)
{
    GPtrArray *paths = g_ptr_array_new_with_free_func(g_free);
    size_t i;

    for (i = 0; i < snapshot->disks->len; i++) {
        ferrySnapshotDisk *disk = ferrySnapshotDiskAt(snapshot, i);

        ferryOpFileList(paths, disk->overlay, disk->origin);
    }

    return paths;
}


static void
ferrySnapshotSettleOverlay(ferryOp *op,
                           ferryUse *use,
                           size_t i)
{
    ferrySnapshotDisk *disk = ferrySnapshotDiskAt(ferrySnapshotOf(op), i);
    ferrySnapshotLook *look = g_ptr_array_index(ferrySnapshotOf(op)->looks->all, i);

    if (ferrySnapshotIsConfigured(op, disk))
        return;

    /* when it was taken back, what it holds is in the image below */
    if (look->content == 0 || disk->reverted || !ferryPlanReached(op, &ferrySnapshotPlan, "take")) {
        ferryOpFileRemove(op, use, op->vm, disk->overlay, disk->origin, disk->file);
        return;
    }

    VIR_ERROR(_("domain '%1$s': QEMU ended while snapshot '%2$s' was taken, and the guest had written to "
                "'%3$s' already: commit that to the image of disk '%4$s' ('qemu-img commit') before you "
                "start the domain"),
              op->vm ? op->vm->def->name : "", ferrySnapshotOf(op)->name,
              NULLSTR(disk->overlay->path), disk->dst);
}


/**
 * ferrySnapshotStopped:
 *
 * The QEMU of @op is gone. Ends the operation, unless the storage of an overlay does not answer.
 * Domain locked; op->vm is NULL if the domain is gone.
 */
void
ferrySnapshotStopped(ferryOp *op)
{
    ferrySnapshot *snapshot = ferrySnapshotOf(op);
    g_autoptr(ferryUse) use = NULL;
    bool stays = snapshot->complete;
    size_t i;

    for (i = 0; i < snapshot->disks->len; i++) {
        if (op->vm && ferrySnapshotDiskAt(snapshot, i)->paused)
            ferryPauseForget(op->vm);
        ferrySnapshotDiskAt(snapshot, i)->paused = false;
    }

    for (i = 0; op->vm && i < snapshot->disks->len; i++) {
        ferrySnapshotDisk *disk = ferrySnapshotDiskAt(snapshot, i);

        if (disk->reverted &&
            ferrySnapshotRevertConfig(op, disk, op->vm->newDef ? op->vm->newDef : op->vm->def, NULL) < 0) {
            VIR_ERROR(_("domain '%1$s' cannot start yet: disk '%2$s' has gone back from '%3$s', which the "
                        "configuration names, and that cannot be saved: %4$s"),
                      op->vm->def->name, disk->dst,
                      NULLSTR(disk->overlay->path), virGetLastErrorMessage());
            op->blocksStart = true;
            return;
        }
    }

    for (i = 0; i < snapshot->disks->len; i++)
        stays = stays || ferrySnapshotIsConfigured(op, ferrySnapshotDiskAt(snapshot, i));

    if (!stays && ferryPlanReached(op, &ferrySnapshotPlan, "files")) {
        if (!ferrySnapshotLookAtOverlays(op) ||
            ferryOpFileAwait(op, ferrySnapshotFiles(snapshot)) < 0) {
            VIR_WARN("what snapshot '%s' has left waits for its storage: check the mounts and devices",
                     snapshot->name);
            return;
        }

        use = ferryOpFileUse(op);
        for (i = 0; i < snapshot->disks->len; i++)
            ferrySnapshotSettleOverlay(op, use, i);

        if (op->vm && ferrySnapshotForget(op) < 0) {
            VIR_WARN("snapshot '%s' of domain '%s' cannot be removed yet: %s", snapshot->name,
                     op->vm->def->name, virGetLastErrorMessage());
            return;
        }
    }

    ferryOpEnd(op);
}
