/*
 * bitmaps.h: the bitmaps of a checkpoint
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"
#include "checkpoint_conf.h"

int ferryCheckpointCheckImages(virDomainObj *vm,
                               virDomainCheckpointDef *def,
                               GHashTable *nodes,
                               const char *const *whole);
int ferryCheckpointAddBitmaps(virDomainObj *vm,
                              virDomainCheckpointDef *def,
                              GHashTable *nodes,
                              const char *const *whole,
                              virJSONValue *actions);
void ferryCheckpointDropBitmaps(virDomainObj *vm, virDomainCheckpointDef *def);
int ferryCheckpointDropOffline(ferryOp *op,
                               virDomainCheckpointDef *def,
                               GPtrArray *names,
                               bool chain);
