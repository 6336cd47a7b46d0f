/*
 * request.c: storage migration: what a client asks of a phase
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include <netdb.h>
#include <sys/socket.h>

#include "block/resolve.h"
#include "compat/host.h"
#include "ops/migration/request.h"
#include "virerror.h"
#include "virtypedparam.h"
#include "viruri.h"

#define VIR_FROM_THIS VIR_FROM_QEMU


/* Strings, so that libvirt's headers need not know them: what the stock driver does not know it refuses
 * itself. Those that ask something of storage are Ferry's, the others the stock driver's. */
#define FERRY_MIGRATION_PARAM_DETECT_ZEROES "migrate_disks_detect_zeroes"
#define FERRY_MIGRATION_PARAMETERS \
    VIR_MIGRATE_PARAM_MIGRATE_DISKS, VIR_TYPED_PARAM_STRING | VIR_TYPED_PARAM_MULTIPLE, \
        FERRY_MIGRATION_PARAM_DETECT_ZEROES, VIR_TYPED_PARAM_STRING | VIR_TYPED_PARAM_MULTIPLE, \
        VIR_MIGRATE_PARAM_DISKS_PORT, VIR_TYPED_PARAM_INT, \
        VIR_MIGRATE_PARAM_DISKS_URI, VIR_TYPED_PARAM_STRING, \
        VIR_MIGRATE_PARAM_LISTEN_ADDRESS, VIR_TYPED_PARAM_STRING, \
        VIR_MIGRATE_PARAM_URI, VIR_TYPED_PARAM_STRING, \
        VIR_MIGRATE_PARAM_DEST_NAME, VIR_TYPED_PARAM_STRING, \
        VIR_MIGRATE_PARAM_DEST_XML, VIR_TYPED_PARAM_STRING, \
        VIR_MIGRATE_PARAM_PERSIST_XML, VIR_TYPED_PARAM_STRING, \
        VIR_MIGRATE_PARAM_BANDWIDTH, VIR_TYPED_PARAM_ULLONG, \
        VIR_MIGRATE_PARAM_BANDWIDTH_POSTCOPY, VIR_TYPED_PARAM_ULLONG, \
        "bandwidth.avail.switchover", VIR_TYPED_PARAM_ULLONG, \
        VIR_MIGRATE_PARAM_GRAPHICS_URI, VIR_TYPED_PARAM_STRING, \
        VIR_MIGRATE_PARAM_COMPRESSION, VIR_TYPED_PARAM_STRING | VIR_TYPED_PARAM_MULTIPLE, \
        VIR_MIGRATE_PARAM_COMPRESSION_MT_LEVEL, VIR_TYPED_PARAM_INT, \
        VIR_MIGRATE_PARAM_COMPRESSION_MT_THREADS, VIR_TYPED_PARAM_INT, \
        VIR_MIGRATE_PARAM_COMPRESSION_MT_DTHREADS, VIR_TYPED_PARAM_INT, \
        VIR_MIGRATE_PARAM_COMPRESSION_XBZRLE_CACHE, VIR_TYPED_PARAM_ULLONG, \
        "compression.zlib.level", VIR_TYPED_PARAM_INT, \
        "compression.zstd.level", VIR_TYPED_PARAM_INT, \
        VIR_MIGRATE_PARAM_AUTO_CONVERGE_INITIAL, VIR_TYPED_PARAM_INT, \
        VIR_MIGRATE_PARAM_AUTO_CONVERGE_INCREMENT, VIR_TYPED_PARAM_INT, \
        VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS, VIR_TYPED_PARAM_INT, \
        VIR_MIGRATE_PARAM_TLS_DESTINATION, VIR_TYPED_PARAM_STRING, \
        NULL


/**
 * ferryMigrationIsOurs:
 *
 * Returns true for a migration with storage that Ferry does. The stock driver does or
 * refuses all others: they have no storage to move over NBD.
 */
bool
ferryMigrationIsOurs(unsigned int flags)
{
    return (flags & FERRY_MIGRATION_STORAGE) &&
           !(flags & (VIR_MIGRATE_TUNNELLED | VIR_MIGRATE_OFFLINE |
                      VIR_MIGRATE_POSTCOPY_RESUME));
}


/**
 * ferryMigrationRequestCheck:
 *
 * Refuses a parameter that Ferry does not know, with the code that clients expect: it may ask something
 * of storage, which the stock driver is not told. Returns 0, or -1 with an error reported.
 */
int
ferryMigrationRequestCheck(virTypedParameterPtr params,
                           int nparams)
{
    return virTypedParamsValidate(params, nparams, FERRY_MIGRATION_PARAMETERS);
}


/* Parses the client's disks_uri: tcp://HOST[:PORT] or unix:///PATH */
static int
ferryMigrationParseURI(ferryMigrationRequest *req,
                       const char *text)
{
    g_autoptr(virURI) uri = virURIParse(text);

    if (!uri)
        return -1;

    if (STREQ_NULLABLE(uri->scheme, "unix") && uri->path) {
        req->address.transport = VIR_STORAGE_NET_HOST_TRANS_UNIX;
        req->address.socket = g_steal_pointer(&uri->path);

        if (req->flags & VIR_MIGRATE_TLS) {
            virReportError(VIR_ERR_OPERATION_UNSUPPORTED, "%s",
                           _("NBD migration with TLS is not supported over UNIX socket"));
            return -1;
        }
        return 0;
    }

    if (STREQ_NULLABLE(uri->scheme, "tcp") && uri->server && *uri->server) {
        req->address.name = g_steal_pointer(&uri->server);
        req->address.port = uri->port;
        return 0;
    }

    virReportError(VIR_ERR_INVALID_ARG,
                   _("disks URI '%1$s' is neither tcp://HOST[:PORT] nor unix:///PATH"), text);
    return -1;
}


/* Takes the host from the memory's URI, which is tcp:HOST:PORT or a proper URI. */
static int
ferryMigrationParseHost(ferryMigrationRequest *req,
                        const char *text)
{
    const char *rest;
    g_autofree char *proper = NULL;
    g_autoptr(virURI) uri = NULL;

    /* older drivers return tcp:HOST:PORT, in which virURIParse() finds no host */
    if ((rest = STRSKIP(text, "tcp:")) && !STRPREFIX(rest, "//"))
        proper = g_strdup_printf("tcp://%s", rest);

    if (!(uri = virURIParse(proper ? proper : text)))
        return -1;

    req->address.name = g_steal_pointer(&uri->server);
    return 0;
}


/**
 * ferryMigrationRequestParse:
 * @params: parameters of any phase; must outlive @req, which borrows strings from them
 *
 * Returns 0 with @req filled in, or -1 with an error reported.
 */
int
ferryMigrationRequestParse(ferryMigrationRequest *req,
                           virTypedParameterPtr params,
                           int nparams,
                           unsigned int flags)
{
    const char *disksURI = NULL;
    int port = 0;
    int n;

    req->flags = flags;
    req->address.transport = VIR_STORAGE_NET_HOST_TRANS_TCP;

    if (virTypedParamsGetString(params, nparams, VIR_MIGRATE_PARAM_DISKS_URI, &disksURI) < 0 ||
        virTypedParamsGetInt(params, nparams, VIR_MIGRATE_PARAM_DISKS_PORT, &port) < 0 ||
        (n = virTypedParamsGetStringList(params, nparams, VIR_MIGRATE_PARAM_MIGRATE_DISKS,
                                         &req->names)) < 0)
        return -1;

    req->nnames = n;

    if ((n = virTypedParamsGetStringList(params, nparams, FERRY_MIGRATION_PARAM_DETECT_ZEROES,
                                         &req->zeroes)) < 0)
        return -1;

    req->nzeroes = n;

    if (disksURI && port) {
        virReportError(VIR_ERR_INVALID_ARG, "%s",
                       _("Both port and URI requested for disk migration "
                         "while being mutually exclusive"));
        return -1;
    }

    if (port < 0 || port > USHRT_MAX) {
        virReportError(VIR_ERR_INVALID_ARG, "%s", _("nbd port must be in range 0-65535"));
        return -1;
    }

    if (disksURI)
        return ferryMigrationParseURI(req, disksURI);

    req->address.port = port;
    return 0;
}


/* Resolves the host's name early. If there is no such name, QEMU will say so; if the name
 * service does not answer, QEMU would wait for it and the guest for QEMU. */
static int
ferryMigrationResolve(ferryMigrationRequest *req)
{
    g_auto(GStrv) hosts = NULL;

    if (!req->address.name)
        return 0;

    if ((hosts = ferryResolve(/* vm= */ NULL, req->address.name))) {
        req->numeric = g_strdup(hosts[0]);
    } else {
        if (virGetLastErrorCode() == VIR_ERR_OPERATION_TIMEOUT)
            return -1;
        virResetLastError();
    }

    return 0;
}


/**
 * ferryMigrationRequestTo:
 *
 * At the source: sets the host of the NBD server. If the client does not say where the
 * disks go, they go to the memory's host. Returns 0, or -1 with an error reported.
 */
int
ferryMigrationRequestTo(ferryMigrationRequest *req,
                        virTypedParameterPtr params,
                        int nparams)
{
    const char *uri = NULL;

    if (req->address.transport != VIR_STORAGE_NET_HOST_TRANS_TCP)
        return 0;

    if (!req->address.name &&
        (virTypedParamsGetString(params, nparams, VIR_MIGRATE_PARAM_URI, &uri) < 0 ||
         (uri && ferryMigrationParseHost(req, uri) < 0)))
        return -1;

    return ferryMigrationResolve(req);
}


/**
 * ferryMigrationRequestListen:
 *
 * At the destination: sets the address to listen on. If the client names none, that is
 * all addresses, as for the memory. Returns 0, or -1 with an error reported.
 */
int
ferryMigrationRequestListen(ferryMigrationRequest *req,
                            virTypedParameterPtr params,
                            int nparams)
{
    const struct addrinfo hints = { .ai_flags = AI_ADDRCONFIG, .ai_socktype = SOCK_STREAM };
    struct addrinfo *any = NULL;
    const char *address = NULL;

    if (req->address.transport != VIR_STORAGE_NET_HOST_TRANS_TCP)
        return 0;

    if (req->address.name)
        return (req->listen = ferryResolve(/* vm= */ NULL, req->address.name)) ? 0 : -1;

    if (virTypedParamsGetString(params, nparams, VIR_MIGRATE_PARAM_LISTEN_ADDRESS, &address) < 0)
        return -1;

    if (!address) {
        address = getaddrinfo("::", NULL, &hints, &any) == 0 ? "::" : "0.0.0.0";
        if (any)
            freeaddrinfo(any);
    }

    req->address.name = g_strdup(address);
    return (req->listen = ferryResolve(/* vm= */ NULL, address)) ? 0 : -1;
}


void
ferryMigrationRequestClear(ferryMigrationRequest *req)
{
    g_clear_pointer(&req->names, g_free);
    g_clear_pointer(&req->zeroes, g_free);
    g_clear_pointer(&req->cookie, g_free);
    g_clear_pointer(&req->disks, g_hash_table_unref);
    g_clear_pointer(&req->checkpoints, g_strfreev);
    ferryHostClear(&req->address);
    g_clear_pointer(&req->numeric, g_free);
    g_clear_pointer(&req->listen, g_strfreev);
}


/**
 * ferryMigrationWants:
 *
 * Returns whether @disk is to be migrated. If the client lists no disks, these are all
 * that are not shared, read-only or empty, as libvirt documents.
 */
bool
ferryMigrationWants(const ferryMigrationRequest *req,
                    virDomainDiskDef *disk)
{
    size_t i;

    for (i = 0; i < req->nnames; i++) {
        if (STREQ(disk->dst, req->names[i]))
            return true;
    }

    return req->nnames == 0 && !disk->src->shared && !disk->src->readonly &&
           !virStorageSourceIsEmpty(disk->src);
}


/**
 * ferryMigrationDetectsZeroes:
 *
 * Returns whether the client wants zeroes of the disk named to be found while it is copied.
 */
bool
ferryMigrationDetectsZeroes(const ferryMigrationRequest *req,
                            const char *name)
{
    size_t i;

    for (i = 0; i < req->nzeroes; i++) {
        if (STREQ(name, req->zeroes[i]))
            return true;
    }

    return false;
}


/* Returns whether any disk of @def is to be migrated. */
bool
ferryMigrationWantsAny(const ferryMigrationRequest *req,
                       virDomainDef *def)
{
    size_t i;

    for (i = 0; i < def->ndisks; i++) {
        if (ferryMigrationWants(req, def->disks[i]))
            return true;
    }

    return false;
}
