/*
 * view.h: backup: what the clients of a pull backup read
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "ops/backup/data.h"

void ferryBackupAskForViews(ferryOp *op);
char *ferryBackupFilterName(ferryOp *op, const ferryBackupDisk *disk);
char *ferryBackupViewName(ferryOp *op, const ferryBackupDisk *disk);
bool ferryBackupHasNoViews(ferryOp *op);
int ferryBackupAddViews(ferryOp *op);
void ferryBackupRemoveViews(ferryOp *op);
