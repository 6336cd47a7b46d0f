/*
 * access.c: a domain's access to images: locks, labels, cgroups, namespace
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "block/access.h"
#include "block/source.h"


/**
 * ferryAccessGrant:
 *
 * Lets @vm use the images of @chain.
 * Returns 0, or -1 with an error reported and nothing granted.
 */
int
ferryAccessGrant(virDomainObj *vm,
                 virStorageSource *chain)
{
    return qemuDomainStorageSourceChainAccessAllow(QEMU_DOMAIN_PRIVATE(vm)->driver, vm, chain);
}


/**
 * ferryAccessRevoke:
 *
 * Revokes the access of @vm to the images of @chain, except to images that a disk of
 * @vm uses outside @chain: for example the backing file that the old and the new image
 * of a shallow copy share. Reports no error.
 */
void
ferryAccessRevoke(virDomainObj *vm,
                  virStorageSource *chain)
{
    virStorageSource *n;

    for (n = chain; virStorageSourceIsBacking(n); n = n->backingStore) {
        if (!ferrySourceInUse(vm->def, n, chain))
            qemuDomainStorageSourceAccessRevoke(QEMU_DOMAIN_PRIVATE(vm)->driver, vm, n);
    }
}
