/*
 * volumes.h: storage migration: the destination's volumes that are missing
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "ops/migration/incoming.h"

int ferryIncomingRequire(ferryOp *op);
int ferryIncomingCheckMissing(virDomainObj *vm,
                              const ferryMigrationRequest *req,
                              ferryIncomingDisk *disk);
int ferryIncomingRunVolumes(ferryOp *op);
void ferryIncomingDiscardVolumes(ferryOp *op, virDomainObj *vm);
int ferryIncomingDeleteVolumes(ferryOp *op);
