/*
 * outgoing.h: the source's data of a storage migration
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

/* A disk at the source. The journal keeps its name. */
typedef struct _ferryMigrationDisk ferryMigrationDisk;
struct _ferryMigrationDisk {
    char *dst;                /* the disk's target in the guest: vda */
    virStorageSource *target; /* the destination's export, as this QEMU's NBD client */
    bool mirrored;            /* its mirror runs: clients see a block job */
    bool ready;               /* clients were told that the mirror is READY */
};

typedef struct _ferryMigration ferryMigration;
struct _ferryMigration {
    ferryMigrationDisk *disks;
    size_t ndisks;

    bool shallow;                 /* the destination has the backing images */
    bool synchronous;             /* a guest write ends when both images have it */
    unsigned long long bandwidth; /* bytes/s of all mirrors together; 0: unlimited */
    unsigned long long bufSize;   /* bytes that each mirror may have in flight */
    virStorageNetHostDef server;  /* the NBD server; numeric host, NULL: unknown */
    bool lost;                    /* peer to peer: the destination's driver is lost */
    bool aborted;                 /* a client has aborted the migration */
    virErrorPtr error;            /* why the disks failed once the memory moved */
};

#define FERRY_MIGRATION_NAME "migration"

void ferryMigrationFree(void *opaque);
FERRY_OP_DATA(ferryMigration, ferryMigrationOf, ferryMigrationFree);
ferryOp *ferryMigrationFind(virDomainObj *vm);
virStorageSource *ferryMigrationTargetNew(const char *dst);
void ferryMigrationYank(ferryOp *op);
