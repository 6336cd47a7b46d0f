/*
 * active.c: disks that QEMU has not taken over yet
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A guest that was restored or migrated and is still paused gets its disks when it runs, with QEMU 10.0
 * and newer: until then their nodes are inactive, since the source might still want them back. Jobs
 * cannot be started on inactive nodes. When libvirt lets an operation begin, the migration is over, and
 * the disks are this guest's.
 */

#include <config.h>

#include "block/active.h"
#include "block/feature.h"
#include "block/qmp.h"

/* What QEMU calls a guest whose disks are another QEMU's, or may be. */
static const char *const foreign[] = { "inmigrate", "finish-migrate", "colo", NULL };

/* The same after a migration, and also where the memory has only been written to a file. */
#define FERRY_ACTIVE_SENT "postmigrate"


/* Returns whether QEMU, which calls the guest's state @status, must leave the disks alone. */
static bool
ferryActiveIsForeign(const char *status,
                     int reason)
{
    return !status || g_strv_contains(foreign, status) ||
           reason == VIR_DOMAIN_PAUSED_POSTCOPY || reason == VIR_DOMAIN_PAUSED_POSTCOPY_FAILED ||
           (reason == VIR_DOMAIN_PAUSED_MIGRATION && STREQ(status, FERRY_ACTIVE_SENT));
}


/**
 * ferryActiveTake:
 * @vm: domain, locked, job held; it runs
 *
 * Makes the disks of a paused guest usable for jobs. Returns 0, also if they are already, or if QEMU knows no
 * inactive nodes; or -1 with an error reported.
 */
int
ferryActiveTake(virDomainObj *vm)
{
    g_autoptr(virJSONValue) status = NULL;
    g_autoptr(virJSONValue) args = NULL;
    int reason;

    if (virDomainObjGetState(vm, &reason) != VIR_DOMAIN_PAUSED ||
        !ferryFeatureHas(vm, FERRY_FEATURE_SET_ACTIVE))
        return 0;

    if (ferryQMP(vm, "query-status", /* args= */ NULL, &status) < 0)
        return -1;

    if (ferryActiveIsForeign(virJSONValueObjectGetString(status, "status"), reason))
        return 0;

    if (virJSONValueObjectAdd(&args, "b:active", true, NULL) < 0)
        return -1;

    return ferryQMP(vm, "blockdev-set-active", &args, /* reply= */ NULL);
}
