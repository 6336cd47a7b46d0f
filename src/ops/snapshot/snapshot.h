/*
 * snapshot.h: mirrored snapshots: the operation, and how it begins
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "ops/snapshot/data.h"

extern const ferryOpClass ferrySnapshotClass;

int ferrySnapshotCreate(virDomainObj *vm,
                        ferrySnapshot *snapshot,
                        ferrySnapshotTaker take,
                        void *opaque);
int ferrySnapshotMayDelete(virDomainObj *vm, const char *name, bool others);
