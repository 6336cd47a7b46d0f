/*
 * data.h: the data of a backup operation
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "block/export.h"
#include "block/image.h"
#include "block/volume_delete.h"
#include "engine/op.h"
#include "ops/quiesce.h"
#include "backup_conf.h"
#include "checkpoint_conf.h"

/* How a backup ended. */
typedef enum {
    FERRY_BACKUP_RESULT_NONE, /* still running, or never begun */
    FERRY_BACKUP_RESULT_COMPLETED,
    FERRY_BACKUP_RESULT_FAILED,
    FERRY_BACKUP_RESULT_CANCELED,

    FERRY_BACKUP_RESULT_LAST
} ferryBackupResult;

VIR_ENUM_DECL(ferryBackupResult);

typedef struct _ferryBackupDisk ferryBackupDisk;
struct _ferryBackupDisk {
    virDomainBackupDiskDef *def; /* in ferryBackup.def: name, store, names of the export */
    char *bitmap;                /* temporary bitmap that marks what to copy; NULL: copy all */
    ferryImageOrigin origin;     /* what was at the store's path before the backup */
    ferryFile *file;             /* the store's file, if the undo is to remove it */
    ferryVolume *volume;         /* the store, if it is created through its pool, in place of a file */
    /* not in the journal: */
    bool granted; /* the backup may have given QEMU access to the store */
    bool ended;   /* the disk's QEMU job has concluded */
};

/* What a client may ask for with elements of Ferry's XML namespace. */
typedef struct _ferryBackupExtras ferryBackupExtras;
struct _ferryBackupExtras {
    ferryQuiesce quiesce;
    unsigned long long bandwidth; /* push: initial limit of each job, bytes/s; 0: none */
    unsigned int idleTimeout;     /* pull: seconds without a client until it fails; 0: never */
};

/* A backup. The first group goes into the journal, all but extras.bandwidth. */
typedef struct _ferryBackup ferryBackup;
struct _ferryBackup {
    virDomainBackupDef *def;
    ferryBackupDisk *disks; /* the disks of @def that are backed up */
    size_t ndisks;
    char *checkpoint; /* name of the checkpoint made with the backup, or NULL */
    ferryBackupExtras extras;
    bool reuse; /* the client prepared the images: do not create or remove them */
    ferryBackupResult result;
    unsigned long long begun; /* ms since the epoch; 0: in the journal of an older Ferry */

    virDomainCheckpointDef *chkdef; /* of @checkpoint; NULL after a restart of the driver */
    GPtrArray *jobs;                /* the jobs as just queried, for ferryBackupEnd(); else NULL */
    ferryVolumeRemoval *removal;    /* of volumes, begun by stopped(), and not done yet; or NULL */
    bool creating;                  /* QEMU may have jobs that create or format images */
    bool started;                   /* the "start" transaction may have taken place */
    bool serving;                   /* the backup may have started QEMU's NBD server */
    ferryExportServer server;
    unsigned long long cur; /* progress of all jobs, in bytes */
    unsigned long long end;
    char *error;                  /* why the backup failed */
    bool full;                    /* a full scratch image may have stopped the guest, who goes on when
                             * the jobs are gone */
    bool silent;                  /* the storage of an image has not answered since the undo asked it */
    bool retried;                 /* a worker was told to try the undo again */
    unsigned long long idleSince; /* ms: no client, or no progress of a push, since this time;
                                   * 0: a client is connected */
    unsigned long long seen;      /* progress of a push at that time, in bytes */
    bool still;                   /* the log says that the push stands still */
};

/* Reported when there is something at a store's path, also if it has just come there. */
#define FERRY_BACKUP_EXISTS \
    _("store '%1$s' for backup of '%2$s' exists; name another one, or reuse it (--reuse-external)")

#define FERRY_BACKUP_NAME "backup"

/* The domain jobs that may run inside the asynchronous job of a backup. */
#define FERRY_BACKUP_JOB_MASK \
    (VIR_JOB_DEFAULT_MASK | JOB_MASK(VIR_JOB_SUSPEND) | JOB_MASK(VIR_JOB_MODIFY))

/* The phase (virDomainJobObj) of the asynchronous job until the operation exists: the request
 * is being checked. A driver that finds such a job when it starts reads phase 0. */
#define FERRY_BACKUP_PHASE_ASKED 1

ferryBackup *ferryBackupNew(void);
const ferryFile *ferryBackupFileOf(const ferryBackupDisk *disk);
void ferryBackupFree(void *data);
FERRY_OP_DATA(ferryBackup, ferryBackupOf, ferryBackupFree);
ferryOp *ferryBackupFind(virDomainObj *vm);
void ferryBackupListDisks(ferryBackup *backup);
bool ferryBackupRefersToCheckpoint(ferryBackup *backup);
const char **ferryBackupWholeDisks(ferryBackup *backup);
bool ferryBackupIsPull(ferryBackup *backup);
virDomainDiskDef *ferryBackupDomainDisk(ferryOp *op, ferryBackupDisk *disk);
int ferryBackupRequireDisks(ferryOp *op);
char *ferryBackupDescribe(ferryOp *op, const char *name);
