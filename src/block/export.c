/*
 * export.c: QEMU's NBD server
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * QEMU adds exports only to a server that listens, so a client that is quick
 * could see some of them and take them for all. Therefore the socket is ours:
 * QEMU gets it while nobody can reach it, and it is opened to the world when
 * everything is there. A unix socket has another name until then and is
 * renamed, a TCP socket has a filter that drops every packet, so that clients
 * who come early try again instead of being refused.
 */

#include <config.h>

#include <linux/filter.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "block/export.h"
#include "block/qmp.h"
#include "qemu/qemu_alias.h"
#include "qemu/qemu_block.h"
#include "qemu/qemu_command.h"
#include "qemu/qemu_monitor.h"
#include "qemu/qemu_security.h"
#include "virerror.h"
#include "virfile.h"
#include "virlog.h"
#include "virsocketaddr.h"
#include "virstring.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.export");

#define FERRY_EXPORT_FDNAME "ferry-nbd"


/**
 * ferryExportPrivatePath:
 *
 * Returns the name that a unix socket has until it is published: in the same
 * folder, so that it can be renamed.
 */
char *
ferryExportPrivatePath(const char *path)
{
    g_autofree char *dir = g_path_get_dirname(path);
    g_autofree char *name = g_path_get_basename(path);

    return g_strdup_printf("%s/.%s.ferry", dir, name);
}


/**
 * ferryExportAddressCheck:
 *
 * Finds what would keep a server from listening on @address, while nothing is
 * changed yet.
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
                       _("socket path '%s' is too long; at most %zu bytes are possible"),
                       address->socket,
                       sizeof(sa.sun_path) - 1 - (strlen(private) - strlen(address->socket)));
        return -1;
    }

    if (lstat(address->socket, &st) < 0)
        return 0;

    if (!S_ISSOCK(st.st_mode) || ferryExportSocketAlive(address->socket)) {
        virReportError(VIR_ERR_INVALID_ARG,
                       _("socket '%s' for domain '%s' is in use; name another one"),
                       address->socket, vm->def->name);
        return -1;
    }

    return 0;
}


/* The folder's owner may let others in; the socket is QEMU's user's alone. */
static int
ferryExportListenUnix(virDomainObj *vm,
                      const char *path)
{
    g_autoptr(virQEMUDriverConfig) cfg = virQEMUDriverGetConfig(QEMU_DOMAIN_PRIVATE(vm)->driver);
    struct sockaddr_un sa = { .sun_family = AF_UNIX };
    int fd;

    if (virStrcpyStatic(sa.sun_path, path) < 0) {
        virReportError(VIR_ERR_INVALID_ARG, _("socket path '%s' is too long"), path);
        return -1;
    }

    /* a leftover of a host that crashed */
    ignore_value(unlink(path));

    if ((fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) < 0) {
        virReportSystemError(errno, "%s", _("cannot create a socket"));
        return -1;
    }

    /* nobody can connect before QEMU listens */
    if (bind(fd, (struct sockaddr *) &sa, sizeof(sa)) < 0 ||
        chmod(path, 0600) < 0 ||
        (geteuid() == 0 && lchown(path, cfg->user, cfg->group) < 0)) {
        virReportSystemError(errno, _("cannot create socket '%s' for domain '%s'"),
                             path, vm->def->name);
        ignore_value(unlink(path));
        VIR_FORCE_CLOSE(fd);
        return -1;
    }

    return fd;
}


static int
ferryExportDropPackets(int fd)
{
    struct sock_filter drop = BPF_STMT(BPF_RET | BPF_K, 0);
    struct sock_fprog program = { .len = 1, .filter = &drop };

    return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program));
}


/* Binds to the first address of the name that works, IPv4 before IPv6: one
 * socket is all that QEMU takes. A port that was left open is filled in. */
static int
ferryExportListenTCP(virDomainObj *vm,
                     virStorageNetHostDef *address)
{
    g_autofree char *port = g_strdup_printf("%u", address->port);
    const struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE };
    const int families[] = { AF_INET, AF_INET6 };
    struct addrinfo *found = NULL;
    virSocketAddr bound = { 0 };
    int fd = -1;
    int lasterr = EADDRNOTAVAIL;
    int rc;
    size_t i;

    if ((rc = getaddrinfo(address->name, port, &hints, &found)) != 0) {
        virReportError(VIR_ERR_INVALID_ARG, _("cannot resolve NBD server address '%s': %s"),
                       address->name, gai_strerror(rc));
        return -1;
    }

    for (i = 0; i < G_N_ELEMENTS(families) && fd < 0; i++) {
        struct addrinfo *ai;

        for (ai = found; ai && fd < 0; ai = ai->ai_next) {
            int on = 1;

            if (ai->ai_family != families[i] ||
                (fd = socket(ai->ai_family, ai->ai_socktype | SOCK_CLOEXEC, ai->ai_protocol)) < 0)
                continue;

            /* QEMU 7.2 answers in small pieces: without TCP_NODELAY a client waits 90
             * ms for them each time it connects */
            if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0 ||
                bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 ||
                ferryExportDropPackets(fd) < 0) {
                lasterr = errno;
                VIR_FORCE_CLOSE(fd);
            }
        }
    }

    freeaddrinfo(found);

    if (fd < 0) {
        virReportSystemError(lasterr, _("cannot listen on %s port %u for domain '%s'"),
                             address->name, address->port, vm->def->name);
        return -1;
    }

    bound.len = sizeof(bound.data);
    if (getsockname(fd, &bound.data.sa, &bound.len) < 0) {
        virReportSystemError(errno, "%s", _("cannot tell the port of a socket"));
        VIR_FORCE_CLOSE(fd);
        return -1;
    }
    address->port = virSocketAddrGetPort(&bound);

    return fd;
}


/**
 * ferryExportServerStart:
 * @address: where to listen; a TCP port of 0 is replaced by the one taken
 * @tlsAlias: TLS credentials in QEMU, or NULL
 * @server: filled in; for ferryExportServerPublish() or ferryExportServerForget()
 *
 * Starts the server on a socket that nobody can reach. Domain locked, job
 * held. Returns 0, or -1 with an error reported and nothing started.
 */
int
ferryExportServerStart(virDomainObj *vm,
                       virStorageNetHostDef *address,
                       const char *tlsAlias,
                       ferryExportServer *server)
{
    virQEMUDriver *driver = QEMU_DOMAIN_PRIVATE(vm)->driver;
    g_autoptr(virJSONValue) data = NULL;
    g_autoptr(virJSONValue) addr = NULL;
    g_autoptr(virJSONValue) args = NULL;
    int rc;

    if (qemuSecuritySetSocketLabel(driver->securityManager, vm->def) < 0)
        return -1;

    if (address->transport == VIR_STORAGE_NET_HOST_TRANS_UNIX) {
        server->private = ferryExportPrivatePath(address->socket);
        server->fd = ferryExportListenUnix(vm, server->private);
    } else {
        server->fd = ferryExportListenTCP(vm, address);
    }

    ignore_value(qemuSecurityClearSocketLabel(driver->securityManager, vm->def));

    if (server->fd < 0)
        return -1;

    qemuDomainObjEnterMonitor(vm);
    rc = qemuMonitorSendFileHandle(qemuDomainGetMonitor(vm), FERRY_EXPORT_FDNAME, server->fd);
    qemuDomainObjExitMonitor(vm);

    if (rc < 0 ||
        virJSONValueObjectAdd(&data, "s:str", FERRY_EXPORT_FDNAME, NULL) < 0 ||
        virJSONValueObjectAdd(&addr, "s:type", "fd", "a:data", &data, NULL) < 0 ||
        virJSONValueObjectAdd(&args, "a:addr", &addr, "S:tls-creds", tlsAlias, NULL) < 0 ||
        ferryQMP(vm, "nbd-server-start", &args, NULL) < 0) {
        virErrorPtr err = NULL;

        virErrorPreserveLast(&err);
        if (rc == 0) {
            qemuDomainObjEnterMonitor(vm);
            ignore_value(qemuMonitorCloseFileHandle(qemuDomainGetMonitor(vm),
                                                    FERRY_EXPORT_FDNAME));
            qemuDomainObjExitMonitor(vm);
        }
        ferryExportServerForget(server);
        virErrorRestore(&err);
        return -1;
    }

    return 0;
}


/**
 * ferryExportServerPublish:
 *
 * All exports are there: lets clients in.
 */
int
ferryExportServerPublish(virStorageNetHostDef *address,
                         ferryExportServer *server)
{
    int unused = 0;

    if (server->private) {
        if (rename(server->private, address->socket) < 0) {
            virReportSystemError(errno, _("cannot rename socket '%s' to '%s'"),
                                 server->private, address->socket);
            return -1;
        }
    } else if (setsockopt(server->fd, SOL_SOCKET, SO_DETACH_FILTER,
                          &unused, sizeof(unused)) < 0) {
        virReportSystemError(errno, _("cannot open port %u"), address->port);
        return -1;
    }

    g_clear_pointer(&server->private, g_free);
    VIR_FORCE_CLOSE(server->fd);
    return 0;
}


/**
 * ferryExportServerForget:
 *
 * Closes our end of a server's socket; QEMU has its own.
 */
void
ferryExportServerForget(ferryExportServer *server)
{
    if (server->private)
        ignore_value(unlink(server->private));
    g_clear_pointer(&server->private, g_free);
    VIR_FORCE_CLOSE(server->fd);
}


/**
 * ferryExportServerStop:
 *
 * Ends the server, and with it all exports and connections. QEMU is told again
 * when it did not, which it also says when there is no server.
 *
 * Returns 0, or -1 with an error reported when exports are left.
 */
int
ferryExportServerStop(virDomainObj *vm)
{
    g_autoptr(virJSONValue) exports = NULL;
    int rc;

    qemuDomainObjEnterMonitor(vm);
    if ((rc = qemuMonitorNBDServerStop(qemuDomainGetMonitor(vm))) < 0)
        rc = qemuMonitorNBDServerStop(qemuDomainGetMonitor(vm));
    qemuDomainObjExitMonitor(vm);

    if (rc < 0 &&
        (ferryQMP(vm, "query-block-exports", NULL, &exports) < 0 ||
         !virJSONValueIsArray(exports) || virJSONValueArraySize(exports) > 0))
        return -1;

    virResetLastError();
    return 0;
}


/**
 * ferryExportSocketRemove:
 *
 * Removes the files that a server on @address leaves, which has ended.
 */
void
ferryExportSocketRemove(virStorageNetHostDef *address)
{
    g_autofree char *private = NULL;

    if (address->transport != VIR_STORAGE_NET_HOST_TRANS_UNIX)
        return;

    private = ferryExportPrivatePath(address->socket);
    ignore_value(unlink(private));

    /* somebody else's by now? */
    if (!ferryExportSocketAlive(address->socket))
        ignore_value(unlink(address->socket));
}


/**
 * ferryExportAdd:
 * @bitmap: bitmap of @src to show, or NULL
 *
 * Exports @src, read-only unless @writable.
 */
int
ferryExportAdd(virDomainObj *vm,
               virStorageSource *src,
               const char *name,
               bool writable,
               const char *bitmap)
{
    g_autoptr(virJSONValue) args = NULL;
    g_autoptr(virJSONValue) bitmaps = NULL;

    if (bitmap) {
        bitmaps = virJSONValueNewArray();

        if (virJSONValueArrayAppendString(bitmaps, bitmap) < 0)
            return -1;
    }

    /* short: a backup has many of these */
    if (virJSONValueObjectAdd(&args,
                              "s:type", "nbd",
                              "s:id", src->nodeformat,
                              "s:node-name", src->nodeformat,
                              "s:name", name,
                              "B:writable", writable,
                              "A:bitmaps", &bitmaps,
                              NULL) < 0)
        return -1;

    return ferryQMP(vm, "block-export-add", &args, NULL);
}


/**
 * ferryExportTLSAdd:
 * @base: stem of the aliases
 * @alias: set to the alias of the credentials
 *
 * Adds the server's TLS credentials, as qemu.conf has them for backups: clients
 * need a certificate if it says so.
 */
int
ferryExportTLSAdd(virDomainObj *vm,
                  const char *base,
                  char **alias,
                  char **secretAlias)
{
    qemuDomainObjPrivate *priv = vm->privateData;
    g_autoptr(virQEMUDriverConfig) cfg = virQEMUDriverGetConfig(priv->driver);
    g_autofree char *objAlias = qemuAliasTLSObjFromSrcAlias(base);
    g_autoptr(qemuDomainSecretInfo) secinfo = NULL;
    g_autoptr(virJSONValue) props = NULL;
    g_autoptr(virJSONValue) secretProps = NULL;
    int rc = 0;

    if (!cfg->backupTLSx509certdir) {
        virReportError(VIR_ERR_OPERATION_INVALID, "%s",
                       _("backup TLS directory not configured"));
        return -1;
    }

    if (cfg->backupTLSx509secretUUID &&
        (!(secinfo = qemuDomainSecretInfoTLSNew(priv, objAlias, cfg->backupTLSx509secretUUID)) ||
         qemuBuildSecretInfoProps(secinfo, &secretProps) < 0))
        return -1;

    if (qemuBuildTLSx509BackendProps(cfg->backupTLSx509certdir, true, cfg->backupTLSx509verify,
                                     objAlias, secinfo ? secinfo->alias : NULL, &props) < 0)
        return -1;

    qemuDomainObjEnterMonitor(vm);
    if (secretProps)
        rc = qemuMonitorAddObject(priv->mon, &secretProps, secretAlias);
    if (rc == 0)
        rc = qemuMonitorAddObject(priv->mon, &props, alias);
    qemuDomainObjExitMonitor(vm);

    return rc;
}


/**
 * ferryExportTLSRemove:
 *
 * Takes back ferryExportTLSAdd(). Reports no error.
 */
void
ferryExportTLSRemove(virDomainObj *vm,
                     const char *base)
{
    g_autofree char *alias = qemuAliasTLSObjFromSrcAlias(base);
    g_autofree char *secretAlias = qemuAliasForSecret(alias, NULL);

    qemuDomainObjEnterMonitor(vm);
    ignore_value(qemuMonitorDelObject(qemuDomainGetMonitor(vm), alias, false));
    ignore_value(qemuMonitorDelObject(qemuDomainGetMonitor(vm), secretAlias, false));
    qemuDomainObjExitMonitor(vm);
    virResetLastError();
}
