/*
 * snapshot.c: definitions of snapshots
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "compat/have.h"
#include "compat/snapshot.h"


/**
 * ferrySnapshotAlign:
 *
 * Completes the list of disks of @def, whose domain is known: those that are not named are taken as
 * @location says. Returns 0, or -1 with an error reported.
 */
int
ferrySnapshotAlign(virDomainSnapshotDef *def,
                   virDomainSnapshotLocation location)
{
#ifdef FERRY_HAVE_SNAPSHOT_FORCE_LOCATION
    return virDomainSnapshotAlignDisks(def, /* existingDomainDef= */ NULL, location,
                                       /* uniform_internal_snapshot= */ true,
                                       /* force_default_location= */ false);
#else
    return virDomainSnapshotAlignDisks(def, /* existingDomainDef= */ NULL, location,
                                       /* uniform_internal_snapshot= */ true);
#endif
}
