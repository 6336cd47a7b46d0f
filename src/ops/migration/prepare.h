/*
 * prepare.h: storage migration: what the prepare phase calls
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "ops/migration/request.h"
#include "qemu/qemu_migration_params.h"

int ferryIncomingAskAhead(virTypedParameterPtr params, int nparams);
void ferryIncomingPrepareBegin(const ferryMigrationRequest *req);
int ferryIncomingCreateVolumes(virDomainObj *vm);
int ferryIncomingCreateImages(virDomainObj *vm);
int ferryIncomingAcceptBitmaps(virDomainObj *vm, qemuMigrationParams *params);
int ferryIncomingServe(virDomainObj *vm);
int ferryIncomingPrepareEnd(int rc, char **cookie, int *len);
