/*
 * recover.h: backup: recovery after the driver or QEMU has ended
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

void ferryBackupRevive(const ferryOpClass *klass, virDomainObj *vm);
void ferryBackupRecall(ferryOp *op);
void ferryBackupRecover(ferryOp *op);
void ferryBackupReconnected(virDomainObj *vm);
void ferryBackupStopped(ferryOp *op);
