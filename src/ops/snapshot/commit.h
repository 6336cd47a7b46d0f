/*
 * commit.h: mirrored snapshots: commit an overlay to the image below
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "ops/snapshot/data.h"

virStorageSource *ferrySnapshotBase(ferryOp *op, ferrySnapshotDisk *sdisk);
void ferrySnapshotLeaveBase(ferryOp *op, ferrySnapshotDisk *sdisk);
int ferrySnapshotCommit(ferryOp *op, ferrySnapshotDisk *sdisk, const char *node);
void ferrySnapshotEndPauses(ferryOp *op);
