/*
 * watch.h: backup: events that end a running backup
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

void ferryBackupWatch(ferryOp *op);
void ferryBackupIOError(virDomainObj *vm);
bool ferryBackupJobMatters(ferryOp *op, int status);
void ferryBackupJobChanged(ferryOp *op);
bool ferryBackupMayHang(ferryOp *op);
