/*
 * base.c: block copy: the image of the disk's own chain that the target is put onto
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A client may name, as the backing image of a shallow copy, an image of the disk's own chain:
 * the images above it are copied then (layers.c), and the target uses it through the nodes that
 * QEMU has for it already. Images are compared by the files that their names lead to: an image
 * that was not recognized would be taken for one that holds the same as the disk's.
 */

#include <config.h>

#include "block/alias.h"
#include "block/node.h"
#include "block/nodename.h"
#include "ops/copy/base.h"
#include "virerror.h"

#define VIR_FROM_THIS VIR_FROM_QEMU


static bool
ferryBaseIsSame(GPtrArray *aliases,
                virStorageSource *a,
                virStorageSource *b)
{
    return virStorageSourceIsSameLocation(a, b) ||
           (aliases && virStorageSourceIsLocalStorage(a) && virStorageSourceIsLocalStorage(b) &&
            ferryAliasIsSame(aliases, a->path, b->path));
}


/* Like ferryBaseIsSame(), for an image that nobody knew when the storage was asked ahead. Takes a bounded
 * time, without the domain's lock. */
static bool
ferryBaseIsSameFile(virDomainObj *vm,
                    virStorageSource *a,
                    virStorageSource *b)
{
    const char *paths[] = { a->path, b->path, NULL };
    g_autoptr(GPtrArray) aliases = NULL;

    if (virStorageSourceIsLocalStorage(a) && virStorageSourceIsLocalStorage(b))
        aliases = ferryAliasAsk(vm, paths);

    return ferryBaseIsSame(aliases, a, b);
}


/* Returns 0 if all images that are to be compared are known, or -1 with an error reported. */
static int
ferryBaseCheckKnown(virDomainObj *vm,
                    virDomainDiskDef *disk,
                    virStorageSource *given,
                    GPtrArray *aliases)
{
    virStorageSource *unknown = NULL;
    virStorageSource *n;

    if (!aliases || !virStorageSourceIsLocalStorage(given))
        return 0;

    if (!ferryAliasIsKnown(aliases, given->path))
        unknown = given;

    for (n = disk->src; virStorageSourceIsBacking(n); n = n->backingStore) {
        if (virStorageSourceIsLocalStorage(n) && n->path && !ferryAliasIsKnown(aliases, n->path))
            unknown = n;
    }

    if (!unknown)
        return 0;

    virReportError(VIR_ERR_OPERATION_UNSUPPORTED,
                   _("'%1$s' cannot be looked at, so that nobody knows whether <backingStore> names an image of disk "
                     "'%2$s' of domain '%3$s': name it as the disk's definition does, or make it accessible"),
                   unknown->path, disk->dst, vm->def->name);
    return -1;
}


/* Returns whether the chain @given says nothing else than @own, as far as it goes. */
static bool
ferryBaseIsSameChain(GPtrArray *aliases,
                     virStorageSource *given,
                     virStorageSource *own)
{
    for (; given; given = given->backingStore, own = own->backingStore) {
        bool ends = !virStorageSourceIsBacking(own);

        if (virStorageSourceIsBacking(given) == ends)
            return false;
        if (ends)
            return true;
        if (!ferryBaseIsSame(aliases, given, own) ||
            (given->format > VIR_STORAGE_FILE_NONE && given->format != own->format))
            return false;
    }

    return true;
}


/**
 * ferryBaseAddPaths:
 * @path: the disk's name in the guest, or the path of its source
 *
 * Adds to @paths, for ferryAliasAsk(), the images that ferryBaseFind() compares for disk @path. @vm is
 * locked; the strings are borrowed from it and from @target.
 */
void
ferryBaseAddPaths(virDomainObj *vm,
                  const char *path,
                  virStorageSource *target,
                  GPtrArray *paths)
{
    virDomainDiskDef *disk = virDomainDiskByName(vm->def, path, /* allow_ambiguous= */ true);
    virStorageSource *chains[] = { target->backingStore, disk ? disk->src : NULL };
    virStorageSource *n;
    size_t i;

    if (!virStorageSourceIsBacking(target->backingStore))
        return;

    for (i = 0; i < G_N_ELEMENTS(chains); i++) {
        for (n = chains[i]; virStorageSourceIsBacking(n); n = n->backingStore) {
            if (virStorageSourceIsLocalStorage(n) && n->path)
                g_ptr_array_add(paths, n->path);
        }
    }
}


/* What lies beyond the end of an image reads as zeroes, also where an image below it has data: but
 * not any more when the images are merged. */
static int
ferryBaseCheckSizes(virDomainObj *vm,
                    virDomainDiskDef *disk,
                    virStorageSource *base)
{
    g_autoptr(GHashTable) nodes = ferryNodeData(vm);
    virStorageSource *n;

    if (!nodes)
        return -1;

    for (n = disk->src; n != base; n = n->backingStore) {
        unsigned long long above;
        unsigned long long below;

        if (ferryNodeCapacity(nodes, ferryNodeName(n), &above) < 0 ||
            ferryNodeCapacity(nodes, ferryNodeName(n->backingStore), &below) < 0)
            return -1;

        if (above >= below)
            continue;

        virReportError(VIR_ERR_OPERATION_UNSUPPORTED,
                       _("'%1$s', of disk '%2$s' of domain '%3$s', has %4$llu bytes, less than '%5$s' below it with "
                         "%6$llu: it cannot be merged into a copy; make a full copy, or a shallow one without "
                         "<backingStore>"),
                       NULLSTR(n->path), disk->dst, vm->def->name, above, NULLSTR(n->backingStore->path), below);
        return -1;
    }

    return 0;
}


/**
 * ferryBaseFind:
 * @aliases: of ferryBaseAddPaths(), or NULL
 * @copy: shallow; its base is set if that is not the image right below the top
 *
 * Finds the backing image that a client has given @target in the chain of @disk; takes it out of @target
 * then, whose chain will be the disk's. Changes nothing for any other image. Domain locked, job held.
 *
 * Returns 0, or -1 with an error reported.
 */
int
ferryBaseFind(virDomainObj *vm,
              virDomainDiskDef *disk,
              virStorageSource *target,
              GPtrArray *aliases,
              ferryCopy *copy)
{
    virStorageSource *given = target->backingStore;
    virStorageSource *n = disk->src;

    while (virStorageSourceIsBacking(n) && !ferryBaseIsSame(aliases, given, n))
        n = n->backingStore;

    if (!virStorageSourceIsBacking(n))
        return ferryBaseCheckKnown(vm, disk, given, aliases);

    if (n == disk->src) {
        virReportError(VIR_ERR_INVALID_ARG,
                       _("'%1$s' cannot be below the copy of disk '%2$s' of domain '%3$s': the guest writes "
                         "to it; name an image below it"),
                       NULLSTR(given->path), disk->dst, vm->def->name);
        return -1;
    }

    if (!ferryBaseIsSameChain(aliases, given, n)) {
        virReportError(VIR_ERR_INVALID_ARG,
                       _("<backingStore> names '%1$s', an image of disk '%2$s' of domain '%3$s', with another "
                         "format, or with other images below it, than the disk has: leave these out"),
                       NULLSTR(given->path), disk->dst, vm->def->name);
        return -1;
    }

    if (n == disk->src->backingStore) {
        /* who reuses an image says what is below it */
        if (!copy->reuse)
            g_clear_pointer(&target->backingStore, virObjectUnref);
        return 0;
    }

    if (ferryBaseCheckSizes(vm, disk, n) < 0)
        return -1;

    g_clear_pointer(&target->backingStore, virObjectUnref);
    copy->base = g_strdup(ferryNodeName(n));
    copy->layer = g_strdup(ferryNodeName(ferryCopyImageAbove(disk->src, copy->base)));
    return 0;
}


/**
 * ferryBaseCheckReused:
 *
 * QEMU is told what is below the target, but the next one will go by what the image says itself: a
 * reused one must name the base of @copy. Call it when the chain of the target is known; it is
 * taken out of the target again. Domain locked, job held; the lock is released meanwhile.
 *
 * Returns 0, or -1 with an error reported.
 */
int
ferryBaseCheckReused(virDomainObj *vm,
                     virDomainDiskDef *disk,
                     virStorageSource *target,
                     ferryCopy *copy)
{
    g_autoptr(virStorageSource) base = NULL;
    virStorageSource *named = target->backingStore;

    if (!copy->base || !copy->reuse)
        return 0;

    base = virObjectRef(ferryCopyImageAbove(disk->src, copy->base)->backingStore);

    if (!virStorageSourceIsBacking(named) || named->format != base->format || !ferryBaseIsSameFile(vm, named, base)) {
        virReportError(VIR_ERR_INVALID_ARG,
                       _("the target '%1$s' of disk '%2$s' of domain '%3$s' must name '%4$s' as its backing image: "
                         "use 'qemu-img create -b %4$s -F %5$s'"),
                       NULLSTR(target->path), disk->dst, vm->def->name, NULLSTR(base->path),
                       virStorageFileFormatTypeToString(base->format));
        return -1;
    }

    g_clear_pointer(&target->backingStore, virObjectUnref);
    return 0;
}
