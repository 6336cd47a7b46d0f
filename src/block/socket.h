/*
 * socket.h: the listening sockets of NBD servers
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "block/file.h"
#include "qemu/qemu_domain.h"

char *ferryExportPrivatePath(const char *path);
bool ferryExportSocketAlive(const char *path);
int ferryExportAddressCheck(virDomainObj *vm, virStorageNetHostDef *address);
int ferryExportListenUnix(virDomainObj *vm, const char *path, ferryFile **file);
int ferryExportSocketPublish(virDomainObj *vm,
                             const char *private,
                             const char *path,
                             const ferryFile *file);
int ferryExportListenTCP(virDomainObj *vm, virStorageNetHostDef *address, char **hosts);
void ferryExportSocketRemove(virStorageNetHostDef *address, const ferryFile *file);
