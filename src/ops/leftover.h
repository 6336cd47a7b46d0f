/*
 * leftover.h: files of an operation whose QEMU is gone
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "block/image.h"
#include "engine/op.h"

void ferryLeftoverRemove(ferryOp *op,
                         virDomainObj *vm,
                         virStorageSource *image,
                         ferryImageOrigin origin,
                         ferryFile *file);
