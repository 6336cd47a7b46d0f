/*
 * profileview.c: a domain as its AppArmor profile is made from it
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The definition with more disks: profile.c says why, and which.
 *
 * To make a profile virt-aa-helper looks at all its files, with the domain locked. If the storage of one
 * that the definition does not name is silent, the profile stays as it is.
 */

#include <config.h>

#include <sys/stat.h>

#include "block/bounded.h"
#include "block/profile.h"
#include "block/profileview.h"
#include "virlog.h"
#include "virutil.h"

VIR_LOG_INIT("ferry.profileview");

/* How long the storage of an image may take, in milliseconds. The domain is locked. */
#define FERRY_PROFILE_MS 1000

struct _ferryProfileView {
    virDomainDef def;             /* the domain's, with other disks */
    GPtrArray *images;            /* of virDomainDiskDef: one for each image that is no disk's own */
    GPtrArray *tops;              /* of virDomainDiskDef: the domain's, whose chains were taken apart */
    GPtrArray *members;           /* all of them and the domain's, not owned */
    size_t number;                /* of the next disk's name */
    virSecurityLabelDef **labels; /* of @def, if the profile must stay as it is; or NULL */
    virSecurityLabelDef *label;   /* AppArmor's among them */
};


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


/* Adds a disk of @def. If somebody may write to an image of its chain, all of them are separate disks. */
static void
ferryProfileViewAddDisk(ferryProfileView *view,
                        virDomainDef *def,
                        virDomainDiskDef *disk)
{
    g_autoptr(virStorageSource) cut = NULL;
    virDomainDiskDef *top;
    virStorageSource *n;
    bool apart = false;

    for (n = disk->src->backingStore; virStorageSourceIsBacking(n); n = n->backingStore)
        apart = apart || ferryProfileIsWritten(def, disk, n);

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
            ferryProfileViewAdd(view, n, ferryProfileIsWritten(def, disk, n));
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
    struct stat st;

    ignore_value(stat(opaque, &st));
}


/* Sees to it that the profile stays as it is, if the storage of @images does not answer. */
static void
ferryProfileViewAsk(ferryProfileView *view,
                    GPtrArray *images)
{
    const char *silent = NULL;
    size_t i;

    for (i = 0; i < images->len && !silent; i++) {
        virStorageSource *image = g_ptr_array_index(images, i);
        char *path = g_strdup(image->path);

        if (ferryBoundedRun(image->path, ferryProfileAsk, path, g_free, FERRY_PROFILE_MS))
            g_free(path);
        else
            silent = image->path;
    }

    if (!silent)
        return;

    VIR_WARN("the AppArmor profile of domain '%s' stays as it is, since the storage of '%s' does not answer",
             view->def.name, silent);

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
 * @except: image that the domain loses now; or NULL
 *
 * Returns the domain of @def as a profile must be made for it; NULL: @def says all. Domain locked; the
 * view is valid as long as @def does not change.
 */
ferryProfileView *
ferryProfileViewNew(virSecurityManager *mgr,
                    virDomainDef *def,
                    bool tidy,
                    virStorageSource *except)
{
    g_autoptr(GPtrArray) others = NULL;
    ferryProfileView *view;
    size_t i;

    if (!ferryProfileDriver(mgr))
        return NULL;

    if (tidy)
        ferryProfileTidy(def);
    others = ferryProfileOthers(def, except);

    view = g_new0(ferryProfileView, 1);
    view->def = *def;
    view->number = def->ndisks;
    view->images = g_ptr_array_new_with_free_func((GDestroyNotify) virDomainDiskDefFree);
    view->tops = g_ptr_array_new_with_free_func(ferryProfileTopFree);
    view->members = g_ptr_array_new();

    for (i = 0; i < def->ndisks; i++)
        ferryProfileViewAddDisk(view, def, def->disks[i]);
    for (i = 0; i < others->len; i++)
        ferryProfileViewAdd(view, g_ptr_array_index(others, i), /* writable= */ true);

    view->def.disks = (virDomainDiskDef **) view->members->pdata;
    view->def.ndisks = view->members->len;

    ferryProfileViewAsk(view, others);
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
