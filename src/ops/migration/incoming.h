/*
 * incoming.h: what the destination keeps of a storage migration
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "block/export.h"
#include "block/image.h"
#include "block/sync.h"
#include "engine/op.h"
#include "ops/migration/request.h"

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

/* One domain has one migration at a time, in either direction. */
#define FERRY_INCOMING_NAME "migration"

void ferryIncomingFree(void *opaque);
FERRY_OP_DATA(ferryIncoming, ferryIncomingOf, ferryIncomingFree);
ferryOp *ferryIncomingFind(virDomainObj *vm);
