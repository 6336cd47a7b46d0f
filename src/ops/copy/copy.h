/*
 * copy.h: block copy: the operation, and how it begins
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"
#include "ops/copy/request.h"

extern const ferryOpClass ferryCopyClass;

int ferryCopyAwaitPivots(virDomainObj *vm);

int ferryCopyAskAhead(virDomainObj *vm, ferryCopyRequest *req, GPtrArray **aliases);
ferryOp *ferryCopyAdd(virDomainObj *vm, ferryCopy *copy);
int ferryCopyStart(virDomainObj *vm, const ferryCopyRequest *req);
