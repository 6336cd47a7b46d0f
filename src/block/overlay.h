/*
 * overlay.h: whether an overlay has content of its own
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "qemu/qemu_domain.h"

int ferryOverlayLookAt(const char *path, uid_t uid, gid_t gid);
int ferryOverlayHasContent(virDomainObj *vm, virStorageSource *src, const char *disk);
