/*
 * recover.h: backup: after the driver or QEMU went away
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

void ferryBackupRevive(const ferryOpClass *klass, virDomainObj *vm);
void ferryBackupRecover(ferryOp *op);
void ferryBackupReconnected(virDomainObj *vm);
void ferryBackupStopped(ferryOp *op);
