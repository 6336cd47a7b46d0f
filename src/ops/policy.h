/*
 * policy.h: what a domain's metadata says of its operations
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "ops/quiesce.h"

bool ferryPolicyExists(virDomainObj *vm);
int ferryPolicyQuiesce(virDomainObj *vm, ferryQuiesce *quiesce);
