/*
 * settle.h: operations that have outlived their QEMU
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

int ferrySettleBeforeStart(virDomainObj *vm);
int ferrySettleCheckImage(virDomainObj *vm, virStorageSource *image);
int ferrySettleCheckCheckpoint(virDomainObj *vm, const char *name);
void ferrySettleBeforeRemoval(virDomainObj *vm, bool listLocked);
