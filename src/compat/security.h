/*
 * security.h: libvirt's security drivers
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "compat/have.h"
#include "security/security_manager.h"

/* Newer ones are told which folders other hosts see, too: as the second parameter of what labels images. */
#ifdef FERRY_HAVE_SHARED_FILESYSTEMS
#define FERRY_SHARED_PARAMETER char *const *shared,
#define FERRY_SHARED_ARGUMENT shared,
#define FERRY_SHARED_OF(cfg) (cfg)->sharedFilesystems,
#else
#define FERRY_SHARED_PARAMETER
#define FERRY_SHARED_ARGUMENT
#define FERRY_SHARED_OF(cfg)
#endif
