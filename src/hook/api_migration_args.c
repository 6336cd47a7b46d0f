/*
 * api_migration_args.c: migration entries that have arguments in place of typed parameters
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * virDomainMigrate() and virDomainMigrate2() call these entries, and so do clients and
 * hosts with a libvirt before 1.1.0. The arguments become typed parameters, and the entry
 * that takes these (api_migration.c) does the work.
 *
 * The oldest protocol, version 2, has no cookies: the hosts cannot agree where the disks
 * go. So it moves no storage, except peer to peer, where the source's driver then speaks
 * version 3 with the destination.
 */

#include <config.h>

#include "datatypes.h"
#include "hook/api_migration_args.h"
#include "ops/migration/request.h"
#include "qemu/qemu_migration.h"
#include "virerror.h"
#include "virtypedparam.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

/* The table's entries before this file's took their place. */
static virHypervisorDriver before;

typedef struct {
    virTypedParameterPtr list;
    int n;
    int max;
} ferryParams;


static void
ferryParamsClear(ferryParams *params)
{
    virTypedParamsFree(params->list, params->n);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(ferryParams, ferryParamsClear);


/* Fills in @params, which must be zeroed. NULL and 0 stand for what a client did not set.
 * Returns 0, or -1 with an error reported. */
static int
ferryParamsFill(ferryParams *params,
                const char *uri,
                const char *dname,
                const char *xml,
                unsigned long bandwidth)
{
    const struct {
        const char *name;
        const char *value;
    } strings[] = {
        { VIR_MIGRATE_PARAM_URI, uri },
        { VIR_MIGRATE_PARAM_DEST_NAME, dname },
        { VIR_MIGRATE_PARAM_DEST_XML, xml },
    };
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(strings); i++) {
        if (strings[i].value &&
            virTypedParamsAddString(&params->list, &params->n, &params->max,
                                    strings[i].name, strings[i].value) < 0)
            return -1;
    }

    if (bandwidth > 0 &&
        virTypedParamsAddULLong(&params->list, &params->n, &params->max,
                                VIR_MIGRATE_PARAM_BANDWIDTH, bandwidth) < 0)
        return -1;

    return 0;
}


static char *
ferryDomainMigrateBegin3(virDomainPtr dom,
                         const char *xmlin,
                         char **cookieout,
                         int *cookieoutlen,
                         unsigned long flags,
                         const char *dname,
                         unsigned long bandwidth)
{
    g_auto(ferryParams) params = { 0 };

    virCheckFlags(QEMU_MIGRATION_FLAGS, NULL);

    if (ferryParamsFill(&params, /* uri= */ NULL, dname, xmlin, bandwidth) < 0)
        return NULL;

    return before.domainMigrateBegin3Params(dom, params.list, params.n,
                                            cookieout, cookieoutlen, flags);
}


static int
ferryDomainMigratePrepare3(virConnectPtr dconn,
                           const char *cookiein,
                           int cookieinlen,
                           char **cookieout,
                           int *cookieoutlen,
                           const char *uri,
                           char **uri_out,
                           unsigned long flags,
                           const char *dname,
                           unsigned long bandwidth,
                           const char *xml)
{
    g_auto(ferryParams) params = { 0 };

    virCheckFlags(QEMU_MIGRATION_FLAGS, -1);

    if (ferryParamsFill(&params, uri, dname, xml, bandwidth) < 0)
        return -1;

    return before.domainMigratePrepare3Params(dconn, params.list, params.n, cookiein, cookieinlen,
                                              cookieout, cookieoutlen, uri_out, flags);
}


static int
ferryDomainMigratePerform3(virDomainPtr dom,
                           const char *xmlin,
                           const char *cookiein,
                           int cookieinlen,
                           char **cookieout,
                           int *cookieoutlen,
                           const char *dconnuri,
                           const char *uri,
                           unsigned long flags,
                           const char *dname,
                           unsigned long bandwidth)
{
    g_auto(ferryParams) params = { 0 };

    virCheckFlags(QEMU_MIGRATION_FLAGS, -1);

    if (ferryParamsFill(&params, uri, dname, xmlin, bandwidth) < 0)
        return -1;

    return before.domainMigratePerform3Params(dom, dconnuri, params.list, params.n,
                                              cookiein, cookieinlen, cookieout, cookieoutlen,
                                              flags);
}


static virDomainPtr
ferryDomainMigrateFinish3(virConnectPtr dconn,
                          const char *dname,
                          const char *cookiein,
                          int cookieinlen,
                          char **cookieout,
                          int *cookieoutlen,
                          const char *dconnuri G_GNUC_UNUSED,
                          const char *uri G_GNUC_UNUSED,
                          unsigned long flags,
                          int cancelled)
{
    g_auto(ferryParams) params = { 0 };

    virCheckFlags(QEMU_MIGRATION_FLAGS, NULL);

    if (ferryParamsFill(&params, /* uri= */ NULL, dname, /* xml= */ NULL, /* bandwidth= */ 0) < 0)
        return NULL;

    return before.domainMigrateFinish3Params(dconn, params.list, params.n, cookiein, cookieinlen,
                                             cookieout, cookieoutlen, flags, cancelled);
}


static int
ferryDomainMigrateConfirm3(virDomainPtr dom,
                           const char *cookiein,
                           int cookieinlen,
                           unsigned long flags,
                           int cancelled)
{
    virCheckFlags(QEMU_MIGRATION_FLAGS, -1);

    return before.domainMigrateConfirm3Params(dom, /* params= */ NULL, /* nparams= */ 0,
                                              cookiein, cookieinlen, flags, cancelled);
}


static int
ferryDomainMigratePerform(virDomainPtr dom,
                          const char *cookie,
                          int cookielen,
                          const char *uri,
                          unsigned long flags,
                          const char *dname,
                          unsigned long bandwidth)
{
    g_auto(ferryParams) params = { 0 };

    virCheckFlags(QEMU_MIGRATION_FLAGS, -1);

    if (!ferryMigrationIsOurs(flags))
        return before.domainMigratePerform(dom, cookie, cookielen, uri, flags, dname, bandwidth);

    if (!(flags & VIR_MIGRATE_PEER2PEER)) {
        virReportError(VIR_ERR_OPERATION_UNSUPPORTED,
                       _("the disks of domain '%1$s' cannot be migrated with version 2 of the protocol: "
                         "use a client of libvirt 0.9.2 or newer"),
                       dom->name);
        return -1;
    }

    if (ferryParamsFill(&params, /* uri= */ NULL, dname, /* xml= */ NULL, bandwidth) < 0)
        return -1;

    return before.domainMigratePerform3Params(dom, uri, params.list, params.n,
                                              /* cookiein= */ NULL, /* cookieinlen= */ 0,
                                              /* cookieout= */ NULL, /* cookieoutlen= */ NULL,
                                              flags);
}


/**
 * ferryApiInstallMigrationArgs:
 *
 * Replaces the entries of @table that have no typed parameters. Called once, when those
 * that have them are in place.
 */
void
ferryApiInstallMigrationArgs(virHypervisorDriver *table)
{
    before = *table;

    table->domainMigratePerform = ferryDomainMigratePerform;   /* 0.5.0 */
    table->domainMigrateBegin3 = ferryDomainMigrateBegin3;     /* 0.9.2 */
    table->domainMigratePrepare3 = ferryDomainMigratePrepare3; /* 0.9.2 */
    table->domainMigratePerform3 = ferryDomainMigratePerform3; /* 0.9.2 */
    table->domainMigrateFinish3 = ferryDomainMigrateFinish3;   /* 0.9.2 */
    table->domainMigrateConfirm3 = ferryDomainMigrateConfirm3; /* 0.9.2 */
}
