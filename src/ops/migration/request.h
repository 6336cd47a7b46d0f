/*
 * request.h: what a client of one of the phases asks for
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "qemu/qemu_domain.h"

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

#define FERRY_MIGRATION_STORAGE (VIR_MIGRATE_NON_SHARED_DISK | VIR_MIGRATE_NON_SHARED_INC)

/* Under which the stock driver keeps the TLS credentials of a migration. */
#define FERRY_MIGRATION_TLS_BASE "libvirt_migrate"

bool ferryMigrationIsOurs(unsigned int flags);
int ferryMigrationRequestParse(ferryMigrationRequest *req,
                               virTypedParameterPtr params,
                               int nparams,
                               unsigned int flags);
int ferryMigrationRequestTo(ferryMigrationRequest *req, virTypedParameterPtr params, int nparams);
int ferryMigrationRequestListen(ferryMigrationRequest *req,
                                virTypedParameterPtr params,
                                int nparams);
void ferryMigrationRequestClear(ferryMigrationRequest *req);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(ferryMigrationRequest, ferryMigrationRequestClear);
bool ferryMigrationWants(const ferryMigrationRequest *req, virDomainDiskDef *disk);
bool ferryMigrationWantsAny(const ferryMigrationRequest *req, virDomainDef *def);
