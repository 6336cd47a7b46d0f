/*
 * checkpoint.h: checkpoints without a backup: the operation, and its start
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

extern const ferryOpClass ferryCheckpointClass;

int ferryCheckpointCreate(virDomainObj *vm, const char *xml, bool quiesce, char **name);
int ferryCheckpointDelete(virDomainObj *vm, const char *name, unsigned int flags);
