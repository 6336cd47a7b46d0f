/*
 * socket.h: the listening sockets of NBD servers
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "qemu/qemu_domain.h"

char *ferryExportPrivatePath(const char *path);
bool ferryExportSocketAlive(const char *path);
int ferryExportAddressCheck(virDomainObj *vm, virStorageNetHostDef *address);
int ferryExportListenUnix(virDomainObj *vm, const char *path);
int ferryExportListenTCP(virDomainObj *vm, virStorageNetHostDef *address, char **hosts);
void ferryExportSocketRemove(virStorageNetHostDef *address);
