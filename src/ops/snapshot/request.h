/*
 * request.h: mirrored snapshots: the XML and its checks
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "ops/snapshot/data.h"

int ferrySnapshotRequest(virDomainObj *vm,
                         const char *xml,
                         unsigned int flags,
                         ferrySnapshot **snapshot,
                         char **stockXML);
