/*
 * data.h: the data of an operation on checkpoints
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"
#include "ops/quiesce.h"
#include "checkpoint_conf.h"

/* The checkpoints to create or delete. The journal has the first group of fields. */
typedef struct _ferryCheckpoint ferryCheckpoint;
struct _ferryCheckpoint {
    GPtrArray *names;  /* of the checkpoint to create, or of those to delete */
    bool metadataOnly; /* delete definitions, leave bitmaps alone */
    ferryQuiesce quiesce;

    virDomainCheckpointDef *def; /* of the checkpoint to create; NULL after a restart */
    bool started;                /* the checkpoint's bitmaps were added, or may have been */
    GHashTable *writable;        /* images opened for writing, referenced; NULL: not known */
};

ferryCheckpoint *ferryCheckpointNew(void);
void ferryCheckpointFree(void *opaque);
FERRY_OP_DATA(ferryCheckpoint, ferryCheckpointOf, ferryCheckpointFree);
