/*
 * lint.h: what clang-tidy cannot see, since it looks at one file at a time
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#if __has_include(<config.h>)
#include <config.h>

#include "conf/storage_source_conf.h"
#endif

/* libvirt has this on declarations without a parameter of that number; for GCC only */
#undef ATTRIBUTE_NONNULL
#define ATTRIBUTE_NONNULL(m)

/* what libvirt's function does first */
#define virStorageSourceIsBacking(src) ((src) && (virStorageSourceIsBacking) (src))
