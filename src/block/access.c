/*
 * access.c: what a domain may touch: locks, labels, cgroups, namespace
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
 * Lets @vm use @chain. Returns 0, or -1 with an error reported and nothing
 * granted.
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
 * Takes from @vm what it may do with the images of @chain. An image that a
 * disk of @vm uses by another way keeps its rights: the backing file of both
 * the old and the new image of a shallow copy, for one. @chain itself does not
 * count as such a use.
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
