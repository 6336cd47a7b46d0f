/*
 * beside.h: what must not begin while an operation has the domain's asynchronous job
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "qemu/qemu_domain.h"

int ferryBesideMayBegin(virDomainObj *vm, virDomainJob job, virDomainAsyncJob asyncJob);
