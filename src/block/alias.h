/*
 * alias.h: names that lead to the same file
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "qemu/qemu_domain.h"

GPtrArray *ferryAliasAsk(virDomainObj *vm, const char *const *paths);
bool ferryAliasIsOpen(GPtrArray *aliases, const char *path, virDomainObj *vm);
bool ferryAliasIsKnown(GPtrArray *aliases, const char *path);
bool ferryAliasIsSame(GPtrArray *aliases, const char *a, const char *b);
