/*
 * api_migration_args.h: migration entries that have arguments in place of typed parameters
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "driver.h"

void ferryApiInstallMigrationArgs(virHypervisorDriver *table);
