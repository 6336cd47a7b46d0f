/*
 * active.h: disks that QEMU has not taken over yet
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "domain_conf.h"

int ferryActiveTake(virDomainObj *vm);
