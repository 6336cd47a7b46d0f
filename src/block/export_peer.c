/*
 * export_peer.c: checks for the peer of an NBD connection
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * QEMU does not tell whether a client is connected to its NBD server, nor, as a client,
 * whether the server that it waits for still exists.
 */

#include <config.h>

#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>

#include "block/export_peer.h"
#include "block/socket.h"
#include "virfile.h"
#include "virstring.h"


/* Returns whether @line of /proc/net/unix is a connection (state 03) to the server that
 * was bound to @path. The kernel lists it with that path even after a rename. */
static bool
ferryExportLineIsUnixClient(const char *line,
                            const char *path)
{
    g_auto(GStrv) fields = g_strsplit_set(line, " ", /* max_tokens= */ 0);
    size_t n = g_strv_length(fields);
    size_t i;

    if (n < 2 || STRNEQ(fields[n - 1], path))
        return false;

    for (i = 0; i < n; i++) {
        if (STREQ(fields[i], "03"))
            return true;
    }

    return false;
}


/* Returns whether @line of /proc/net/tcp or tcp6 (number, local address, peer, state) is
 * an established connection to local @port. */
static bool
ferryExportLineIsTCPClient(const char *line,
                           unsigned int port)
{
    char local[64];
    unsigned int state;
    unsigned int localPort;
    const char *colon;

    return sscanf(line, " %*[0-9]: %63s %*s %x", local, &state) == 2 &&
           state == 0x01 &&
           (colon = strrchr(local, ':')) &&
           virStrToLong_ui(colon + 1, NULL, 16, &localPort) == 0 &&
           localPort == port;
}


/**
 * ferryExportServerHasClients:
 *
 * Returns whether a client is connected to the server on @address, according to the
 * kernel. Returns true when that cannot be found out.
 */
bool
ferryExportServerHasClients(virStorageNetHostDef *address)
{
    static const char *const tcp[] = { "/proc/net/tcp", "/proc/net/tcp6", NULL };
    static const char *const local[] = { "/proc/net/unix", NULL };
    bool isUnix = address->transport == VIR_STORAGE_NET_HOST_TRANS_UNIX;
    g_autofree char *path = isUnix ? ferryExportPrivatePath(address->socket) : NULL;
    const char *const *tables = isUnix ? local : tcp;
    size_t i;

    for (i = 0; tables[i]; i++) {
        g_autofree char *text = NULL;
        g_auto(GStrv) lines = NULL;
        size_t k;

        if (!g_file_get_contents(tables[i], &text, /* length= */ NULL, /* error= */ NULL)) {
            if (i == 0)
                return true;
            continue; /* a host without IPv6 has no tcp6 */
        }

        lines = g_strsplit(text, "\n", /* max_tokens= */ 0);

        for (k = 0; lines[k]; k++) {
            if (isUnix ? ferryExportLineIsUnixClient(lines[k], path) :
                         ferryExportLineIsTCPClient(lines[k], address->port))
                return true;
        }
    }

    return false;
}


/* Starts to connect. Returns 0 with *probe set, or an errno value. */
static int
ferryExportProbeStart(const virStorageNetHostDef *address,
                      int *probe)
{
    g_autofree char *port = g_strdup_printf("%u", address->port);
    const struct addrinfo hints = { .ai_socktype = SOCK_STREAM,
                                    .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV };
    struct addrinfo *found = NULL;
    VIR_AUTOCLOSE fd = -1;
    int error = 0;

    /* Only a numeric address: a lookup could block if the name service is down, too. */
    if (getaddrinfo(address->name, port, &hints, &found) != 0)
        return EHOSTUNREACH;

    if ((fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) < 0 ||
        (connect(fd, found->ai_addr, found->ai_addrlen) < 0 && errno != EINPROGRESS)) {
        error = errno;
    } else {
        *probe = fd;
        fd = -1;
    }

    freeaddrinfo(found);
    return error;
}


/**
 * ferryExportServerProbe:
 * @address: its host must be numeric
 * @probe: socket of a probe without an answer yet, or -1; finally closed by the caller
 *
 * Checks whether a server listens on @address. Does not wait for an answer: returns
 * FERRY_EXPORT_SILENT until a later call finds one.
 */
ferryExportState
ferryExportServerProbe(const virStorageNetHostDef *address,
                       int *probe)
{
    struct pollfd poller = { .events = POLLOUT };
    int error = 0;
    socklen_t len = sizeof(error);

    if (address->transport == VIR_STORAGE_NET_HOST_TRANS_UNIX)
        return ferryExportSocketAlive(address->socket) ? FERRY_EXPORT_ALIVE : FERRY_EXPORT_GONE;

    if (*probe < 0)
        error = ferryExportProbeStart(address, probe);

    if (error == 0) {
        poller.fd = *probe;
        if (poll(&poller, 1, /* timeout= */ 0) < 1)
            return FERRY_EXPORT_SILENT;

        if (getsockopt(*probe, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
            error = errno;
        VIR_FORCE_CLOSE(*probe);
    }

    if (error == 0)
        return FERRY_EXPORT_ALIVE;

    return error == ECONNREFUSED ? FERRY_EXPORT_GONE : FERRY_EXPORT_SILENT;
}
