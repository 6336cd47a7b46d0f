/*
 * engine.h: events, workers and recovery for the operations of all domains
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

int ferryEngineStart(virQEMUDriver *driver, const ferryOpClass *const *classes);
int ferryEnginePrepareStop(void);
void ferryEngineStop(void);
void ferryEngineReconnected(virDomainObj *vm);
void ferryEngineStopped(qemuDomainObjPrivate *priv);
void ferryEngineKeep(virDomainObj *vm, ferryOp *op);
bool ferryEngineJobEvent(virDomainObj *vm, const char *jobname, int status);
int ferryEngineSubmit(ferryOp *op);
void ferryEngineSubmitAgain(ferryOp *op, const unsigned char *uuid);

void ferryOpEnd(ferryOp *op);
void ferryOpDrive(ferryOp *op);
void ferryOpRelease(ferryOp *op);
