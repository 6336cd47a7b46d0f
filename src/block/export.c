/*
 * export.c: QEMU's NBD server
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include <sys/socket.h>

#include "block/export.h"
#include "block/nodename.h"
#include "block/qmp.h"
#include "block/socket.h"
#include "qemu/qemu_alias.h"
#include "qemu/qemu_command.h"
#include "qemu/qemu_monitor.h"
#include "qemu/qemu_security.h"
#include "virerror.h"
#include "virfile.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

#define FERRY_EXPORT_FDNAME "ferry-nbd"

/* A version of QEMU as a number, like that of virQEMUCapsGetVersion(). */
#define FERRY_EXPORT_VERSION(major, minor, micro) (1000000 * (major) + 1000 * (minor) + (micro))

/* The first QEMU that ends all NBD connections in its main thread. No QMP schema shows that. */
#define FERRY_EXPORT_THREADS_SINCE FERRY_EXPORT_VERSION(8, 2, 3)


/* Returns the iothread that owns the nodes of @disk, or 0: the main thread does. A virtio
 * disk's nodes move to the iothread when the guest's driver starts the device, those of a
 * SCSI disk when QEMU starts. */
static unsigned int
ferryExportThread(virDomainDef *def,
                  virDomainDiskDef *disk,
                  ferryExportWhen when)
{
    const virDomainControllerDef *controller;

    if (disk->bus == VIR_DOMAIN_DISK_BUS_SCSI) {
        controller = virDomainDeviceFindSCSIController(def, &disk->info.addr.drive);
        return controller ? controller->iothread : 0;
    }

    return when == FERRY_EXPORT_INCOMING ? 0 : disk->iothread;
}


/* Sets @version to that of QEMU, as a number. A QEMU that runs is asked: after a restart the
 * driver knows only its capabilities, and the program may be another one by now. */
static int
ferryExportVersion(virDomainObj *vm,
                   unsigned int *version)
{
    qemuDomainObjPrivate *priv = vm->privateData;
    int major = 0;
    int minor = 0;
    int micro = 0;
    int rc;

    if (!priv->mon) {
        *version = virQEMUCapsGetVersion(priv->qemuCaps);
        return 0;
    }

    qemuDomainObjEnterMonitor(vm);
    rc = qemuMonitorGetVersion(priv->mon, &major, &minor, &micro, /* package= */ NULL);
    qemuDomainObjExitMonitor(vm);

    *version = FERRY_EXPORT_VERSION(major, minor, micro);
    return rc;
}


/**
 * ferryExportMayServe:
 * @when: when clients leave the export
 *
 * A QEMU before 8.2.3 ends the connection of a client that leaves in the thread that owns
 * the export's node. Where that is an iothread QEMU aborts, and the guest is gone with it
 * (nbd_blockdev_client_closed(): the server belongs to the main thread).
 *
 * Tried instead with QEMU 7.2: an export that keeps its node in the main thread
 * ("fixed-iothread"), added while the guest's CPUs are stopped. The device then works
 * without its iothread, but QEMU aborts when the guest resets such a device, as it does
 * when it boots. A second node, connected to an export of the first, would need an export
 * that clients can find in the list of exports and must not use.
 *
 * Domain locked, job held. Returns 0, or -1 with an error reported if QEMU cannot export
 * @disk safely, or cannot be asked.
 */
int
ferryExportMayServe(virDomainObj *vm,
                    virDomainDiskDef *disk,
                    ferryExportWhen when)
{
    unsigned int thread = ferryExportThread(vm->def, disk, when);
    unsigned int version;

    if (thread == 0)
        return 0;

    if (ferryExportVersion(vm, &version) < 0)
        return -1;

    if (version >= FERRY_EXPORT_THREADS_SINCE)
        return 0;

    if (when == FERRY_EXPORT_INCOMING) {
        virReportError(VIR_ERR_OPERATION_UNSUPPORTED,
                       _("disk '%1$s' of domain '%2$s' cannot be migrated to this host: its SCSI "
                         "controller uses iothread %3$u, and the QEMU here, which is older than "
                         "8.2.3, would crash; migrate to a host with a newer QEMU, or with a "
                         "definition (virsh migrate --xml) where the controller has "
                         "<driver ioeventfd='on'/> in place of the iothread"),
                       disk->dst, vm->def->name, thread);
        return -1;
    }

    virReportError(VIR_ERR_OPERATION_UNSUPPORTED,
                   _("disk '%1$s' of domain '%2$s' uses iothread %3$u: QEMU older than 8.2.3 would "
                     "crash, and the guest with it, when a client of a pull backup disconnects; "
                     "make a push backup, or start the domain without the iothread"),
                   disk->dst, vm->def->name, thread);
    return -1;
}


/**
 * ferryExportServerStart:
 * @address: where to listen; a TCP port of 0 is replaced by the port chosen
 * @tlsAlias: alias of the TLS credentials in QEMU, or NULL
 * @server: has the hosts of a TCP address; filled in for ferryExportServerPublish() or ferryExportServerForget()
 *
 * Starts the server on a socket that no client can reach yet. Domain locked, job held.
 * Returns 0, or -1 with an error reported and nothing started.
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
        g_clear_pointer(&server->file, ferryFileFree);
        server->fd = ferryExportListenUnix(vm, server->private, &server->file);
    } else {
        server->fd = ferryExportListenTCP(vm, address, server->hosts);
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
        ferryQMP(vm, "nbd-server-start", &args, /* reply= */ NULL) < 0) {
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
 * Lets clients connect; all exports exist. Returns 0, or -1 with an error reported.
 */
int
ferryExportServerPublish(virDomainObj *vm,
                         virStorageNetHostDef *address,
                         ferryExportServer *server)
{
    int unused = 0;

    if (server->private) {
        if (ferryExportSocketPublish(vm, server->private, address->socket, server->file) < 0)
            return -1;
    } else if (setsockopt(server->fd, SOL_SOCKET, SO_DETACH_FILTER,
                          &unused, sizeof(unused)) < 0) {
        virReportSystemError(errno, _("cannot let clients in on port %1$u"), address->port);
        return -1;
    }

    g_clear_pointer(&server->private, g_free);
    VIR_FORCE_CLOSE(server->fd);
    return 0;
}


/**
 * ferryExportServerForget:
 *
 * Closes the driver's copy of the socket, not QEMU's. Removes an unpublished socket file.
 */
void
ferryExportServerForget(ferryExportServer *server)
{
    if (server->private && server->file)
        ignore_value(ferryFileRemove(server->file, server->private, /* uid= */ -1, /* gid= */ -1));
    g_clear_pointer(&server->private, g_free);
    g_clear_pointer(&server->hosts, g_strfreev);
    VIR_FORCE_CLOSE(server->fd);
}


/**
 * ferryExportServerStop:
 *
 * Ends the server, its exports and its connections. Repeats nbd-server-stop once if it
 * fails, as it also does when no server runs; then query-block-exports decides.
 * Returns 0, or -1 with an error reported when exports are or may be left.
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
        (ferryQMP(vm, "query-block-exports", /* args= */ NULL, &exports) < 0 ||
         !virJSONValueIsArray(exports) || virJSONValueArraySize(exports) > 0))
        return -1;

    virResetLastError();
    return 0;
}


/**
 * ferryExportAdd:
 * @bitmap: bitmap of @src that clients can query, or NULL
 *
 * Exports @src, read-only unless @writable. Returns 0, or -1 with an error reported.
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

    /* Leave defaults out: a backup adds many exports, and QEMU reads commands slowly. */
    if (virJSONValueObjectAdd(&args,
                              "s:type", "nbd",
                              "s:id", ferryNodeName(src),
                              "s:node-name", ferryNodeName(src),
                              "s:name", name,
                              "B:writable", writable,
                              "A:bitmaps", &bitmaps,
                              NULL) < 0)
        return -1;

    return ferryQMP(vm, "block-export-add", &args, /* reply= */ NULL);
}


/**
 * ferryExportTLSAdd:
 * @base: stem of the aliases
 * @alias: set to the alias of the credentials
 * @secretAlias: set to the alias of the secret for their key, if there is one
 *
 * Adds the TLS credentials that qemu.conf has for backups (backup_tls_*). Clients need a
 * certificate if backup_tls_x509_verify is set. On failure the secret may be left.
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

    if (qemuBuildTLSx509BackendProps(cfg->backupTLSx509certdir, /* isListen= */ true,
                                     cfg->backupTLSx509verify, objAlias,
                                     secinfo ? secinfo->alias : NULL, &props) < 0)
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
 * Undoes ferryExportTLSAdd(). Reports no error.
 */
void
ferryExportTLSRemove(virDomainObj *vm,
                     const char *base)
{
    g_autofree char *alias = qemuAliasTLSObjFromSrcAlias(base);
    g_autofree char *secretAlias = g_strdup_printf("%s-secret0", alias);

    qemuDomainObjEnterMonitor(vm);
    ignore_value(qemuMonitorDelObject(qemuDomainGetMonitor(vm), alias, /* report_error= */ false));
    ignore_value(qemuMonitorDelObject(qemuDomainGetMonitor(vm), secretAlias,
                                      /* report_error= */ false));
    qemuDomainObjExitMonitor(vm);
    virResetLastError();
}
