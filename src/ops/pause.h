/*
 * pause.h: guests that must not run while one of their disks moves to another image
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

bool ferryPauseHoldIsUnsafe(virDomainDef *def, virDomainDiskDef *disk, int format);
bool ferryPauseIsNeeded(virDomainObj *vm, virDomainDiskDef *disk, int format);
int ferryPauseBegin(ferryOp *op);
void ferryPauseEnd(ferryOp *op, const char *dst);
void ferryPauseForget(virDomainObj *vm);
