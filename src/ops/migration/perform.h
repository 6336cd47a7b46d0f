/*
 * perform.h: storage migration: what the perform phase calls
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "ops/migration/request.h"
#include "qemu/qemu_migration_params.h"

void ferryMigrationPerformBegin(const ferryMigrationRequest *req);
int ferryMigrationCopyStorage(virDomainObj *vm, qemuMigrationParams *params);
int ferryMigrationSwitchOver(virDomainObj *vm);
int ferryMigrationMayStop(virDomainObj *vm);
bool ferryMigrationAbort(virDomainObj *vm);
int ferryMigrationLasts(virDomainObj *vm);
int ferryMigrationMaySwitchOver(void);
void ferryMigrationGiveUp(virDomainObj *vm);
int ferryMigrationPerformEnd(int rc);
int ferryMigrationStats(virDomainObj *vm, virDomainJobData *data);
int ferryMigrationSetSpeed(virDomainObj *vm, unsigned long long bandwidth);
