/*
 * export_peer.h: checks for the peer of an NBD connection
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "qemu/qemu_domain.h"

/* What is known about an NBD server, which may be on another host. */
typedef enum {
    FERRY_EXPORT_ALIVE,  /* it accepts connections */
    FERRY_EXPORT_SILENT, /* no answer yet: the host or the network may be down */
    FERRY_EXPORT_GONE,   /* its host can be reached, but nobody listens */
} ferryExportState;

ferryExportState ferryExportServerProbe(const virStorageNetHostDef *address, int *probe);
bool ferryExportServerHasClients(virStorageNetHostDef *address);
