/*
 * resolve.h: addresses of host names
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "qemu/qemu_domain.h"

char **ferryResolve(virDomainObj *vm, const char *name);
