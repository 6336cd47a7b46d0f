/*
 * export_peer.h: who is at the other end of an NBD connection
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "qemu/qemu_domain.h"

/* What is known of a server on another host. */
typedef enum {
    FERRY_EXPORT_ALIVE,
    FERRY_EXPORT_SILENT, /* not known: host or network may be away */
    FERRY_EXPORT_GONE,   /* the host is there, and nobody listens */
} ferryExportState;

ferryExportState ferryExportServerProbe(const virStorageNetHostDef *address, int *probe);
bool ferryExportServerHasClients(virStorageNetHostDef *address);
