/*
 * files.h: backup: the files of its images, and that of its checkpoint
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

int ferryBackupFiles(ferryOp *op);
int ferryBackupAskStores(ferryOp *op);
int ferryBackupAskSocket(ferryOp *op);
bool ferryBackupStoresAnswer(ferryOp *op);
bool ferryBackupSocketAnswers(ferryOp *op);
GPtrArray *ferryBackupVolumes(ferryOp *op);
void ferryBackupUnfiles(ferryOp *op);
