/*
 * nodename.h: the names of an image's nodes in QEMU
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "domain_conf.h"

const char *ferryNodeName(virStorageSource *src);
const char *ferryNodeStorage(virStorageSource *src);
bool ferryNodeHasFormat(virStorageSource *src);
void ferryNodeSetNames(virStorageSource *src, char *storage, char *format);
bool ferryNodeHasFilter(virDomainDiskDef *disk);
