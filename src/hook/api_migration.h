/*
 * api_migration.h: our entries of the QEMU driver's API table: migration
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "driver.h"

void ferryApiInstallMigration(virHypervisorDriver *table);
