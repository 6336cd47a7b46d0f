/*
 * view.c: backup: what the clients of a pull backup read
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Theory of operation
 *
 * The scratch image of a pull backup lies on top of the disk and holds what the guest has
 * overwritten. If it cannot take that, because it is full, QEMU refuses the guest's write: the guest
 * stops, until Ferry has given up the backup. Newer QEMU can give up the backup instead
 * ("on-cbw-error": "break-snapshot"), and the guest goes on. It tells nobody: the job runs on
 * without an event, and the scratch image shows new data in place of the old (seen with QEMU 11.1).
 * So clients then read through a node of their own, a view, on top of the job's filter. It knows
 * what the job knows, and refuses every read from then on.
 *
 * A view is there if QEMU can break snapshots; that is asked again when it is removed, since QEMU
 * gives the same answer to the next driver.
 */

#include <config.h>

#include "block/feature.h"
#include "block/node.h"
#include "block/nodename.h"
#include "block/qmp.h"
#include "ops/backup/view.h"
#include "virerror.h"

#define VIR_FROM_THIS VIR_FROM_QEMU


/**
 * ferryBackupAskForViews:
 *
 * Finds out whether the backup of @op has views, before its jobs start. Domain locked, job held; may ask
 * QEMU.
 */
void
ferryBackupAskForViews(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);

    backup->views = ferryBackupIsPull(backup) && ferryFeatureHas(op->vm, FERRY_FEATURE_ON_CBW_ERROR);
}


/**
 * ferryBackupFilterName:
 *
 * Returns the name of the filter of the job of @disk, to be freed; NULL: QEMU names it.
 */
char *
ferryBackupFilterName(ferryOp *op,
                      const ferryBackupDisk *disk)
{
    return ferryBackupOf(op)->views ? g_strdup_printf("ferry-%s-cbw", ferryNodeName(disk->def->store)) : NULL;
}


/**
 * ferryBackupViewName:
 *
 * Returns the name of the node that clients read in place of the scratch image of @disk, to be freed;
 * NULL: they read the scratch image.
 */
char *
ferryBackupViewName(ferryOp *op,
                    const ferryBackupDisk *disk)
{
    return ferryBackupOf(op)->views ? g_strdup_printf("ferry-%s-old", ferryNodeName(disk->def->store)) : NULL;
}


bool
ferryBackupHasNoViews(ferryOp *op)
{
    return !ferryBackupOf(op)->views;
}


/* view: adds a view of every disk as it was; the jobs run */
int
ferryBackupAddViews(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    size_t i;

    for (i = 0; backup->views && i < backup->ndisks; i++) {
        g_autofree char *filter = ferryBackupFilterName(op, &backup->disks[i]);
        g_autofree char *view = ferryBackupViewName(op, &backup->disks[i]);
        g_autoptr(virJSONValue) args = NULL;

        if (virJSONValueObjectAdd(&args, "s:driver", "snapshot-access", "s:node-name", view,
                                  "s:file", filter, NULL) < 0 ||
            ferryQMP(op->vm, "blockdev-add", &args, /* reply= */ NULL) < 0)
            return -1;
    }

    return 0;
}


/* Nobody may read them any more, or the jobs would not end. */
void
ferryBackupRemoveViews(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    size_t i;

    ferryBackupAskForViews(op);

    if (!backup->views)
        return;

    if (backup->serving && ferryExportServerStop(op->vm) < 0)
        virResetLastError();

    for (i = 0; i < backup->ndisks; i++) {
        g_autofree char *view = ferryBackupViewName(op, &backup->disks[i]);

        ferryNodeDelete(op->vm, view);
    }
}
