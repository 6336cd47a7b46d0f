/*
 * host.h: addresses of network storage
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "domain_conf.h"

int ferryHostParse(xmlNodePtr node, virStorageNetHostDef *host);
void ferryHostClear(virStorageNetHostDef *host);
