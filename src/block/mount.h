/*
 * mount.h: which file system a name is on
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

char *ferryMountOf(const char *path);
