/*
 * guest.h: backup: a guest that a full scratch image has stopped
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

bool ferryBackupGuestStopped(virDomainObj *vm);
void ferryBackupResumeGuest(ferryOp *op);
