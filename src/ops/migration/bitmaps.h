/*
 * bitmaps.h: storage migration: checkpoints and their bitmaps
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "qemu/qemu_domain.h"
#include "qemu/qemu_migration_params.h"

void ferryMigrationCheckpointsOffer(virDomainObj *vm, xmlNodePtr root);
char **ferryMigrationCheckpointsRead(xmlXPathContextPtr ctxt);
char *ferryMigrationCheckpointStrip(const char *xml);
int ferryMigrationBitmapsAccept(virDomainObj *vm,
                                const char *cookie,
                                qemuMigrationParams *params,
                                char **answer);
