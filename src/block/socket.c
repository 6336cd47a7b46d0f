/*
 * socket.c: the listening sockets of NBD servers
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * QEMU adds exports only to a server that listens, so a client that is quick could
 * see some of the exports and take them for all. Therefore the socket is ours: QEMU
 * gets the socket while nobody can reach it, and the socket is opened to the world
 * when all exports are there. A unix socket has another name until then and is
 * renamed. A TCP socket has a filter that drops every packet, so that clients who
 * come early try again instead of being refused.
 */

#include <config.h>

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/sockios.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "block/socket.h"
#include "virerror.h"
#include "virfile.h"
#include "virsocketaddr.h"
#include "virstring.h"
#include "virutil.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

/* linux/un.h, which has this, and sys/un.h exclude each other. */
#ifndef SIOCUNIXFILE
#define SIOCUNIXFILE (SIOCPROTOPRIVATE + 0)
#endif


/**
 * ferryExportPrivatePath:
 *
 * Returns the path of a unix socket until it is published: beside @path, to be renamed.
 */
char *
ferryExportPrivatePath(const char *path)
{
    g_autofree char *dir = g_path_get_dirname(path);
    g_autofree char *name = g_path_get_basename(path);

    return g_strdup_printf("%s/.%s.ferry", dir, name);
}


/**
 * ferryExportSocketAlive:
 *
 * Returns whether a process listens on the unix socket @path.
 */
bool
ferryExportSocketAlive(const char *path)
{
    struct sockaddr_un sa = { .sun_family = AF_UNIX };
    VIR_AUTOCLOSE fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0 || virStrcpyStatic(sa.sun_path, path) < 0)
        return false;

    return connect(fd, (struct sockaddr *) &sa, sizeof(sa)) == 0 || errno == EAGAIN;
}


/**
 * ferryExportAddressCheck:
 *
 * Checks, before anything is changed, that a server can listen on the unix socket
 * @address; a TCP address is not checked. Returns 0, or -1 with an error reported.
 */
int
ferryExportAddressCheck(virDomainObj *vm,
                        virStorageNetHostDef *address)
{
    g_autofree char *private = NULL;
    struct sockaddr_un sa;
    struct stat st;

    if (address->transport != VIR_STORAGE_NET_HOST_TRANS_UNIX)
        return 0;

    private = ferryExportPrivatePath(address->socket);

    if (strlen(private) >= sizeof(sa.sun_path)) {
        virReportError(VIR_ERR_INVALID_ARG,
                       _("socket path '%1$s' is too long; at most %2$zu bytes are possible"),
                       address->socket,
                       sizeof(sa.sun_path) - 1 - (strlen(private) - strlen(address->socket)));
        return -1;
    }

    if (lstat(address->socket, &st) < 0)
        return 0;

    if (!S_ISSOCK(st.st_mode) || ferryExportSocketAlive(address->socket)) {
        virReportError(VIR_ERR_INVALID_ARG,
                       _("socket '%1$s' for domain '%2$s' is in use; name another one"),
                       address->socket, vm->def->name);
        return -1;
    }

    return 0;
}


/* Removes @path if it is a socket on which nobody listens: of no use to anybody. */
static void
ferryExportRemoveDead(const char *path)
{
    VIR_AUTOCLOSE fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    g_autoptr(ferryFile) file = ferryFileNew();
    struct stat st;

    if (fd >= 0 && fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode) &&
        !ferryExportSocketAlive(path) && ferryFileLearn(file, fd) == 0)
        ignore_value(ferryFileRemove(file, path, /* uid= */ -1, /* gid= */ -1));
}


/* Opens the file of the bound socket @fd, not what is at @path by now. Only root can ask
 * for that; a driver of another user creates sockets for itself. */
static int
ferryExportSocketFile(int fd,
                      const char *path)
{
    int file = ioctl(fd, SIOCUNIXFILE, NULL);

    if (file < 0 && geteuid() != 0)
        file = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    else if (file >= 0)
        ignore_value(virSetCloseExec(file));

    return file;
}


/* Gives the socket's @file to QEMU's user and group. Nobody can connect until QEMU
 * listens, so there is no gap. */
static int
ferryExportSocketOwn(virDomainObj *vm,
                     int file)
{
    g_autoptr(virQEMUDriverConfig) cfg = virQEMUDriverGetConfig(QEMU_DOMAIN_PRIVATE(vm)->driver);
    g_autofree char *self = g_strdup_printf("/proc/self/fd/%d", file);

    if (geteuid() == 0 && fchownat(file, "", cfg->user, cfg->group, AT_EMPTY_PATH) < 0)
        return -1;

    /* fchmod() refuses a descriptor without access */
    return chmod(self, 0660);
}


/* Creates a socket for QEMU's user and group, whoever else may use the folder. @file is
 * set to its file. Returns it bound but not listening, or -1 with an error reported. */
int
ferryExportListenUnix(virDomainObj *vm,
                      const char *path,
                      ferryFile **file)
{
    struct sockaddr_un sa = { .sun_family = AF_UNIX };
    g_autofree char *folder = g_path_get_dirname(path);
    g_autoptr(ferryFile) made = ferryFileNew();
    VIR_AUTOCLOSE fd = -1;
    VIR_AUTOCLOSE bound = -1;
    int listening;

    if (virStrcpyStatic(sa.sun_path, path) < 0) {
        virReportError(VIR_ERR_INVALID_ARG, _("socket path '%1$s' is too long"), path);
        return -1;
    }

    /* a leftover from before a crash of the host */
    ferryExportRemoveDead(path);

    if ((fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) < 0) {
        virReportSystemError(errno, "%s", _("cannot create a socket"));
        return -1;
    }

    /* the file gets the socket's mode, so it is nobody else's from the beginning */
    if (fchmod(fd, 0600) < 0 ||
        bind(fd, (struct sockaddr *) &sa, sizeof(sa)) < 0 ||
        (bound = ferryExportSocketFile(fd, path)) < 0 ||
        ferryFileLearn(made, bound) < 0 ||
        ferryExportSocketOwn(vm, bound) < 0) {
        virReportSystemError(errno,
                             _("cannot create a socket in '%1$s' for domain '%2$s': check that the folder "
                               "exists and is writable"),
                             folder, vm->def->name);
        ignore_value(ferryFileRemove(made, path, /* uid= */ -1, /* gid= */ -1));
        return -1;
    }

    *file = g_steal_pointer(&made);
    listening = fd;
    fd = -1;
    return listening;
}


/**
 * ferryExportSocketPublish:
 *
 * Renames the socket @private, which is @file, to @path. Returns 0, or -1 with an error
 * reported: also if something else than a dead socket is there by now.
 */
int
ferryExportSocketPublish(virDomainObj *vm,
                         const char *private,
                         const char *path,
                         const ferryFile *file)
{
    if (!ferryFileIsAt(file, private)) {
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("socket '%1$s' for domain '%2$s' was replaced; find out who writes to its "
                         "folder"),
                       private, vm->def->name);
        return -1;
    }

    ferryExportRemoveDead(path);

    if (ferryFileRename(private, path) == 0)
        return 0;

    if (errno == EEXIST)
        virReportError(VIR_ERR_INVALID_ARG,
                       _("socket '%1$s' for domain '%2$s' is in use; name another one"),
                       path, vm->def->name);
    else
        virReportSystemError(errno, _("cannot rename socket '%1$s' to '%2$s'"), private, path);
    return -1;
}


static int
ferryExportDropPackets(int fd)
{
    struct sock_filter drop = BPF_STMT(BPF_RET | BPF_K, 0);
    struct sock_fprog program = { .len = 1, .filter = &drop };

    return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program));
}


/* Binds to the first usable one of @hosts, the addresses that address->name was resolved to
 * before the domain was locked; IPv4 before IPv6: QEMU takes only one socket. Sets a port of
 * 0 to that chosen. Returns the socket, or -1 and an error. */
int
ferryExportListenTCP(virDomainObj *vm,
                     virStorageNetHostDef *address,
                     char **hosts)
{
    g_autofree char *port = g_strdup_printf("%u", address->port);
    const struct addrinfo hints = { .ai_socktype = SOCK_STREAM,
                                    .ai_flags = AI_PASSIVE | AI_NUMERICHOST };
    const int families[] = { AF_INET, AF_INET6 };
    size_t nhosts = hosts ? g_strv_length(hosts) : 0;
    virSocketAddr bound = { 0 };
    int fd = -1;
    int lasterr = EADDRNOTAVAIL;
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(families) * nhosts && fd < 0; i++) {
        int family = families[i / nhosts];
        struct addrinfo *found = NULL;
        struct addrinfo *ai;

        if (getaddrinfo(hosts[i % nhosts], port, &hints, &found) != 0)
            continue;

        for (ai = found; ai && fd < 0; ai = ai->ai_next) {
            int on = 1;

            if (ai->ai_family != family ||
                (fd = socket(ai->ai_family, ai->ai_socktype | SOCK_CLOEXEC, ai->ai_protocol)) < 0)
                continue;

            /* QEMU 7.2 sends its answers in small pieces: without TCP_NODELAY they cost a
             * client 90 ms each time it connects. */
            if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0 ||
                bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 ||
                ferryExportDropPackets(fd) < 0) {
                lasterr = errno;
                VIR_FORCE_CLOSE(fd);
            }
        }

        freeaddrinfo(found);
    }

    if (fd < 0) {
        virReportSystemError(lasterr, _("cannot listen on %1$s port %2$u for domain '%3$s'"),
                             address->name, address->port, vm->def->name);
        return -1;
    }

    bound.len = sizeof(bound.data);
    if (getsockname(fd, &bound.data.sa, &bound.len) < 0) {
        virReportSystemError(errno, "%s", _("cannot read the port number of a socket"));
        VIR_FORCE_CLOSE(fd);
        return -1;
    }
    address->port = virSocketAddrGetPort(&bound);

    return fd;
}


/**
 * ferryExportSocketRemove:
 * @file: file of the server's socket; NULL: not known
 *
 * Removes the socket files that a server on @address left when it ended. If @file is not
 * known, removes only sockets on which nobody listens.
 */
void
ferryExportSocketRemove(virStorageNetHostDef *address,
                        const ferryFile *file)
{
    g_autofree char *private = NULL;
    const char *paths[2];
    size_t i;

    if (address->transport != VIR_STORAGE_NET_HOST_TRANS_UNIX)
        return;

    private = ferryExportPrivatePath(address->socket);
    paths[0] = private;
    paths[1] = address->socket;

    for (i = 0; i < G_N_ELEMENTS(paths); i++) {
        if (file)
            ignore_value(ferryFileRemove(file, paths[i], /* uid= */ -1, /* gid= */ -1));
        else
            ferryExportRemoveDead(paths[i]);
    }
}
