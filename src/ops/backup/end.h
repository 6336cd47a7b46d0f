/*
 * end.h: backup: ending it and telling clients
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "ops/backup/data.h"

void ferryBackupTellDisks(ferryOp *op);
void ferryBackupTellJob(ferryOp *op);
void ferryBackupEnd(ferryOp *op, ferryBackupResult result);
