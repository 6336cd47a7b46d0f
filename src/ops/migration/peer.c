/*
 * peer.c: storage migration: peer to peer
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The source's driver opens a connection to the destination's driver and calls libvirt's
 * virDomainMigrate3(), which runs all phases as it does for any client of both drivers.
 *
 * Why `peer` is thread-local: in the same thread virDomainMigrate3() calls our API entry
 * ferryDomainMigrateConfirm3Params(). Its signature has the domain but no connection, and
 * the domain's operation has ended by then. So only the thread can take the connection to
 * ferryMigrationPeerConfirm(). ferryMigrationPeer() sets `peer` just before it calls
 * virDomainMigrate3() and clears it afterwards, also on failure. Otherwise it is NULL.
 */

#include <config.h>

#include "engine/engine.h"
#include "ops/config.h"
#include "ops/migration/outgoing.h"
#include "ops/migration/peer.h"
#include "qemu/qemu_migration.h"
#include "virerror.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.migration");

/* Connection to the destination's driver while this thread runs the phases; else NULL. */
static __thread virConnectPtr peer;

/* What the connection may need to log in. There is no callback, because a daemon has
 * nobody to ask: libvirt takes these credentials from the daemon's auth.conf, and refuses
 * to connect when a credential is not there. */
static int credentials[] = { VIR_CRED_AUTHNAME, VIR_CRED_PASSPHRASE };

static virConnectAuth auth = {
    .credtype = credentials,
    .ncredtype = G_N_ELEMENTS(credentials),
};


/* Tells the operation that the connection is closed. Domain locked; does not wait. */
static void
ferryMigrationPeerLost(virDomainObj *vm)
{
    ferryOp *op = ferryMigrationFind(vm);

    if (!op)
        return;

    ferryMigrationOf(op)->lost = true;
    g_atomic_int_inc(&op->events);

    if (op->driven)
        virDomainObjBroadcast(vm);
    else
        ignore_value(ferryEngineSubmit(op));
}


static void
ferryMigrationPeerClosed(virConnectPtr dconn G_GNUC_UNUSED,
                         int reason G_GNUC_UNUSED,
                         void *opaque)
{
    virDomainObj *vm = opaque;

    virObjectLock(vm);
    ferryMigrationPeerLost(vm);
    virObjectUnlock(vm);
}


/* Gives a silent driver at least migrate_reconnect seconds, as an NBD server has. */
static int
ferryMigrationPeerWatch(virDomainObj *vm,
                        virConnectPtr dconn)
{
    virQEMUDriver *driver = QEMU_DOMAIN_PRIVATE(vm)->driver;
    g_autoptr(virQEMUDriverConfig) cfg = virQEMUDriverGetConfig(driver);
    unsigned int count = cfg->keepAliveCount;

    if (cfg->keepAliveInterval > 0)
        count = MAX(count, ferryConfigGet()->migrateReconnect / cfg->keepAliveInterval + 1);

    if (virConnectSetKeepAlive(dconn, cfg->keepAliveInterval, count) < 0)
        return -1;

    virObjectRef(vm);
    if (virConnectRegisterCloseCallback(dconn, ferryMigrationPeerClosed, vm, virObjectUnref) < 0) {
        virObjectUnref(vm);
        return -1;
    }

    return 0;
}


/* Reports why there is no connection. The code stays libvirt's, as clients expect. */
static void
ferryMigrationPeerReport(virDomainPtr dom,
                         const char *uri)
{
    int code = virGetLastErrorCode();

    if (code == VIR_ERR_AUTH_FAILED)
        virReportError(code,
                       _("the destination '%1$s' of domain '%2$s' does not let this host in: %3$s; put a "
                         "name and a password for it into this host's auth.conf"),
                       uri, dom->name, virGetLastErrorMessage());
    else
        virReportError(code, _("Failed to connect to remote libvirt URI %1$s: %2$s"),
                       uri, virGetLastErrorMessage());
}


/**
 * ferryMigrationPeer:
 * @vm: domain of @dom, referenced, not locked
 * @uri: URI of the destination's driver
 * @flags: without VIR_MIGRATE_PEER2PEER
 *
 * Returns 0 when the guest runs at the destination, or -1 with an error reported.
 */
int
ferryMigrationPeer(virDomainPtr dom,
                   virDomainObj *vm,
                   const char *uri,
                   virTypedParameterPtr params,
                   int nparams,
                   unsigned int flags)
{
    g_autoptr(virConnect) dconn = virConnectOpenAuth(uri, &auth, /* flags= */ 0);
    virDomainPtr ddom;
    virErrorPtr err = NULL;

    if (!dconn) {
        ferryMigrationPeerReport(dom, uri);
        return -1;
    }

    if (ferryMigrationPeerWatch(vm, dconn) < 0)
        return -1;

    peer = dconn;
    if ((ddom = virDomainMigrate3(dom, dconn, params, nparams, flags)))
        virDomainFree(ddom);
    peer = NULL;

    virErrorPreserveLast(&err);
    ignore_value(virConnectUnregisterCloseCallback(dconn, ferryMigrationPeerClosed));
    virErrorRestore(&err);

    return ddom ? 0 : -1;
}


/**
 * ferryMigrationPeerConfirm:
 * @vm: domain, locked; virDomainMigrate3() is about to tell the stock driver that the
 *      guest does not run at the destination
 *
 * If the connection broke after the perform phase, virDomainMigrate3() cannot know that.
 * The guest then stays paused, as after a restart of the source's driver in this phase:
 * two running guests would write to two copies of the disks that cannot be merged.
 */
void
ferryMigrationPeerConfirm(virDomainObj *vm)
{
    qemuDomainObjPrivate *priv = vm->privateData;

    if (!peer || virConnectIsAlive(peer) > 0 ||
        vm->job->asyncJob != VIR_ASYNC_JOB_MIGRATION_OUT ||
        vm->job->phase != QEMU_MIGRATION_PHASE_PERFORM3_DONE ||
        priv->preMigrationState != VIR_DOMAIN_RUNNING)
        return;

    VIR_ERROR(_("domain '%1$s' may run at the destination, which does not answer: it stays paused "
                "here; look there, and then run 'virsh resume %2$s' or 'virsh destroy %3$s'"),
              vm->def->name, vm->def->name, vm->def->name);
    priv->preMigrationState = VIR_DOMAIN_PAUSED;
}
