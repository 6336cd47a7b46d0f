/*
 * opfile.h: files that an operation makes
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "block/image.h"
#include "engine/op.h"

int ferryOpFileMake(ferryOp *op, virStorageSource *image, ferryFile *file);
void ferryOpFileKeep(ferryOp *op, virStorageSource *image);
void ferryOpFileAdd(GPtrArray *paths, virStorageSource *image);
int ferryOpFilePathsAnswer(ferryOp *op, GPtrArray *paths);
int ferryOpFileAnswers(ferryOp *op, virStorageSource *image);
ferryUse *ferryOpFileUse(ferryOp *op);
void ferryOpFileList(GPtrArray *paths, virStorageSource *image, ferryImageOrigin origin);
int ferryOpFileAwait(ferryOp *op, GPtrArray *paths);
bool ferryOpFileRemove(ferryOp *op,
                       ferryUse *use,
                       virDomainObj *vm,
                       virStorageSource *image,
                       ferryImageOrigin origin,
                       ferryFile *file);
