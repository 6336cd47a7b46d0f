/*
 * progress.h: how far the jobs of a backup are
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "ops/backup/data.h"

/* How many jobs of a backup have come to which end. */
typedef struct _ferryBackupJobs ferryBackupJobs;
struct _ferryBackupJobs {
    size_t ended;  /* concluded, or unknown to QEMU */
    size_t failed; /* of these: not concluded without an error */
};

GPtrArray *ferryBackupQuery(ferryOp *op, ferryBackupJobs *state);
int ferryBackupProgress(ferryOp *op);
void ferryBackupFillStats(ferryOp *op, virDomainJobData *data);
int ferryBackupStats(ferryOp *op, virDomainJobData *data);
