/*
 * export.h: QEMU's NBD server
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "block/file.h"
#include "qemu/qemu_domain.h"

/* An NBD server that was started, but that clients cannot reach yet. */
typedef struct _ferryExportServer ferryExportServer;
struct _ferryExportServer {
    int fd;          /* listening socket; -1: none */
    char **hosts;    /* TCP: addresses of the host's name (ferryResolve()) */
    ferryFile *file; /* of the unix socket, for ferryExportSocketRemove(); NULL: none, or
                      * not known, as after a crash of the host */
    char *private;   /* path of the unix socket until it is published; NULL: TCP */
};

/* When clients leave an export: before the guest runs (a migration comes in), or at any time. */
typedef enum {
    FERRY_EXPORT_ANYTIME,
    FERRY_EXPORT_INCOMING,
} ferryExportWhen;

int ferryExportMayServe(virDomainObj *vm, virDomainDiskDef *disk, ferryExportWhen when);
int ferryExportServerStart(virDomainObj *vm,
                           virStorageNetHostDef *address,
                           const char *tlsAlias,
                           ferryExportServer *server);
int ferryExportServerPublish(virDomainObj *vm, virStorageNetHostDef *address, ferryExportServer *server);
int ferryExportServerStop(virDomainObj *vm);
void ferryExportServerForget(ferryExportServer *server);
int ferryExportAdd(virDomainObj *vm,
                   virStorageSource *src,
                   const char *name,
                   bool writable,
                   const char *bitmap);
int ferryExportTLSAdd(virDomainObj *vm, const char *base, char **alias, char **secretAlias);
void ferryExportTLSRemove(virDomainObj *vm, const char *base);
