/*
 * use.h: which domains' definitions name a file
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "block/file.h"
#include "qemu/qemu_domain.h"

typedef struct _ferryUse ferryUse;

ferryUse *ferryUseNew(virQEMUDriver *driver, const char *except);
void ferryUseFree(ferryUse *use);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ferryUse, ferryUseFree);
virQEMUDriver *ferryUseDriver(ferryUse *use);
void ferryUseRenew(ferryUse *use);
char *ferryUseFindVolume(ferryUse *use,
                         const char *pool,
                         const char *volume,
                         const char *path,
                         const ferryFile *file);
char *ferryUseFind(ferryUse *use, const char *path, const ferryFile *file);
