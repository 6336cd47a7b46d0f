/*
 * export_peer.c: who is at the other end of an NBD connection
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * QEMU does not tell whether a client of its server is connected, nor whether the
 * server that its client waits for is there.
 */

#include <config.h>

#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>

#include "block/export_peer.h"
#include "block/socket.h"
#include "virfile.h"
#include "virstring.h"


/* A line of /proc/net/unix: a connection that a listening socket accepted has
 * that socket's path, the one that it was bound to. */
static bool
ferryExportLineIsUnixClient(const char *line,
                            const char *path)
{
    g_auto(GStrv) fields = g_strsplit_set(line, " ", 0);
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


/* A line of /proc/net/tcp or tcp6: number, local address, peer, state. */
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
 * Is anybody connected? QEMU does not tell, the kernel does. True when that
 * cannot be found out.
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

        if (!g_file_get_contents(tables[i], &text, NULL, NULL)) {
            if (i == 0)
                return true;
            continue; /* a host without IPv6 */
        }

        lines = g_strsplit(text, "\n", 0);

        for (k = 0; lines[k]; k++) {
            if (isUnix ? ferryExportLineIsUnixClient(lines[k], path) :
                         ferryExportLineIsTCPClient(lines[k], address->port))
                return true;
        }
    }

    return false;
}


/* Begins to connect. Returns 0 with *probe set, or what is known at once. */
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

    /* no name service: it may be away, too */
    if (getaddrinfo(address->name, port, &hints, &found) != 0)
        return EHOSTUNREACH;

    if ((fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) < 0 ||
        (connect(fd, found->ai_addr, found->ai_addrlen) < 0 && errno != EINPROGRESS))
        error = errno;
    else
        *probe = g_steal_fd(&fd);

    freeaddrinfo(found);
    return error;
}


/**
 * ferryExportServerProbe:
 * @address: its host is a number
 * @probe: socket of a probe that has no answer yet, or -1; the caller closes it
 *         in the end
 *
 * Does somebody listen on @address? Does not wait: call it again.
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
        if (poll(&poller, 1, 0) < 1)
            return FERRY_EXPORT_SILENT;

        if (getsockopt(*probe, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
            error = errno;
        VIR_FORCE_CLOSE(*probe);
    }

    if (error == 0)
        return FERRY_EXPORT_ALIVE;

    return error == ECONNREFUSED ? FERRY_EXPORT_GONE : FERRY_EXPORT_SILENT;
}
