/*
 * snapshot.h: definitions of snapshots
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "snapshot_conf.h"

int ferrySnapshotAlign(virDomainSnapshotDef *def, virDomainSnapshotLocation location);
