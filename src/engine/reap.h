/*
 * reap.h: QEMU jobs that belong to no operation
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "qemu/qemu_domain.h"

void ferryReapJobs(virDomainObj *vm);
