/*
 * images.h: backup: the steps that create its images and their block nodes
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

int ferryBackupCreate(ferryOp *op);
int ferryBackupFormatImages(ferryOp *op);
void ferryBackupUncreate(ferryOp *op);
int ferryBackupAddStorage(ferryOp *op);
int ferryBackupAddNodes(ferryOp *op);
void ferryBackupRemoveNodes(ferryOp *op);
