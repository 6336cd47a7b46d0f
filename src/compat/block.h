/*
 * block.h: block nodes, as the newest libvirt has them
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "qemu/qemu_block.h"

#ifndef FERRY_HAVE_NODENAME_ACCESSORS
const char *qemuBlockStorageSourceGetStorageNodename(virStorageSource *src);
const char *qemuBlockStorageSourceGetFormatNodename(virStorageSource *src);
const char *qemuBlockStorageSourceGetEffectiveNodename(virStorageSource *src);
void qemuBlockStorageSourceSetStorageNodename(virStorageSource *src, char *name);
void qemuBlockStorageSourceSetFormatNodename(virStorageSource *src, char *name);
#endif
