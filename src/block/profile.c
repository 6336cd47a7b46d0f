/*
 * profile.c: what QEMU may use, for its AppArmor profile
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Theory of operation
 *
 * libvirt's AppArmor driver adds an image to the profile when QEMU is given access to it. When access to
 * any file of the domain is taken back, also by a stock call such as the removal of a device, it makes the
 * whole profile anew, from the definition. That does not name what operations use besides: targets of
 * copies, images of backups. And the kernel looks at a new profile also for files that are open already:
 * a copy would fail because another one has ended.
 *
 * So the images to which access was granted are kept in a list for each domain, and a profile is made
 * from a definition that names them, too, as if they were disks (profileview.c).
 *
 * Images below a disk's are read-only there, by a rule that forbids writing and that no other rule
 * overrides (libvirt before 12.1): nothing can be committed into them, nor a bitmap be changed. Where
 * somebody does that, the chain of the disk is taken apart, and the image is writable until it is over.
 *
 * The other security drivers need none of this: they label files one by one.
 */

#include <config.h>

#include "block/profile.h"
#include "compat/block.h"
#include "qemu/qemu_domain.h"

typedef struct _ferryProfileImage ferryProfileImage;
struct _ferryProfileImage {
    virStorageSource *src;
    unsigned int grants; /* by the driver, while no disk had it */
    unsigned int users;  /* operations of Ferry's; disks may have it, too */
    bool written;        /* it is below a disk's image, and somebody may write to it */
    bool held;           /* who does says when that is over */
    bool recalled;       /* an earlier driver's: it is not known what the profile allows */
};

static struct {
    virMutex lock;       /* taken after a domain's lock; no lock is taken after it */
    GHashTable *domains; /* UUID -> GPtrArray of ferryProfileImage */
} profiles = { .lock = VIR_MUTEX_INITIALIZER };


static void
ferryProfileImageFree(void *opaque)
{
    ferryProfileImage *image = opaque;

    virObjectUnref(image->src);
    g_free(image);
}


/**
 * ferryProfileDriver:
 * @mgr: the QEMU driver's, which has several of them
 *
 * Returns libvirt's AppArmor driver, which @mgr owns; NULL: it is not used. It is called with @mgr locked
 * only: a thread that starts a QEMU relies on that, since it forks.
 */
virSecurityManager *
ferryProfileDriver(virSecurityManager *mgr)
{
    static virSecurityManager *asked;
    static virSecurityManager *driver;
    VIR_LOCK_GUARD lock = virObjectLockGuard(mgr);
    g_autofree virSecurityManager **nested = NULL;
    size_t i;

    /* it never changes; @mgr protects what is known of it, and there is one */
    if (asked == mgr)
        return driver;

    nested = virSecurityManagerGetNested(mgr);
    driver = NULL;
    for (i = 0; nested[i] && nested[i] != mgr; i++) {
        if (STREQ_NULLABLE(virSecurityManagerGetModel(nested[i]), "apparmor"))
            driver = nested[i];
    }
    asked = mgr;

    return driver;
}


/* Returns the list of the domain, which exists from now on if @create says so. Lock held. */
static GPtrArray *
ferryProfileList(virDomainDef *def,
                 bool create)
{
    char uuid[VIR_UUID_STRING_BUFLEN];
    GPtrArray *images;

    virUUIDFormat(def->uuid, uuid);

    if (!profiles.domains)
        profiles.domains = virHashNew((GDestroyNotify) g_ptr_array_unref);

    images = g_hash_table_lookup(profiles.domains, uuid);
    if (!images && create) {
        images = g_ptr_array_new_with_free_func(ferryProfileImageFree);
        g_hash_table_insert(profiles.domains, g_strdup(uuid), images);
    }

    return images;
}


/* Returns the entry of @src, which exists from now on if @create says so; or NULL. Lock held. */
static ferryProfileImage *
ferryProfileFind(GPtrArray *images,
                 virStorageSource *src,
                 bool create)
{
    ferryProfileImage *image;
    size_t i;

    for (i = 0; images && i < images->len; i++) {
        image = g_ptr_array_index(images, i);

        if (virStorageSourceIsSameLocation(image->src, src))
            return image;
    }

    if (!images || !create)
        return NULL;

    image = g_new0(ferryProfileImage, 1);
    image->src = virObjectRef(src);
    g_ptr_array_add(images, image);
    return image;
}


/**
 * ferryProfileHasPath:
 *
 * Returns whether @src is something that a profile names.
 */
bool
ferryProfileHasPath(virStorageSource *src)
{
    return virStorageSourceIsLocalStorage(src) && src->path;
}


/* Returns the disk one of whose images is @src: the first one, or, @below, one of those below; or NULL. */
static virDomainDiskDef *
ferryProfileDisk(virDomainDef *def,
                 virStorageSource *src,
                 bool below)
{
    size_t i;

    for (i = 0; i < def->ndisks; i++) {
        virStorageSource *top = def->disks[i]->src;
        virStorageSource *n;

        for (n = top; virStorageSourceIsBacking(n); n = n->backingStore) {
            virStorageSource *data = ferryBlockDataFile(n);

            if ((n != top) == below &&
                (virStorageSourceIsSameLocation(n, src) || (data && virStorageSourceIsSameLocation(data, src))))
                return def->disks[i];
        }
    }

    return NULL;
}


static bool
ferryProfileIsOfDisk(virDomainDef *def,
                     virStorageSource *src)
{
    return ferryProfileDisk(def, src, /* below= */ false) || ferryProfileDisk(def, src, /* below= */ true);
}


/* Returns whether a block job of the stock driver's writes to @src, below the image of @disk. */
static bool
ferryProfileIsCommitted(virDomainDiskDef *disk,
                        virStorageSource *src)
{
    qemuDomainDiskPrivate *priv = QEMU_DOMAIN_DISK_PRIVATE(disk);
    const qemuBlockJobData *job = priv ? priv->blockjob : NULL;

    if (!job || (job->type != QEMU_BLOCKJOB_TYPE_COMMIT && job->type != QEMU_BLOCKJOB_TYPE_ACTIVE_COMMIT))
        return false;

    return src == job->data.commit.base || src == job->data.commit.topparent;
}


/**
 * ferryProfileIsWritten:
 * @src: image below that of @disk, which is a disk of @def
 *
 * Returns whether somebody may write to @src. A block job is asked only if an earlier driver has begun it: it
 * is still there when it has given up the image. Domain locked.
 */
bool
ferryProfileIsWritten(virDomainDef *def,
                      virDomainDiskDef *disk,
                      virStorageSource *src)
{
    VIR_LOCK_GUARD lock = virLockGuardLock(&profiles.lock);
    ferryProfileImage *image = ferryProfileFind(ferryProfileList(def, /* create= */ false), src, /* create= */ false);

    return image ? image->written : ferryProfileIsCommitted(disk, src);
}


/**
 * ferryProfileGranted:
 * @mgr: of the QEMU driver
 * @src: image to which the domain of @def has got access, as src->readonly says
 * @chain: and those below it, which it reads
 *
 * Keeps the images in the profile until ferryProfileRevoked(). Returns true if the profile must be made
 * anew, since it forbids what was granted, or allows what is not any more. Domain locked.
 */
bool
ferryProfileGranted(virSecurityManager *mgr,
                    virDomainDef *def,
                    virStorageSource *src,
                    bool chain)
{
    VIR_LOCK_GUARD lock = { 0 };
    virDomainDiskDef *disk;
    ferryProfileImage *image;
    GPtrArray *images;
    virStorageSource *n;
    bool changed;

    if (!ferryProfileDriver(mgr))
        return false;

    lock = virLockGuardLock(&profiles.lock);
    images = ferryProfileList(def, /* create= */ true);

    for (n = src; virStorageSourceIsBacking(n) && (n == src || chain); n = n->backingStore) {
        if (ferryProfileHasPath(n) && !ferryProfileIsOfDisk(def, n))
            ferryProfileFind(images, n, /* create= */ true)->grants++;
    }

    if (!ferryProfileHasPath(src))
        return false;

    if (!(disk = ferryProfileDisk(def, src, /* below= */ true)))
        return false;

    if (!(image = ferryProfileFind(images, src, /* create= */ false))) {
        image = ferryProfileFind(images, src, /* create= */ true);
        image->written = ferryProfileIsCommitted(disk, src);
    }

    changed = image->recalled || image->written == src->readonly;
    image->written = !src->readonly;
    image->held = image->recalled = false;
    return changed;
}


/**
 * ferryProfileTakeBack:
 *
 * ferryProfileGranted() has returned true, and the profile could not be made. Domain locked.
 */
void
ferryProfileTakeBack(virDomainDef *def,
                     virStorageSource *src)
{
    VIR_LOCK_GUARD lock = virLockGuardLock(&profiles.lock);
    ferryProfileImage *image = ferryProfileFind(ferryProfileList(def, /* create= */ false), src, /* create= */ false);

    if (image) {
        image->written = src->readonly;
        image->recalled = true;
    }
}


/**
 * ferryProfileUse:
 * @chain: what an operation of Ferry's uses
 * @use: from now on; else not any more
 *
 * Also counts images that disks have: that may change. Domain locked.
 */
void
ferryProfileUse(virSecurityManager *mgr,
                virDomainDef *def,
                virStorageSource *chain,
                bool use)
{
    VIR_LOCK_GUARD lock = { 0 };
    virStorageSource *n;
    GPtrArray *images;

    if (!ferryProfileDriver(mgr))
        return;

    lock = virLockGuardLock(&profiles.lock);
    images = ferryProfileList(def, /* create= */ use);

    for (n = chain; virStorageSourceIsBacking(n); n = n->backingStore) {
        ferryProfileImage *image = ferryProfileHasPath(n) ? ferryProfileFind(images, n, /* create= */ use) : NULL;

        if (image && use)
            image->users++;
        else if (image && image->users > 0)
            image->users--;
    }
}


/**
 * ferryProfileRecall:
 *
 * An earlier driver has let somebody write to @src, which is below a disk's image. That is over when
 * ferryProfileHold() says so. Domain locked.
 */
void
ferryProfileRecall(virSecurityManager *mgr,
                   virDomainDef *def,
                   virStorageSource *src)
{
    VIR_LOCK_GUARD lock = { 0 };
    ferryProfileImage *image;

    if (!ferryProfileDriver(mgr) || !ferryProfileHasPath(src))
        return;

    lock = virLockGuardLock(&profiles.lock);
    image = ferryProfileFind(ferryProfileList(def, /* create= */ true), src, /* create= */ true);
    image->written = image->held = image->recalled = true;
}


/**
 * ferryProfileHold:
 * @src: image below a disk's
 *
 * @held: whoever writes to @src will say when that is over, by asking for read-only access. Else it is over
 * when no block job of the stock driver's writes to it. Domain locked.
 */
void
ferryProfileHold(virDomainDef *def,
                 virStorageSource *src,
                 bool held)
{
    VIR_LOCK_GUARD lock = virLockGuardLock(&profiles.lock);
    ferryProfileImage *image = ferryProfileFind(ferryProfileList(def, /* create= */ false), src, /* create= */ false);

    if (image)
        image->held = held;
}


/**
 * ferryProfileRevoked:
 * @mgr, @def, @src, @chain: as for ferryProfileGranted()
 *
 * The domain is about to lose its access to the image. Domain locked.
 */
void
ferryProfileRevoked(virSecurityManager *mgr,
                    virDomainDef *def,
                    virStorageSource *src,
                    bool chain)
{
    VIR_LOCK_GUARD lock = { 0 };
    virStorageSource *n;
    GPtrArray *images;

    if (!ferryProfileDriver(mgr))
        return;

    lock = virLockGuardLock(&profiles.lock);
    images = ferryProfileList(def, /* create= */ false);

    for (n = src; virStorageSourceIsBacking(n) && (n == src || chain); n = n->backingStore) {
        ferryProfileImage *image = ferryProfileFind(images, n, /* create= */ false);

        if (!image)
            continue;

        image->written = false;
        if (image->grants > 0)
            image->grants--;
        if (image->grants == 0 && image->users == 0)
            g_ptr_array_remove_fast(images, image);
    }
}


/**
 * ferryProfileForget:
 *
 * The QEMU of the domain is gone, and its profile with it. Domain locked.
 */
void
ferryProfileForget(virDomainDef *def)
{
    VIR_LOCK_GUARD lock = virLockGuardLock(&profiles.lock);
    char uuid[VIR_UUID_STRING_BUFLEN];

    virUUIDFormat(def->uuid, uuid);
    if (profiles.domains)
        g_hash_table_remove(profiles.domains, uuid);
}


/**
 * ferryProfileTidy:
 *
 * A block job of the stock driver's may have ended, or an image has become a disk's own: nobody writes to it
 * below a disk any more. Domain locked; nobody is about to begin a block job.
 */
void
ferryProfileTidy(virDomainDef *def)
{
    VIR_LOCK_GUARD lock = virLockGuardLock(&profiles.lock);
    GPtrArray *images = ferryProfileList(def, /* create= */ false);
    size_t i;

    for (i = 0; images && i < images->len; i++) {
        ferryProfileImage *image = g_ptr_array_index(images, i);
        virDomainDiskDef *disk = ferryProfileDisk(def, image->src, /* below= */ true);

        if (!disk || ferryProfileDisk(def, image->src, /* below= */ false))
            image->written = image->held = image->recalled = false;
        else if (image->written && !image->held)
            image->written = ferryProfileIsCommitted(disk, image->src);
    }
}


/**
 * ferryProfileOthers:
 * @except: image that the domain loses now; or NULL
 *
 * Returns references to the images to which the domain has access, and of which @def does not say what QEMU
 * may. The caller frees the list. Domain locked.
 */
GPtrArray *
ferryProfileOthers(virDomainDef *def,
                   virStorageSource *except)
{
    VIR_LOCK_GUARD lock = virLockGuardLock(&profiles.lock);
    GPtrArray *others = g_ptr_array_new_with_free_func(virObjectUnref);
    GPtrArray *images = ferryProfileList(def, /* create= */ false);
    size_t i;

    for (i = 0; images && i < images->len; i++) {
        ferryProfileImage *image = g_ptr_array_index(images, i);

        if ((image->grants > 0 || image->users > 0) && !ferryProfileIsOfDisk(def, image->src))
            g_ptr_array_add(others, virObjectRef(image->src));
    }

    /* targets of copies that an earlier driver has begun: the stock one, or one whose journal is lost */
    for (i = 0; i < def->ndisks; i++) {
        virStorageSource *mirror = def->disks[i]->mirror;

        if (mirror && ferryProfileHasPath(mirror) && !ferryProfileIsOfDisk(def, mirror) &&
            !ferryProfileFind(images, mirror, /* create= */ false) &&
            !(except && virStorageSourceIsSameLocation(mirror, except)))
            g_ptr_array_add(others, virObjectRef(mirror));
    }

    return others;
}
