/*
 * api_snapshot.h: our entries of the QEMU driver's API table: snapshots
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "driver.h"
#include "qemu/qemu_domain.h"

int ferryApiSnapshotBegun(virDomainObj *vm);
void ferryApiInstallSnapshot(virHypervisorDriver *table);
