/*
 * cache.h: whether QEMU bypasses the page cache for an image
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "qemu/qemu_domain.h"

bool ferryNodeMayBypassCache(virDomainObj *vm, virStorageSource *src);
bool ferryNodeBypassCache(virDomainObj *vm,
                          virDomainDiskDef *disk,
                          virStorageSource *src,
                          bool direct);
void ferryNodeReadDirect(virDomainObj *vm, virDomainDiskDef *disk, virStorageSource *base, bool direct);
void ferryNodeHoldSource(virDomainObj *vm, virDomainDiskDef *disk);
void ferryNodeReleaseSource(virDomainObj *vm, virStorageSource *src);
