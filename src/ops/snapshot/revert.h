/*
 * revert.h: mirrored snapshots: take a snapshot back
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "ops/snapshot/data.h"

int ferrySnapshotRevertDisk(ferryOp *op, ferrySnapshotDisk *sdisk);
int ferrySnapshotRevertConfig(ferryOp *op,
                              ferrySnapshotDisk *sdisk,
                              virDomainDef *def,
                              virStorageSource *base);
int ferrySnapshotForget(ferryOp *op);
