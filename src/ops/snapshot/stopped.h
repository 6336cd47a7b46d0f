/*
 * stopped.h: mirrored snapshots: QEMU has ended before one was complete
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

void ferrySnapshotStopped(ferryOp *op);
