/*
 * opvolume.h: volumes of storage pools that an operation creates
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "block/volume.h"
#include "block/volume_delete.h"
#include "engine/op.h"

int ferryOpVolumeCreate(ferryOp *op,
                        virStorageSource *image,
                        virDomainDiskDef *disk,
                        ferryVolume **volume);
int ferryOpVolumeDiscard(ferryOp *op, GPtrArray *volumes);
int ferryOpVolumeDelete(ferryOp *op, GPtrArray *volumes, ferryVolumeRemoval **removal);
