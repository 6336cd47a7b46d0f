/*
 * incoming.h: the destination's data of a storage migration
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "block/export.h"
#include "block/image.h"
#include "block/sync.h"
#include "block/volume.h"
#include "block/volume_delete.h"
#include "engine/op.h"
#include "ops/migration/request.h"

/* A disk at the destination. The journal keeps its name, image, origin and volume. */
typedef struct _ferryIncomingDisk ferryIncomingDisk;
struct _ferryIncomingDisk {
    char *dst; /* the disk's target in the guest: vda */
    virStorageSource *image;
    ferryImageOrigin origin; /* what was at the image's path before */
    ferryFile *file;         /* the image's file, if the undo is to remove it */
    ferryVolume *volume;     /* what we have created through a pool, in place of a file */
    bool direct;             /* QEMU bypasses the page cache */
    bool holes;              /* zeroes become holes, though the disk's discard mode does not say so */
};

typedef struct _ferryIncoming ferryIncoming;
struct _ferryIncoming {
    ferryIncomingDisk *disks;
    size_t ndisks;
    char *domain;                 /* name of the domain; NULL after a driver restart */
    virStorageNetHostDef address; /* of the NBD server */

    bool reserved;               /* a TCP port is reserved in the port allocator */
    bool serving;                /* QEMU's NBD server runs */
    bool recovered;              /* read from the journal after a driver restart */
    bool arrived;                /* the guest runs here */
    char *tlsAlias;              /* the NBD server's TLS credentials; NULL: no TLS */
    char *bitmaps;               /* element for the source: the accepted bitmaps; or NULL */
    char **checkpoints;          /* definitions, to be redefined when the guest has arrived */
    ferryVolumeRemoval *removal; /* begun by stopped(), and not done yet; or NULL */
    ferryExportServer server;
    ferrySync *sync;                  /* writes images out of the page cache; may be NULL */
    virErrorPtr error;                /* why the guest cannot start here */
    const ferryMigrationRequest *req; /* borrowed; NULL after the prepare phase */
};

/* The same as FERRY_MIGRATION_NAME: a domain has one migration, in either direction. */
#define FERRY_INCOMING_NAME "migration"

void ferryIncomingFree(void *opaque);
FERRY_OP_DATA(ferryIncoming, ferryIncomingOf, ferryIncomingFree);
ferryOp *ferryIncomingFind(virDomainObj *vm);
