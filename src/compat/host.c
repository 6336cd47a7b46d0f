/*
 * host.c: addresses of network storage
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "compat/have.h"
#include "compat/host.h"


/**
 * ferryHostParse:
 *
 * Fills in @host, of a server, from its element; a descriptor that a client passes is no address.
 * Returns 0, or -1 with an error reported.
 */
int
ferryHostParse(xmlNodePtr node,
               virStorageNetHostDef *host)
{
#ifdef FERRY_HAVE_HOST_BY_FD
    return virDomainStorageNetworkParseHost(node, host, /* allow_fd= */ false);
#else
    return virDomainStorageNetworkParseHost(node, host);
#endif
}


/**
 * ferryHostClear:
 *
 * Frees what @host has, and not @host. The newest libvirt has a function only for both.
 */
void
ferryHostClear(virStorageNetHostDef *host)
{
    virStorageNetHostDef *copy = g_new0(virStorageNetHostDef, 1);

    *copy = *host;
    virStorageNetHostDefFree(1, copy);
    memset(host, 0, sizeof(*host));
}
