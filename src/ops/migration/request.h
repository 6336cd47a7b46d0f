/*
 * request.h: a client's request to a phase, and what the other host's cookie says
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "block/like.h"

typedef struct _ferryMigrationRequest ferryMigrationRequest;
struct _ferryMigrationRequest {
    unsigned int flags;  /* virDomainMigrateFlags */
    const char **names;  /* targets of the disks to migrate; the strings are borrowed */
    size_t nnames;       /* 0: the disks that ferryMigrationWants() chooses */
    const char **zeroes; /* targets of disks whose zeroes are looked for; borrowed, too */
    size_t nzeroes;
    char *cookie;                 /* text of the other host's cookie */
    GHashTable *disks;            /* from the cookie: target -> ferryMigrationOffer */
    char **checkpoints;           /* from the cookie: definitions, parents first; NULL: none */
    virStorageNetHostDef address; /* of the NBD server */
    char *numeric;                /* host of address as a number; NULL: unknown */
    char **listen;                /* at the destination: addresses of that host (ferryResolve()) */
    bool nodelay;                 /* the NBD server's TCP sockets have TCP_NODELAY */
};

/* What the source's cookie says about a disk. */
typedef struct _ferryMigrationOffer ferryMigrationOffer;
struct _ferryMigrationOffer {
    unsigned long long capacity; /* bytes */
    ferryLikeProps props;
    char *backing; /* path of its backing image; NULL: none, or unknown */
    virStorageFileFormat backingFormat;
};

#define FERRY_MIGRATION_STORAGE (VIR_MIGRATE_NON_SHARED_DISK | VIR_MIGRATE_NON_SHARED_INC)

/* The stock driver derives the alias of a migration's TLS credentials from this. */
#define FERRY_MIGRATION_TLS_BASE "libvirt_migrate"

bool ferryMigrationIsOurs(unsigned int flags);
int ferryMigrationRequestCheck(virTypedParameterPtr params, int nparams);
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
bool ferryMigrationDetectsZeroes(const ferryMigrationRequest *req, const char *name);
bool ferryMigrationWantsAny(const ferryMigrationRequest *req, virDomainDef *def);
