/*
 * access.c: a domain's access to images: locks, labels, cgroups, namespace
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "block/access.h"
#include "block/profile.h"
#include "block/source.h"


/* Counts the use of @chain by an operation, or what was counted before. */
static void
ferryAccessUse(virDomainObj *vm,
               virStorageSource *chain,
               bool use)
{
    ferryProfileUse(QEMU_DOMAIN_PRIVATE(vm)->driver->securityManager, vm->def, chain, use);
}


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
    if (qemuDomainStorageSourceChainAccessAllow(QEMU_DOMAIN_PRIVATE(vm)->driver, vm, chain) < 0)
        return -1;

    ferryAccessUse(vm, chain, /* use= */ true);
    return 0;
}


/**
 * ferryAccessRecall:
 *
 * An earlier driver has called ferryAccessGrant().
 */
void
ferryAccessRecall(virDomainObj *vm,
                  virStorageSource *chain)
{
    ferryAccessUse(vm, chain, /* use= */ true);
}


/**
 * ferryAccessAdopt:
 *
 * The images of @chain, for which ferryAccessGrant() was called, become a disk's own.
 */
void
ferryAccessAdopt(virDomainObj *vm,
                 virStorageSource *chain)
{
    ferryAccessUse(vm, chain, /* use= */ false);
}


/**
 * ferryAccessWrite:
 *
 * Lets @vm write to an image below that of a disk, until ferryAccessRead(), or until the image is the disk's
 * own. Returns 0, or -1 with an error reported.
 */
int
ferryAccessWrite(virDomainObj *vm,
                 virStorageSource *below)
{
    if (qemuDomainStorageSourceAccessAllow(QEMU_DOMAIN_PRIVATE(vm)->driver, vm, below, /* readonly= */ false,
                                           /* newSource= */ false, /* chainTop= */ false) < 0)
        return -1;

    ferryProfileHold(vm->def, below, /* held= */ true);
    return 0;
}


/**
 * ferryAccessRecallWrite:
 *
 * An earlier driver has called ferryAccessWrite().
 */
void
ferryAccessRecallWrite(virDomainObj *vm,
                       virStorageSource *below)
{
    ferryProfileRecall(QEMU_DOMAIN_PRIVATE(vm)->driver->securityManager, vm->def, below);
}


/**
 * ferryAccessLeave:
 *
 * Whoever has called ferryAccessWrite() is done, and leaves the image to a block job of the stock driver's.
 */
void
ferryAccessLeave(virDomainObj *vm,
                 virStorageSource *below)
{
    ferryProfileHold(vm->def, below, /* held= */ false);
}


/**
 * ferryAccessRead:
 *
 * Lets @vm only read an image below that of a disk. Returns 0, or -1 with an error reported.
 */
int
ferryAccessRead(virDomainObj *vm,
                virStorageSource *below)
{
    return qemuDomainStorageSourceAccessAllow(QEMU_DOMAIN_PRIVATE(vm)->driver, vm, below, /* readonly= */ true,
                                              /* newSource= */ false, /* chainTop= */ false);
}


/**
 * ferryAccessRevoke:
 *
 * Takes back ferryAccessGrant(), as ferryAccessDrop() does.
 */
void
ferryAccessRevoke(virDomainObj *vm,
                  virStorageSource *chain)
{
    ferryAccessUse(vm, chain, /* use= */ false);
    ferryAccessDrop(vm, chain);
}


/**
 * ferryAccessDrop:
 * @chain: which a disk of @vm has left
 *
 * Revokes the access of @vm to the images of @chain, except to images that a disk of
 * @vm uses outside @chain: for example the backing file that the old and the new image
 * of a shallow copy share. Reports no error.
 */
void
ferryAccessDrop(virDomainObj *vm,
                virStorageSource *chain)
{
    g_autoptr(GPtrArray) images = g_ptr_array_new();
    virStorageSource *n;
    size_t i;

    for (n = chain; virStorageSourceIsBacking(n); n = n->backingStore) {
        if (!ferrySourceInUse(vm->def, n, chain))
            g_ptr_array_add(images, n);
    }

    /* the first one last: as long as it is the target of a copy, the domain shows it (ferryProfileOthers()) */
    for (i = images->len; i > 0; i--)
        qemuDomainStorageSourceAccessRevoke(QEMU_DOMAIN_PRIVATE(vm)->driver, vm, g_ptr_array_index(images, i - 1));
}
