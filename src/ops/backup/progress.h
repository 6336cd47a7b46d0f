/*
 * progress.h: backup: the progress of its jobs
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "ops/backup/data.h"

/* How many jobs of a backup have ended, and how. */
typedef struct _ferryBackupJobs ferryBackupJobs;
struct _ferryBackupJobs {
    size_t ended;  /* concluded, or unknown to QEMU */
    size_t failed; /* of these: concluded with an error, or unknown to QEMU */
};

GPtrArray *ferryBackupQuery(ferryOp *op, ferryBackupJobs *state);
int ferryBackupProgress(ferryOp *op);
void ferryBackupFillStats(ferryOp *op, virDomainJobData *data);
int ferryBackupStats(ferryOp *op, virDomainJobData *data);
