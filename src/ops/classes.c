/*
 * classes.c: the table of all operation classes
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "ops/backup/backup.h"
#include "ops/checkpoint/checkpoint.h"
#include "ops/classes.h"
#include "ops/copy/copy.h"
#include "ops/migration/destination.h"
#include "ops/migration/source.h"
#include "ops/quiesce.h"
#include "ops/snapshot/snapshot.h"

/* Ends with NULL. The tests walk the plans of these classes (tests/plans.py). */
const ferryOpClass *const ferryClasses[] = {
    &ferryCopyClass,
    &ferryBackupClass,
    &ferryCheckpointClass,
    &ferrySnapshotClass,
    &ferryThawClass,
    &ferryMigrationClass,
    &ferryIncomingClass,
    NULL,
};
