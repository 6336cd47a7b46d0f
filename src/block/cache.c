/*
 * cache.c: whether QEMU bypasses the page cache for an image
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include <sys/stat.h>

#include "block/bounded.h"
#include "block/cache.h"
#include "block/identity.h"
#include "block/node.h"
#include "block/nodehold.h"
#include "virerror.h"
#include "virlog.h"

VIR_LOG_INIT("ferry.cache");

/* Largest sector that direct I/O may require, in bytes. */
#define FERRY_SECTOR_MAX 4096


/**
 * ferryNodeIsDirect:
 *
 * Returns whether the cache mode of @src makes QEMU bypass the host's page cache.
 */
static bool
ferryNodeIsDirect(virStorageSource *src)
{
    bool direct = false;

    return src->cachemode != VIR_DOMAIN_DISK_CACHE_DEFAULT &&
           qemuDomainDiskCachemodeFlags(src->cachemode, /* writeback= */ NULL, &direct,
                                        /* noflush= */ NULL) == 0 &&
           direct;
}


/**
 * ferryNodeMayBypassCache:
 *
 * Returns whether it makes sense to open @src with direct I/O although its cache mode
 * does not ask for that. Direct I/O works in whole sectors of up to 4 KiB. QEMU refuses
 * to write to a file that ends within a sector, unless the format driver may grow the
 * file, which raw may not. Domain locked; releases the lock while it asks storage.
 */
bool
ferryNodeMayBypassCache(virDomainObj *vm,
                        virStorageSource *src)
{
    struct stat st;
    int err;

    if (!virStorageSourceIsLocalStorage(src) || virStorageSourceIsFD(src) || ferryNodeIsDirect(src))
        return false;

    if (src->format != VIR_STORAGE_FILE_RAW)
        return true;

    if ((err = ferryBoundedStat(vm, src->path, &st)) != 0)
        return err != ETIMEDOUT;

    return !S_ISREG(st.st_mode) || st.st_size % FERRY_SECTOR_MAX == 0;
}


/**
 * ferryNodeBypassCache:
 * @disk: disk that @src is an image of, or will be
 * @direct: true: bypass the page cache; false: go back to the cache mode of @disk
 *
 * Changes the cache mode of @src for a while, where that makes sense and the storage
 * supports it. For an image that QEMU has had open for long, use ferryNodeReadDirect().
 * Reports no error. Returns whether QEMU bypasses the page cache now.
 */
bool
ferryNodeBypassCache(virDomainObj *vm,
                     virDomainDiskDef *disk,
                     virStorageSource *src,
                     bool direct)
{
    int rc;

    /* A driver that reconnects to QEMU does not fill these in. */
    src->cachemode = disk->cachemode;
    src->iomode = disk->iomode;

    if (!ferryNodeMayBypassCache(vm, src))
        return ferryNodeIsDirect(src);

    if (direct)
        src->cachemode = VIR_DOMAIN_DISK_CACHE_DISABLE;

    /* Not every file system supports direct I/O. All can go back, so retry that once. */
    if ((rc = ferryNodeReopenStorage(vm, src, /* autoreadonly= */ true)) < 0 &&
        (direct || ferryNodeReopenStorage(vm, src, /* autoreadonly= */ true) < 0)) {
        VIR_INFO("'%s' keeps its cache mode: %s", src->path, virGetLastErrorMessage());
    }
    virResetLastError();

    src->cachemode = disk->cachemode;
    return direct && rc == 0;
}


/* QEMU caches, to the byte, where data end in a file that it has had open for a while. It
 * aborts when that offset is not a sector boundary for direct I/O. In a raw image data
 * end with a block of the file system, so large blocks are safe; in another format's file
 * they may end anywhere. For devices QEMU caches no such offset. */
static bool
ferryNodeMayReadDirect(virDomainObj *vm,
                       virStorageSource *src)
{
    struct stat st;
    int err;

    if (!ferryNodeMayBypassCache(vm, src))
        return false;

    if (virStorageSourceIsBlockLocal(src))
        return true;

    if (src->format != VIR_STORAGE_FILE_RAW)
        return false;

    if ((err = ferryBoundedStat(vm, src->path, &st)) != 0)
        return err != ETIMEDOUT;

    return st.st_blksize % FERRY_SECTOR_MAX == 0;
}


/**
 * ferryNodeReadDirect:
 * @disk: disk of a running guest; NULL: nothing is done
 * @base: change only the images above this one of its chain; NULL: all
 * @direct: true: bypass the page cache; false: go back to the cache mode of @disk
 *
 * Like ferryNodeBypassCache(), for the images of @disk, which are about to be read as a
 * whole. Skips images where direct I/O could make QEMU abort.
 */
void
ferryNodeReadDirect(virDomainObj *vm,
                    virDomainDiskDef *disk,
                    virStorageSource *base,
                    bool direct)
{
    virStorageSource *n;

    /* the guest may have ejected the disk */
    for (n = disk ? disk->src : NULL; virStorageSourceIsBacking(n) && n != base; n = n->backingStore) {
        if (!direct || ferryNodeMayReadDirect(vm, n))
            ferryNodeBypassCache(vm, disk, n, direct);
    }

    if (disk && direct)
        ferryNodeHoldSource(vm, disk);
    else if (disk)
        ferryNodeReleaseSource(vm, disk->src);
}


/* Returns whether @src is held. What an earlier driver did, only QEMU knows: it is asked once. */
static bool
ferryNodeIsKnownHeld(virDomainObj *vm,
                     virStorageSource *src)
{
    virTristateBool held = ferryIdentityIsHeld(vm, src);

    if (held == VIR_TRISTATE_BOOL_ABSENT &&
        (held = ferryNodeIsHeld(vm, src)) != VIR_TRISTATE_BOOL_ABSENT)
        ferryIdentitySetHeld(vm, src, held == VIR_TRISTATE_BOOL_YES);

    return held == VIR_TRISTATE_BOOL_YES;
}


/**
 * ferryNodeHoldSource:
 *
 * To be called before a mirror job of @disk begins or ends, when QEMU may open the guest's
 * image again by its name (ferryNodeHold()). If the name does not certainly lead to the
 * file that the guest uses any more, makes QEMU keep that file. Domain locked, job held.
 * Keeps the last error.
 */
void
ferryNodeHoldSource(virDomainObj *vm,
                    virDomainDiskDef *disk)
{
    virStorageSource *src = disk->src;
    ferryIdentity identity;
    virErrorPtr err = NULL;

    if (src->readonly || ferryNodeIsKnownHeld(vm, src) ||
        (identity = ferryIdentityCheck(vm, src)) == FERRY_IDENTITY_SAME)
        return;

    virErrorPreserveLast(&err);

    if (ferryNodeHold(vm, src) < 0) {
        VIR_WARN("disk '%s' of domain '%s' may be moved to the file that is at '%s' now: %s",
                 disk->dst, vm->def->name, src->path, virGetLastErrorMessage());
    } else {
        ferryIdentitySetHeld(vm, src, /* held= */ true);
        if (identity == FERRY_IDENTITY_OTHER)
            VIR_WARN("the name '%s' of the image of disk '%s' of domain '%s' leads to another "
                     "file, or to none; the guest goes on with the file that QEMU has open",
                     src->path, disk->dst, vm->def->name);
    }

    virErrorRestore(&err);
}


/**
 * ferryNodeReleaseSource:
 *
 * Undoes ferryNodeHoldSource() for @src, a disk's top image. Reports no error.
 */
void
ferryNodeReleaseSource(virDomainObj *vm,
                       virStorageSource *src)
{
    if (src->readonly || !ferryNodeIsKnownHeld(vm, src))
        return;

    ferryNodeRelease(vm, src);
    ferryIdentitySetHeld(vm, src, /* held= */ false);
}
