/*
 * nodehold.h: makes QEMU keep a file open
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "qemu/qemu_domain.h"

int ferryNodeHold(virDomainObj *vm, virStorageSource *src);
virTristateBool ferryNodeIsHeld(virDomainObj *vm, virStorageSource *src);
void ferryNodeRelease(virDomainObj *vm, virStorageSource *src);
