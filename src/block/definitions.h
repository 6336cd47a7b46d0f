/*
 * definitions.h: which files the domains' definitions name
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "qemu/qemu_domain.h"

void ferryDefinitionsAddDomain(GPtrArray *paths, virDomainObj *vm);
GPtrArray *ferryDefinitionsPaths(virQEMUDriver *driver, virDomainObj *locked);
bool ferryDefinitionsName(virQEMUDriver *driver, const char *path, virDomainObj *locked);
