/*
 * control.h: backup: client calls on a running backup
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"
#include "ops/blockjob.h"

extern const ferryBlockJobHandler ferryBackupBlockJob;

bool ferryBackupMeet(virDomainObj *vm);
bool ferryBackupTakeMet(void);
int ferryBackupAbort(ferryOp *op, bool async);
char *ferryBackupGetXML(ferryOp *op);
bool ferryBackupNeedsCheckpoints(ferryOp *op);
void ferryBackupForgetCheckpoint(ferryOp *op, const char *name);
