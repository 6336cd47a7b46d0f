/*
 * outgoing.h: what the source keeps of a storage migration
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

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

#define FERRY_MIGRATION_NAME "migration"

void ferryMigrationFree(void *opaque);
FERRY_OP_DATA(ferryMigration, ferryMigrationOf, ferryMigrationFree);
ferryOp *ferryMigrationFind(virDomainObj *vm);
virStorageSource *ferryMigrationTargetNew(const char *dst);
void ferryMigrationYank(ferryOp *op);
