/*
 * data.h: what a backup is
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "block/export.h"
#include "block/image.h"
#include "engine/op.h"
#include "ops/quiesce.h"
#include "backup_conf.h"
#include "checkpoint_conf.h"

/* How a backup ended. */
typedef enum {
    FERRY_BACKUP_RESULT_NONE, /* it runs, or never did */
    FERRY_BACKUP_RESULT_COMPLETED,
    FERRY_BACKUP_RESULT_FAILED,
    FERRY_BACKUP_RESULT_CANCELED,

    FERRY_BACKUP_RESULT_LAST
} ferryBackupResult;

VIR_ENUM_DECL(ferryBackupResult);

typedef struct _ferryBackupDisk ferryBackupDisk;
struct _ferryBackupDisk {
    virDomainBackupDiskDef *def; /* of ferryBackup.def: name, store, names of the export */
    char *bitmap;                /* temporary bitmap of what is to be copied; NULL for all */
    ferryImageOrigin origin;     /* what was where the store is */

    bool granted;                /* QEMU may open the store; these are not in the journal */
    bool ended;                  /* its job has */
};

/* What a client may ask for beside libvirt's own XML. */
typedef struct _ferryBackupExtras ferryBackupExtras;
struct _ferryBackupExtras {
    ferryQuiesce quiesce;
    unsigned long long bandwidth; /* bytes/s for each disk at start-up; push */
    unsigned int idleTimeout;     /* seconds without a client; 0: none; pull */
};

/* A backup. All but the last group goes into the journal. */
typedef struct _ferryBackup ferryBackup;
struct _ferryBackup {
    virDomainBackupDef *def;
    ferryBackupDisk *disks; /* those that are backed up */
    size_t ndisks;
    char *checkpoint;       /* made with it, or NULL */
    ferryBackupExtras extras;
    bool reuse;             /* stores are images already: do not touch them */
    ferryBackupResult result;

    virDomainCheckpointDef *chkdef; /* until it is the domain's */
    GPtrArray *jobs;        /* as just seen, for ferryBackupEnd(); else NULL */
    bool creating;          /* jobs that format images may be there */
    bool started;           /* the transaction took place */
    bool serving;           /* the NBD server is ours */
    ferryExportServer server;
    unsigned long long cur; /* progress of all jobs, in bytes */
    unsigned long long end;
    char *error;            /* why a job failed */
    unsigned long long idleSince; /* ms; 0: somebody is connected */
};

#define FERRY_BACKUP_NAME "backup"

/* What others may do to the domain while a backup runs. */
#define FERRY_BACKUP_JOB_MASK \
    (VIR_JOB_DEFAULT_MASK | JOB_MASK(VIR_JOB_SUSPEND) | JOB_MASK(VIR_JOB_MODIFY))

ferryBackup *ferryBackupNew(void);
void ferryBackupFree(void *data);
FERRY_OP_DATA(ferryBackup, ferryBackupOf, ferryBackupFree);
ferryOp *ferryBackupFind(virDomainObj *vm);
void ferryBackupListDisks(ferryBackup *backup);
bool ferryBackupIsPull(ferryBackup *backup);
virDomainDiskDef *ferryBackupDomainDisk(ferryOp *op, ferryBackupDisk *disk);
