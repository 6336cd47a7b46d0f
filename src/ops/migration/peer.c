/*
 * peer.c: storage migration: peer to peer
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The source's driver is the client of the destination's, and takes the phases in
 * turn as any client of both would.
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

/* The destination's driver, in the thread that plays the client. */
static __thread virConnectPtr peer;


/* The connection to the other driver is closed. Does not wait. */
static void
ferryMigrationPeerLost(virDomainObj *vm)
{
    ferryOp *op = ferryMigrationFind(vm);

    if (!op)
        return;

    ferryMigrationOf(op)->lost = true;
    op->events++;

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


/* A destination that does not answer is given as much time as its disks are. */
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


/**
 * ferryMigrationPeer:
 * @vm: domain of @dom, referenced, not locked
 * @uri: of the destination's driver
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
    g_autoptr(virConnect) dconn = virConnectOpen(uri);
    virDomainPtr ddom;
    virErrorPtr err = NULL;

    if (!dconn) {
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("Failed to connect to remote libvirt URI %1$s: %2$s"),
                       uri, virGetLastErrorMessage());
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
 * @vm: domain, locked; the stock driver is about to be told that its guest does not
 *      run at the destination
 *
 * Whoever tells it does not know, if the connection broke after the memory had
 * arrived: then the guest stays paused, as after the end of a daemon at this moment.
 * Two guests on two copies of a disk could never be one again.
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
