/*
 * data.h: what is created or deleted: checkpoints
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"
#include "ops/quiesce.h"
#include "checkpoint_conf.h"

/* What is created or deleted. All but the last group goes into the journal. */
typedef struct _ferryCheckpoint ferryCheckpoint;
struct _ferryCheckpoint {
    GPtrArray *names;     /* of checkpoints: the one to create, those to delete */
    bool metadataOnly;    /* leave bitmaps alone */
    ferryQuiesce quiesce;

    virDomainCheckpointDef *def; /* to create */
    bool started;         /* its bitmaps are there */
    GHashTable *writable; /* images that were opened for writing; NULL: not known */
};

ferryCheckpoint *ferryCheckpointNew(void);
void ferryCheckpointFree(void *opaque);
FERRY_OP_DATA(ferryCheckpoint, ferryCheckpointOf, ferryCheckpointFree);
