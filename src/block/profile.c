/*
 * profile.c: the AppArmor profile of a domain's QEMU
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
 * from a definition that names them, too, as if they were disks.
 *
 * Images below a disk's are read-only there, by a rule that forbids writing and that no other rule
 * overrides (libvirt before 12.1): nothing can be committed into them, nor a bitmap be changed. Where
 * somebody does that, the chain of the disk is taken apart, and the image is writable until it is over.
 *
 * To make a profile virt-aa-helper looks at all its files, with the domain locked. If the storage of one
 * that the definition does not name is silent, the profile stays as it is.
 *
 * The other security drivers need none of this: they label files one by one.
 */

#include <config.h>

#include <sys/stat.h>

#include "block/bounded.h"
#include "block/profile.h"
#include "virlog.h"
#include "virutil.h"

VIR_LOG_INIT("ferry.profile");

/* How long the storage of images may take that are in the list, in milliseconds. A domain is locked. */
#define FERRY_PROFILE_MS 1000

typedef struct _ferryProfileImage ferryProfileImage;
struct _ferryProfileImage {
    virStorageSource *src;
    unsigned int grants; /* while no disk had it */
    bool written;        /* it is below a disk's image, and somebody may write to it */
    bool held;           /* who does says when that is over */
};

struct _ferryProfileView {
    virDomainDef def;             /* the domain's, with other disks */
    GPtrArray *images;            /* of virDomainDiskDef: one for each image that is no disk's own */
    GPtrArray *tops;              /* of virDomainDiskDef: the domain's, whose chains were taken apart */
    GPtrArray *members;           /* all of them and the domain's, not owned */
    size_t number;                /* of the next disk's name */
    virSecurityLabelDef **labels; /* of @def, if the profile must stay as it is; or NULL */
    virSecurityLabelDef *label;   /* AppArmor's among them */
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


static bool
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
            if ((n != top) == below && virStorageSourceIsSameLocation(n, src))
                return def->disks[i];
        }
    }

    return NULL;
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


/* Returns whether somebody may write to @src, which is below the image of @disk. Lock held. */
static bool
ferryProfileIsWritten(GPtrArray *granted,
                      virDomainDiskDef *disk,
                      virStorageSource *src)
{
    ferryProfileImage *image = ferryProfileFind(granted, src, /* create= */ false);

    return (image && image->written) || ferryProfileIsCommitted(disk, src);
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
    GPtrArray *images;
    virStorageSource *n;
    bool changed = false;

    if (!ferryProfileDriver(mgr))
        return false;

    lock = virLockGuardLock(&profiles.lock);
    images = ferryProfileList(def, /* create= */ true);

    for (n = src; virStorageSourceIsBacking(n) && (n == src || chain); n = n->backingStore) {
        if (!ferryProfileHasPath(n))
            continue;

        if (!ferryProfileDisk(def, n, /* below= */ false) && !ferryProfileDisk(def, n, /* below= */ true)) {
            ferryProfileFind(images, n, /* create= */ true)->grants++;
        } else if (n == src && ferryProfileDisk(def, n, /* below= */ true)) {
            ferryProfileImage *image = ferryProfileFind(images, n, /* create= */ !n->readonly);

            changed = image && image->written == n->readonly;
            if (image) {
                image->written = !n->readonly;
                image->held = false;
            }
        }
    }

    return changed;
}


/**
 * ferryProfileHold:
 * @src: image below a disk's
 *
 * Whoever writes to @src will say when that is over: by asking for read-only access. Domain locked.
 */
void
ferryProfileHold(virDomainDef *def,
                 virStorageSource *src)
{
    VIR_LOCK_GUARD lock = virLockGuardLock(&profiles.lock);
    ferryProfileImage *image = ferryProfileFind(ferryProfileList(def, /* create= */ false), src, /* create= */ false);

    if (image)
        image->held = true;
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
        if (image->grants <= 1)
            g_ptr_array_remove_fast(images, image);
        else
            image->grants--;
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


/* A block job of the stock driver's may have ended, or an image has become a disk's own: nobody writes to
 * it below a disk any more. Lock held. */
static void
ferryProfileTidy(virDomainDef *def,
                 GPtrArray *images)
{
    size_t i;

    for (i = 0; i < images->len; i++) {
        ferryProfileImage *image = g_ptr_array_index(images, i);

        if (!image->written || ferryProfileDisk(def, image->src, /* below= */ false) ||
            !ferryProfileDisk(def, image->src, /* below= */ true))
            image->written = image->held = false;
        else if (!image->held)
            image->written = ferryProfileIsCommitted(ferryProfileDisk(def, image->src, /* below= */ true), image->src);
    }
}


/* Returns a copy of @src without what is below; or NULL. */
static virStorageSource *
ferryProfileCut(virStorageSource *src)
{
    virStorageSource *cut = virStorageSourceCopy(src, /* backingChain= */ false);

    if (cut)
        cut->backingStore = virStorageSourceNew();
    return cut;
}


/* Adds a disk with image @src to the view, under a name that no disk has. */
static void
ferryProfileViewAdd(ferryProfileView *view,
                    virStorageSource *src,
                    bool writable)
{
    virStorageSource *cut = ferryProfileCut(src);
    virDomainDiskDef *disk;

    if (!cut || !(disk = virDomainDiskDefNew(/* xmlopt= */ NULL))) {
        VIR_WARN("the AppArmor profile of domain '%s' will lack '%s'", view->def.name, src->path);
        virObjectUnref(cut);
        return;
    }

    virObjectUnref(disk->src);
    disk->src = cut;
    cut->readonly = !writable;
    disk->bus = VIR_DOMAIN_DISK_BUS_VIRTIO;
    do {
        g_free(disk->dst);
        disk->dst = virIndexToDiskName(view->number++, "vd");
    } while (virDomainDiskByTarget(&view->def, disk->dst));

    g_ptr_array_add(view->images, disk);
    g_ptr_array_add(view->members, disk);
}


/* Adds a disk of the domain. If somebody may write to an image of its chain, all of them are separate
 * disks. Lock held. */
static void
ferryProfileViewAddDisk(ferryProfileView *view,
                        virDomainDiskDef *disk,
                        GPtrArray *granted)
{
    g_autoptr(virStorageSource) cut = NULL;
    virDomainDiskDef *top;
    virStorageSource *n;
    bool apart = false;

    for (n = disk->src->backingStore; virStorageSourceIsBacking(n); n = n->backingStore)
        apart = apart || ferryProfileIsWritten(granted, disk, n);

    if (!apart || !(cut = ferryProfileCut(disk->src))) {
        g_ptr_array_add(view->members, disk);
        return;
    }

    top = g_new0(virDomainDiskDef, 1);
    *top = *disk;
    top->src = g_steal_pointer(&cut);
    g_ptr_array_add(view->tops, top);
    g_ptr_array_add(view->members, top);

    for (n = disk->src->backingStore; virStorageSourceIsBacking(n); n = n->backingStore) {
        if (ferryProfileHasPath(n))
            ferryProfileViewAdd(view, n, ferryProfileIsWritten(granted, disk, n));
    }
}


static void
ferryProfileTopFree(void *opaque)
{
    virDomainDiskDef *top = opaque;

    virObjectUnref(top->src);
    g_free(top);
}


static void
ferryProfileAsk(void *opaque)
{
    char **path;

    for (path = opaque; *path; path++) {
        struct stat st;

        ignore_value(stat(*path, &st));
    }
}


/* Sees to it that the profile stays as it is, if the storage of @paths does not answer. */
static void
ferryProfileViewAsk(ferryProfileView *view,
                    char **paths)
{
    g_autofree char *first = g_strdup(paths[0]);
    size_t i;

    if (!first || ferryBoundedRun(first, ferryProfileAsk, paths, (GDestroyNotify) g_strfreev, FERRY_PROFILE_MS)) {
        g_strfreev(paths);
        return;
    }

    VIR_WARN("the AppArmor profile of domain '%s' stays as it is, since the storage of '%s', or of other images "
             "that its operations use, does not answer",
             view->def.name, first);

    view->labels = g_new0(virSecurityLabelDef *, view->def.nseclabels);
    for (i = 0; i < view->def.nseclabels; i++) {
        view->labels[i] = view->def.seclabels[i];
        if (STREQ_NULLABLE(view->labels[i]->model, "apparmor")) {
            view->label = g_new0(virSecurityLabelDef, 1);
            *view->label = *view->labels[i];
            view->label->relabel = false;
            view->labels[i] = view->label;
        }
    }
    view->def.seclabels = view->labels;
}


/**
 * ferryProfileViewNew:
 * @tidy: nobody is about to begin a block job
 *
 * Returns the domain of @def as a profile must be made for it; NULL: @def says all. Domain locked; the
 * view is valid as long as @def does not change.
 */
ferryProfileView *
ferryProfileViewNew(virSecurityManager *mgr,
                    virDomainDef *def,
                    bool tidy)
{
    ferryProfileView *view;
    GPtrArray *paths;
    size_t i;

    if (!ferryProfileDriver(mgr))
        return NULL;

    view = g_new0(ferryProfileView, 1);
    view->def = *def;
    view->number = def->ndisks;
    view->images = g_ptr_array_new_with_free_func((GDestroyNotify) virDomainDiskDefFree);
    view->tops = g_ptr_array_new_with_free_func(ferryProfileTopFree);
    view->members = g_ptr_array_new();
    paths = g_ptr_array_new();

    VIR_WITH_MUTEX_LOCK_GUARD(&profiles.lock) {
        GPtrArray *granted = ferryProfileList(def, /* create= */ true);

        if (tidy)
            ferryProfileTidy(def, granted);

        for (i = 0; i < def->ndisks; i++)
            ferryProfileViewAddDisk(view, def->disks[i], granted);

        for (i = 0; i < granted->len; i++) {
            ferryProfileImage *image = g_ptr_array_index(granted, i);

            /* of those the definition says what QEMU may */
            if (image->grants > 0 && !ferryProfileDisk(def, image->src, /* below= */ false) &&
                !ferryProfileDisk(def, image->src, /* below= */ true)) {
                ferryProfileViewAdd(view, image->src, /* writable= */ true);
                g_ptr_array_add(paths, g_strdup(image->src->path));
            }
        }
    }

    view->def.disks = (virDomainDiskDef **) view->members->pdata;
    view->def.ndisks = view->members->len;

    g_ptr_array_add(paths, NULL);
    ferryProfileViewAsk(view, (char **) g_ptr_array_free(paths, /* free_seg= */ false));
    return view;
}


void
ferryProfileViewFree(ferryProfileView *view)
{
    if (!view)
        return;

    g_ptr_array_unref(view->members);
    g_ptr_array_unref(view->tops);
    g_ptr_array_unref(view->images);
    g_free(view->labels);
    g_free(view->label);
    g_free(view);
}


/**
 * ferryProfileViewDef:
 *
 * Returns the definition of @view, or @def if there is none. It belongs to the view.
 */
virDomainDef *
ferryProfileViewDef(ferryProfileView *view,
                    virDomainDef *def)
{
    return view ? &view->def : def;
}
