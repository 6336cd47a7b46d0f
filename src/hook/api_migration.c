/*
 * api_migration.c: our entries of the QEMU driver's API table: migration
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * For a migration with storage the entries call the stock driver's phases without the
 * flags that ask for storage. Ferry moves the storage itself, within these calls (see
 * seams.c) and around them. The stock entries ask the access driver.
 */

#include <config.h>

#include "datatypes.h"
#include "engine/wait.h"
#include "hook/api_migration.h"
#include "hook/api_migration_args.h"
#include "ops/migration/bitmaps.h"
#include "ops/migration/cookie.h"
#include "ops/migration/destination.h"
#include "ops/migration/images.h"
#include "ops/migration/incoming.h"
#include "ops/migration/outgoing.h"
#include "ops/migration/peer.h"
#include "ops/migration/perform.h"
#include "ops/migration/prepare.h"
#include "ops/migration/source.h"
#include "qemu/qemu_migration.h"
#include "viraccessapicheck.h"
#include "virerror.h"
#include "virlog.h"
#include "virtypedparam.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.api");

/* @flags without those that ask for storage, for calls of the stock driver. */
#define FERRY_STOCK_FLAGS(flags) \
    ((flags) & ~(FERRY_MIGRATION_STORAGE | VIR_MIGRATE_NON_SHARED_SYNCHRONOUS_WRITES))

static virHypervisorDriver stock;


static char *
ferryDomainMigrateBegin3Params(virDomainPtr dom,
                               virTypedParameterPtr params,
                               int nparams,
                               char **cookieout,
                               int *cookieoutlen,
                               unsigned int flags)
{
    char *xml;
    virDomainObj *vm;

    if (ferryMigrationIsOurs(flags) && ferryMigrationRequestCheck(params, nparams) < 0)
        return NULL;

    xml = stock.domainMigrateBegin3Params(dom, params, nparams, cookieout, cookieoutlen, flags);

    if (!xml || !ferryMigrationIsOurs(flags) || !(vm = qemuDomainObjFromDomain(dom)))
        return xml;

    /* drop errors: without our offer the destination creates images with its defaults */
    if (virDomainObjBeginJob(vm, ferryMigrationClass.job) < 0) {
        virResetLastError();
    } else {
        if (virDomainObjIsActive(vm) &&
            ferryMigrationCookieOffer(vm, cookieout, cookieoutlen) < 0)
            virResetLastError();
        ferryDomainEndJob(vm);
    }

    virDomainObjEndAPI(&vm);
    return xml;
}


static int
ferryDomainMigratePrepare3Params(virConnectPtr dconn,
                                 virTypedParameterPtr params,
                                 int nparams,
                                 const char *cookiein,
                                 int cookieinlen,
                                 char **cookieout,
                                 int *cookieoutlen,
                                 char **uri_out,
                                 unsigned int flags)
{
    g_auto(ferryMigrationRequest) req = { 0 };
    g_autofree char *cookie = NULL;
    int rc;

    if (ferryMigrationIsOurs(flags) && cookieinlen > 0 &&
        (ferryMigrationRequestCheck(params, nparams) < 0 ||
         ferryMigrationRequestParse(&req, params, nparams, flags) < 0 ||
         ferryMigrationRequestListen(&req, params, nparams) < 0 ||
         ferryMigrationCookieRead(cookiein, cookieinlen, &req) < 0))
        return -1;

    if (!req.disks)
        return stock.domainMigratePrepare3Params(dconn, params, nparams, cookiein, cookieinlen,
                                                 cookieout, cookieoutlen, uri_out, flags);

    if (!(cookie = ferryMigrationCookieWithout(cookiein, cookieinlen)))
        return -1;

    if (ferryIncomingAskAhead(params, nparams) < 0)
        return -1;

    ferryIncomingPrepareBegin(&req);
    rc = stock.domainMigratePrepare3Params(dconn, params, nparams, cookie, strlen(cookie) + 1,
                                           cookieout, cookieoutlen, uri_out,
                                           FERRY_STOCK_FLAGS(flags));
    return ferryIncomingPrepareEnd(rc, cookieout, cookieoutlen);
}


/* A peer-to-peer migration: this driver plays the client's part of the protocol. */
static int
ferryApiMigratePeer(virDomainPtr dom,
                    const char *dconnuri,
                    virTypedParameterPtr params,
                    int nparams,
                    unsigned int flags)
{
    virDomainObj *vm = qemuDomainObjFromDomain(dom);
    int rc;

    if (!vm)
        return -1;

    rc = virDomainMigratePerform3ParamsEnsureACL(dom->conn, vm->def);
    virObjectUnlock(vm);

    if (rc == 0)
        rc = ferryMigrationPeer(dom, vm, dconnuri, params, nparams,
                                flags & ~VIR_MIGRATE_PEER2PEER);

    virObjectUnref(vm);
    return rc;
}


/* Returns 1 if @req selects a disk to migrate, 0 if not, -1 with an error reported. */
static int
ferryApiWantsStorage(virDomainPtr dom,
                     const ferryMigrationRequest *req)
{
    virDomainObj *vm = qemuDomainObjFromDomain(dom);
    int wanted;

    if (!vm)
        return -1;

    wanted = ferryMigrationWantsAny(req, vm->def);
    virDomainObjEndAPI(&vm);

    return wanted;
}


static int
ferryDomainMigratePerform3Params(virDomainPtr dom,
                                 const char *dconnuri,
                                 virTypedParameterPtr params,
                                 int nparams,
                                 const char *cookiein,
                                 int cookieinlen,
                                 char **cookieout,
                                 int *cookieoutlen,
                                 unsigned int flags)
{
    g_auto(ferryMigrationRequest) req = { 0 };
    int wanted = 0;
    int rc;

    if (ferryMigrationIsOurs(flags)) {
        if (ferryMigrationRequestCheck(params, nparams) < 0)
            return -1;

        if (flags & VIR_MIGRATE_PEER2PEER)
            return ferryApiMigratePeer(dom, dconnuri, params, nparams, flags);

        if (ferryMigrationRequestParse(&req, params, nparams, flags) < 0 ||
            ferryMigrationRequestTo(&req, params, nparams) < 0 ||
            (wanted = ferryApiWantsStorage(dom, &req)) < 0)
            return -1;
    }

    if (!wanted)
        return stock.domainMigratePerform3Params(dom, dconnuri, params, nparams,
                                                 cookiein, cookieinlen,
                                                 cookieout, cookieoutlen, flags);

    if (ferryMigrationCookieRead(cookiein, cookieinlen, &req) < 0)
        return -1;

    if (!req.disks) {
        virReportError(VIR_ERR_OPERATION_UNSUPPORTED,
                       _("the destination of domain '%1$s' does not take disks over NBD"), dom->name);
        return -1;
    }

    ferryMigrationPerformBegin(&req);
    rc = stock.domainMigratePerform3Params(dom, dconnuri, params, nparams, cookiein, cookieinlen,
                                           cookieout, cookieoutlen, FERRY_STOCK_FLAGS(flags));
    rc = ferryMigrationPerformEnd(rc);

    /* a stock destination stops its NBD server only if the cookie has an <nbd> element */
    if (rc == 0 &&
        ferryMigrationCookieAnswer(cookieout, cookieoutlen, /* port= */ 0, /* extra= */ NULL) < 0)
        virResetLastError();

    return rc;
}


/* Returns the storage migration to domain @name, referenced, or NULL. If *cancelled is 0
 * the guest is to run here: ends the exports, and sets *cancelled to 1 if that fails. */
static ferryOp *
ferryApiCloseIncoming(virConnectPtr dconn,
                      const char *name,
                      int *cancelled)
{
    virQEMUDriver *driver = dconn->privateData;
    virDomainObj *vm = virDomainObjListFindByName(driver->domains, name);
    ferryOp *op;

    if (!vm)
        return NULL;

    if ((op = ferryIncomingFind(vm)))
        ferryOpRef(op);

    if (op && *cancelled == 0 && virDomainMigrateFinish3ParamsEnsureACL(dconn, vm->def) == 0) {
        *cancelled = 1;
        if (virDomainObjBeginJob(vm, ferryIncomingClass.job) == 0) {
            if (!op->over && ferryIncomingClose(op) == 0)
                *cancelled = 0;
            ferryDomainEndJob(vm);
        }
    }

    virDomainObjEndAPI(&vm);
    return op;
}


static virDomainCheckpointPtr
ferryApiDefineCheckpoint(virDomainPtr dom,
                         const char *xml)
{
    virDomainCheckpointPtr checkpoint =
        stock.domainCheckpointCreateXML(dom, xml, VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE);
    g_autofree char *stripped = NULL;

    /* with these a domain's definition is refused that is not understood */
    if (checkpoint ||
        (virGetLastErrorCode() != VIR_ERR_XML_INVALID_SCHEMA && virGetLastErrorCode() != VIR_ERR_XML_ERROR &&
         virGetLastErrorCode() != VIR_ERR_CONFIG_UNSUPPORTED) ||
        !(stripped = ferryMigrationCheckpointStrip(xml)))
        return checkpoint;

    return stock.domainCheckpointCreateXML(dom, stripped, VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE);
}


/* Only warns on errors: the guest has arrived, so the migration must not fail now. */
static void
ferryApiDefineCheckpoints(virDomainPtr dom,
                          char **documents)
{
    for (; documents && *documents; documents++) {
        virDomainCheckpointPtr checkpoint = ferryApiDefineCheckpoint(dom, *documents);

        if (checkpoint)
            virDomainCheckpointFree(checkpoint);
        else
            VIR_WARN("a checkpoint of domain '%s' could not be defined at the destination: %s",
                     dom->name, virGetLastErrorMessage());
    }

    virResetLastError();
}


static void
ferryApiArrived(virDomainPtr dom,
                ferryOp *incoming)
{
    virDomainObj *vm = qemuDomainObjFromDomain(dom);

    if (vm)
        ferryIncomingArrived(incoming, vm);
    virDomainObjEndAPI(&vm);

    ferryApiDefineCheckpoints(dom, ferryIncomingOf(incoming)->checkpoints);
}


/* A resumed post-copy is complete: the guest has run here, and now has all its memory. */
static virDomainPtr
ferryApiResumed(virDomainPtr dom)
{
    virDomainObj *vm = dom ? qemuDomainObjFromDomain(dom) : NULL;
    ferryOp *found = vm ? ferryIncomingFind(vm) : NULL;
    g_autoptr(ferryOp) op = found ? ferryOpRef(found) : NULL;

    virDomainObjEndAPI(&vm);
    if (op)
        ferryApiArrived(dom, op);

    return dom;
}


static virDomainPtr
ferryDomainMigrateFinish3Params(virConnectPtr dconn,
                                virTypedParameterPtr params,
                                int nparams,
                                const char *cookiein,
                                int cookieinlen,
                                char **cookieout,
                                int *cookieoutlen,
                                unsigned int flags,
                                int cancelled)
{
    g_autoptr(ferryOp) op = NULL;
    g_autofree char *cookie = NULL;
    int cookielen = cookieinlen;
    const char *name = NULL;
    virErrorPtr err = NULL;
    virDomainPtr dom;
    int failed = cancelled;

    if (flags & VIR_MIGRATE_POSTCOPY_RESUME)
        return ferryApiResumed(stock.domainMigrateFinish3Params(dconn, params, nparams,
                                                                cookiein, cookieinlen,
                                                                cookieout, cookieoutlen,
                                                                flags, cancelled));

    if (!ferryMigrationIsOurs(flags) ||
        virTypedParamsGetString(params, nparams, VIR_MIGRATE_PARAM_DEST_NAME, &name) < 0 ||
        !name || !(op = ferryApiCloseIncoming(dconn, name, &failed)))
        return stock.domainMigrateFinish3Params(dconn, params, nparams, cookiein, cookieinlen,
                                                cookieout, cookieoutlen, flags, cancelled);

    /* report our error, not the one of the stock phase, which is told to cancel */
    if (failed && !cancelled)
        virErrorPreserveLast(&err);

    if (cookieinlen > 0) {
        if ((cookie = ferryMigrationCookieWithout(cookiein, cookieinlen)))
            cookielen = strlen(cookie) + 1;
        else
            virResetLastError();
    }

    dom = stock.domainMigrateFinish3Params(dconn, params, nparams,
                                           cookie ? cookie : cookiein, cookielen,
                                           cookieout, cookieoutlen,
                                           FERRY_STOCK_FLAGS(flags), failed);

    if (err)
        virErrorRestore(&err);

    if (dom) {
        ferryApiArrived(dom, op);
    } else if (op->over && !ferryIncomingOf(op)->arrived && (failed || !(flags & VIR_MIGRATE_POSTCOPY))) {
        /* Not after a switch to post-copy: only these images have the latest writes. Nor when another
         * client's call has just let the guest run here. */
        ferryIncomingDiscard(op, /* vm= */ NULL);
    }

    return dom;
}


/* Sets the speed of the disks that Ferry migrates from @vm; @bandwidth: MiB/s. The stock
 * driver has set that of the memory already, so an error must say what is so. */
static int
ferryApiSetDisksSpeed(virDomainObj *vm,
                      unsigned long bandwidth)
{
    g_autofree char *why = NULL;
    int rc = -1;

    /* Only a storage migration lets in this job. A domain that is being saved, or whose
     * memory goes into a snapshot, would make the call wait until it fails. */
    if (!ferryMigrationFind(vm))
        return 0;

    if (virDomainObjBeginJob(vm, ferryMigrationClass.job) == 0) {
        rc = virDomainObjIsActive(vm) ?
                 ferryMigrationSetSpeed(vm, (unsigned long long) bandwidth << 20) :
                 0;
        ferryDomainEndJob(vm);
    }

    if (rc == 0)
        return 0;

    why = g_strdup(virGetLastErrorMessage());
    virReportError(virGetLastErrorCode(),
                   _("the speed at which the memory of domain '%1$s' is migrated is set, but that of its disks "
                     "is not (%2$s); try again"),
                   vm->def->name, why);
    return -1;
}


static int
ferryDomainMigrateSetMaxSpeed(virDomainPtr dom,
                              unsigned long bandwidth,
                              unsigned int flags)
{
    virDomainObj *vm;
    int rc = stock.domainMigrateSetMaxSpeed(dom, bandwidth, flags);

    if (rc < 0 || flags & VIR_DOMAIN_MIGRATE_MAX_SPEED_POSTCOPY ||
        !(vm = qemuDomainObjFromDomain(dom)))
        return rc;

    rc = ferryApiSetDisksSpeed(vm, bandwidth);

    virDomainObjEndAPI(&vm);
    return rc;
}


static int
ferryDomainMigrateConfirm3Params(virDomainPtr dom,
                                 virTypedParameterPtr params,
                                 int nparams,
                                 const char *cookiein,
                                 int cookieinlen,
                                 unsigned int flags,
                                 int cancelled)
{
    virDomainObj *vm = cancelled ? qemuDomainObjFromDomain(dom) : NULL;

    if (vm && virDomainMigrateConfirm3ParamsEnsureACL(dom->conn, vm->def) == 0)
        ferryMigrationPeerConfirm(vm);
    virDomainObjEndAPI(&vm);

    return stock.domainMigrateConfirm3Params(dom, params, nparams, cookiein, cookieinlen,
                                             flags, cancelled);
}


/**
 * ferryApiInstallMigration:
 *
 * Does what ferryApiInstall() does, for the migration entries of @table.
 */
void
ferryApiInstallMigration(virHypervisorDriver *table)
{
    stock = *table;

    table->domainMigrateBegin3Params = ferryDomainMigrateBegin3Params;     /* 1.1.0 */
    table->domainMigratePrepare3Params = ferryDomainMigratePrepare3Params; /* 1.1.0 */
    table->domainMigratePerform3Params = ferryDomainMigratePerform3Params; /* 1.1.0 */
    table->domainMigrateFinish3Params = ferryDomainMigrateFinish3Params;   /* 1.1.0 */
    table->domainMigrateConfirm3Params = ferryDomainMigrateConfirm3Params; /* 1.1.0 */
    table->domainMigrateSetMaxSpeed = ferryDomainMigrateSetMaxSpeed;       /* 0.9.0 */

    ferryApiInstallMigrationArgs(table);
}
