/*
 * api_blockjob.h: our entries of the QEMU driver's API table: block copy, and block jobs
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "driver.h"

bool ferryApiIsDelegating(void);
void ferryApiInstallBlockJob(virHypervisorDriver *table);
