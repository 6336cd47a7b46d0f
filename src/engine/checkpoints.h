/*
 * checkpoints.h: which operations are working on a domain's checkpoints
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

bool ferryCheckpointsAreFree(virDomainObj *vm, const ferryOpClass *except);
int ferryCheckpointsCheckFree(virDomainObj *vm, const ferryOpClass *except);
