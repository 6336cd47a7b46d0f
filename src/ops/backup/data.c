/*
 * data.c: the data of a backup operation
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "ops/backup/data.h"

VIR_ENUM_IMPL(ferryBackupResult,
              FERRY_BACKUP_RESULT_LAST,
              "none", "completed", "failed", "canceled");


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
    }
    g_free(backup->disks);
    g_free(backup->checkpoint);
    g_free(backup->error);
    virObjectUnref(backup->chkdef);
    ferryExportServerForget(&backup->server);
    ferryFileFree(backup->server.file);
    virDomainBackupDefFree(backup->def);
    g_free(backup);
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
    return ferryOpFind(vm, FERRY_BACKUP_NAME);
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
 * Returns the domain's disk that @disk backs up. A disk with a block job cannot be
 * unplugged, so the result is not NULL while the "publish" step is in effect.
 */
virDomainDiskDef *
ferryBackupDomainDisk(ferryOp *op,
                      ferryBackupDisk *disk)
{
    return virDomainDiskByTarget(op->vm->def, disk->def->name);
}
