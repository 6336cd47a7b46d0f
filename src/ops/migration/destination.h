/*
 * destination.h: storage migration: the destination's steps
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

extern const ferryOpClass ferryIncomingClass;
extern const ferryPlan ferryIncomingServePlan;

int ferryIncomingClose(ferryOp *op);
void ferryIncomingReconnected(virDomainObj *vm);
void ferryIncomingStatus(virDomainObj *vm, int status);
void ferryIncomingArrived(ferryOp *op, virDomainObj *vm);
