/*
 * migration.h: storage migration over NBD
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "block/export.h"
#include "block/image.h"
#include "block/sync.h"
#include "engine/engine.h"
#include "qemu/qemu_migration_params.h"

/* What a client of one of the phases asks for. */
typedef struct _ferryMigrationRequest ferryMigrationRequest;
struct _ferryMigrationRequest {
    unsigned int flags;     /* virDomainMigrateFlags */
    const char **names;     /* targets of the disks that are to move; the strings are borrowed */
    size_t nnames;          /* 0: all that can */
    char *cookie;           /* of the other host */
    GHashTable *disks;      /* out of it: target -> ferryMigrationOffer */
    char **checkpoints;     /* out of it: documents, parents first; NULL for none */
    virStorageNetHostDef address; /* of the NBD server */
    char *numeric;          /* its host as a number; NULL: not known */
    bool nodelay;           /* it answers over TCP at once */
};

/* What the source's cookie says of a disk. */
typedef struct _ferryMigrationOffer ferryMigrationOffer;
struct _ferryMigrationOffer {
    unsigned long long capacity;    /* bytes */
    unsigned long long clusterSize; /* bytes; 0: not known */
    char *backing;                  /* path of its backing image; NULL: none, or not known */
    virStorageFileFormat backingFormat;
};

/* A disk at the source. The name goes into the journal. */
typedef struct _ferryMigrationDisk ferryMigrationDisk;
struct _ferryMigrationDisk {
    char *dst;                /* its target in the guest: vda */
    virStorageSource *target; /* what the destination exports */
};

/* The source's part. */
typedef struct _ferryMigration ferryMigration;
struct _ferryMigration {
    ferryMigrationDisk *disks;
    size_t ndisks;

    bool shallow;                 /* the backing images are there already */
    bool synchronous;
    unsigned long long bandwidth; /* bytes/s of all mirrors together; 0: unlimited */
    unsigned long long bufSize;   /* bytes in flight of each mirror */
    virStorageNetHostDef server;  /* of the destination, its host as a number; or nothing */
    bool lost;                    /* peer to peer: the other driver */
    bool aborted;                 /* a client wants no more of it */
    virErrorPtr error;            /* why a mirror failed while the memory moved */
};

extern const ferryOpClass ferryMigrationClass;
extern const ferryPlan ferryMigrationStoragePlan;
extern const ferryPlan ferryMigrationFinishPlan;

/* A disk at the destination. Name, image and origin go into the journal. */
typedef struct _ferryIncomingDisk ferryIncomingDisk;
struct _ferryIncomingDisk {
    char *dst;
    virStorageSource *image;
    ferryImageOrigin origin;  /* what was where the image is */
    bool direct;              /* what arrives goes past the page cache */
};

/* The destination's part. */
typedef struct _ferryIncoming ferryIncoming;
struct _ferryIncoming {
    ferryIncomingDisk *disks;
    size_t ndisks;
    virStorageNetHostDef address; /* of the NBD server */

    bool reserved;            /* the port, if it has one */
    bool serving;             /* the NBD server is ours */
    bool recovered;           /* another driver began it */
    char *tlsAlias;
    char *bitmaps;            /* answer to the source: those that are accepted */
    char **checkpoints;       /* to be defined when the guest is here */
    ferryExportServer server;
    ferrySync *sync;          /* writes out what arrives in the page cache */
    virErrorPtr error;        /* why the guest cannot start here */
    const ferryMigrationRequest *req; /* borrowed, while the call runs */
};

extern const ferryOpClass ferryIncomingClass;
extern const ferryPlan ferryIncomingImagesPlan;
extern const ferryPlan ferryIncomingServePlan;

#define FERRY_MIGRATION_STORAGE (VIR_MIGRATE_NON_SHARED_DISK | VIR_MIGRATE_NON_SHARED_INC)
#define FERRY_MIGRATION_NAME "migration"

/* Under which the stock driver keeps the TLS credentials of a migration. */
#define FERRY_MIGRATION_TLS_BASE "libvirt_migrate"

/* migration_request.c */
bool ferryMigrationIsOurs(unsigned int flags);
int ferryMigrationRequestParse(ferryMigrationRequest *req,
                               virTypedParameterPtr params,
                               int nparams,
                               unsigned int flags);
int ferryMigrationRequestTo(ferryMigrationRequest *req,
                            virTypedParameterPtr params,
                            int nparams);
int ferryMigrationRequestListen(ferryMigrationRequest *req,
                                virTypedParameterPtr params,
                                int nparams);
void ferryMigrationRequestClear(ferryMigrationRequest *req);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(ferryMigrationRequest, ferryMigrationRequestClear);
bool ferryMigrationWants(const ferryMigrationRequest *req,
                         virDomainDiskDef *disk);
bool ferryMigrationWantsAny(const ferryMigrationRequest *req,
                            virDomainDef *def);

/* migration_cookie.c */
int ferryMigrationCookieRead(const char *cookie,
                             int len,
                             ferryMigrationRequest *req);
int ferryMigrationCookieOffer(virDomainObj *vm,
                              char **cookie,
                              int *len);
char *ferryMigrationCookieWithout(const char *cookie,
                                  int len);
int ferryMigrationCookieAnswer(char **cookie,
                               int *len,
                               unsigned int port,
                               const char *extra);

/* migration_bitmaps.c */
void ferryMigrationCheckpointsOffer(virDomainObj *vm,
                                    xmlNodePtr root);
char **ferryMigrationCheckpointsRead(xmlXPathContextPtr ctxt);
int ferryMigrationBitmapsAccept(virDomainObj *vm,
                                const char *cookie,
                                qemuMigrationParams *params,
                                char **answer);

/* migration_source.c */
void ferryMigrationFree(void *data);
virStorageSource *ferryMigrationTargetNew(const char *dst);

/* migration_ready.c */
char *ferryMigrationFindStopped(ferryOp *op,
                                GPtrArray *jobs,
                                bool resume);
int ferryMigrationCheckRunning(ferryOp *op,
                               GPtrArray *jobs);
int ferryMigrationAwaitReady(ferryOp *op);
int ferryMigrationAwaitLevel(ferryOp *op);
int ferryMigrationCheckJobs(ferryOp *op,
                            GPtrArray *jobs);
int ferryMigrationBalance(ferryOp *op,
                          GPtrArray *jobs);
void ferryMigrationCount(GPtrArray *jobs,
                         virDomainJobData *data);
void ferryMigrationReportFailure(ferryOp *op,
                                 const char *dst,
                                 const char *error);

/* migration_perform.c: called from within the stock driver's perform phase */
void ferryMigrationPerformBegin(const ferryMigrationRequest *req);
int ferryMigrationCopyStorage(virDomainObj *vm,
                              qemuMigrationParams *params);
int ferryMigrationSwitchOver(virDomainObj *vm);
int ferryMigrationMayStop(virDomainObj *vm);
bool ferryMigrationAbort(virDomainObj *vm);
void ferryMigrationYank(ferryOp *op);
int ferryMigrationMaySwitchOver(void);
void ferryMigrationGiveUp(virDomainObj *vm);
int ferryMigrationPerformEnd(int rc);
int ferryMigrationStats(virDomainObj *vm,
                        virDomainJobData *data);
int ferryMigrationSetSpeed(virDomainObj *vm,
                           unsigned long long bandwidth);

/* migration_peer.c */
void ferryMigrationPeerConfirm(virDomainObj *vm);
int ferryMigrationPeer(virDomainPtr dom,
                       virDomainObj *vm,
                       const char *uri,
                       virTypedParameterPtr params,
                       int nparams,
                       unsigned int flags);

/* migration_prepare.c: likewise, prepare phase */
void ferryIncomingPrepareBegin(const ferryMigrationRequest *req);
int ferryIncomingCreateImages(virDomainObj *vm);
int ferryIncomingAcceptBitmaps(virDomainObj *vm,
                               qemuMigrationParams *params);
int ferryIncomingServe(virDomainObj *vm);
int ferryIncomingPrepareEnd(int rc,
                            char **cookie,
                            int *len);

/* migration_destination.c */
void ferryIncomingFree(void *data);
ferryOp *ferryIncomingFind(virDomainObj *vm);
int ferryIncomingClose(ferryOp *op);
void ferryIncomingReconnected(virDomainObj *vm);
void ferryIncomingStatus(virDomainObj *vm,
                         int status);
void ferryIncomingArrived(ferryOp *op,
                          virDomainObj *vm);
void ferryIncomingDiscard(ferryOp *op);
