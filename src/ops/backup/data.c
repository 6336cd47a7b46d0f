/*
 * data.c: the data of a backup operation
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "ops/backup/data.h"
#include "virerror.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_ENUM_IMPL(ferryBackupResult,
              FERRY_BACKUP_RESULT_LAST,
              "none",
              "completed",
              "failed",
              "canceled");


ferryBackup *
ferryBackupNew(void)
{
    ferryBackup *backup = g_new0(ferryBackup, 1);

    backup->server.fd = -1;
    return backup;
}


void
ferryBackupFree(void *data)
{
    ferryBackup *backup = data;
    size_t i;

    for (i = 0; i < backup->ndisks; i++) {
        g_free(backup->disks[i].bitmap);
        ferryFileFree(backup->disks[i].file);
        ferryVolumeFree(backup->disks[i].volume);
    }
    g_free(backup->disks);
    ferryVolumeRemovalUnref(backup->removal);
    g_free(backup->checkpoint);
    g_free(backup->error);
    virObjectUnref(backup->chkdef);
    ferryExportServerForget(&backup->server);
    ferryFileFree(backup->server.file);
    virDomainBackupDefFree(backup->def);
    g_free(backup);
}


/**
 * ferryBackupFileOf:
 *
 * Returns which file the store of @disk is, if it was created for the backup; NULL: it was not, or is
 * none.
 */
const ferryFile *
ferryBackupFileOf(const ferryBackupDisk *disk)
{
    return disk->volume ? disk->volume->file : disk->file;
}


/* Fills in backup->disks with the disks of backup->def that have a store. */
void
ferryBackupListDisks(ferryBackup *backup)
{
    size_t i;

    backup->disks = g_new0(ferryBackupDisk, backup->def->ndisks);

    for (i = 0; i < backup->def->ndisks; i++) {
        if (backup->def->disks[i].store)
            backup->disks[backup->ndisks++].def = &backup->def->disks[i];
    }
}


/* Returns the backup of @vm, without a reference, or NULL. Domain locked. */
ferryOp *
ferryBackupFind(virDomainObj *vm)
{
    ferryOp *op = ferryOpFind(vm, FERRY_BACKUP_NAME);

    return op && !op->stopped ? op : NULL;
}


/* Returns true for a pull backup (clients read it), false for a push (jobs write it). */
bool
ferryBackupIsPull(ferryBackup *backup)
{
    return backup->def->type == VIR_DOMAIN_BACKUP_TYPE_PULL;
}


/**
 * ferryBackupDomainDisk:
 *
 * Returns the domain's disk that @disk backs up, or NULL. Clients cannot unplug a disk that
 * has a block job, but the guest can eject it: then the disk is gone whenever the domain's
 * job was not held.
 */
virDomainDiskDef *
ferryBackupDomainDisk(ferryOp *op,
                      ferryBackupDisk *disk)
{
    return virDomainDiskByTarget(op->vm->def, disk->def->name);
}


/* Returns true if the backup makes a checkpoint or is incremental. */
bool
ferryBackupRefersToCheckpoint(ferryBackup *backup)
{
    size_t i;

    for (i = 0; i < backup->ndisks; i++) {
        if (backup->disks[i].def->incremental)
            return true;
    }

    return backup->checkpoint;
}


/* Returns the names of the disks that are copied as a whole, borrowed but for the list, which
 * ends with NULL. */
const char **
ferryBackupWholeDisks(ferryBackup *backup)
{
    const char **names = g_new0(const char *, backup->ndisks + 1);
    size_t n = 0;
    size_t i;

    for (i = 0; i < backup->ndisks; i++) {
        if (!backup->disks[i].bitmap)
            names[n++] = backup->disks[i].def->name;
    }

    return names;
}


/* Returns 0 if the domain still has all disks of the backup, or -1 with an error reported.
 * Steps that use the disks ask first: while begin waits, the guest may eject one. */
int
ferryBackupRequireDisks(ferryOp *op)
{
    ferryBackup *backup = ferryBackupOf(op);
    size_t i;

    for (i = 0; i < backup->ndisks; i++) {
        if (ferryBackupDomainDisk(op, &backup->disks[i]))
            continue;

        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("domain '%1$s' has no disk '%2$s' any more: begin the backup without it"),
                       op->vm->def->name, backup->disks[i].def->name);
        return -1;
    }

    return 0;
}


/* See ferryOpClass. */
char *
ferryBackupDescribe(ferryOp *op,
                    const char *name)
{
    ferryBackup *backup = ferryBackupOf(op);
    g_autoptr(GPtrArray) disks = g_ptr_array_new();
    g_autofree char *list = NULL;
    size_t i;

    for (i = 0; i < backup->ndisks; i++)
        g_ptr_array_add(disks, backup->disks[i].def->name);
    g_ptr_array_add(disks, NULL);

    list = g_strjoinv(", ", (char **) disks->pdata);
    return g_strdup_printf(_("backup of disks '%1$s' of domain '%2$s'"), list, name);
}
