/*
 * definitions.c: which files the domains' definitions name
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A journal may be older than what has become of its files: while no Ferry was looking,
 * somebody may have made the target of a copy the disk of a domain. So before a file is
 * removed that only a journal speaks of, all definitions are searched for it.
 */

#include <config.h>

#include <sys/stat.h>

#include "block/bounded.h"
#include "block/definitions.h"


static void
ferryDefinitionsAddChain(GPtrArray *paths,
                         virStorageSource *chain)
{
    virStorageSource *n;

    for (n = chain; virStorageSourceIsBacking(n); n = n->backingStore) {
        if (virStorageSourceIsLocalStorage(n) && n->path)
            g_ptr_array_add(paths, g_strdup(n->path));
    }
}


static void
ferryDefinitionsAdd(GPtrArray *paths,
                    virDomainDef *def)
{
    size_t i;

    for (i = 0; def && i < def->ndisks; i++) {
        ferryDefinitionsAddChain(paths, def->disks[i]->src);
        ferryDefinitionsAddChain(paths, def->disks[i]->mirror);
    }
}


/**
 * ferryDefinitionsAddDomain:
 * @vm: domain, locked
 *
 * Adds to @paths those of all images in the live and the persistent definition of @vm.
 */
void
ferryDefinitionsAddDomain(GPtrArray *paths,
                          virDomainObj *vm)
{
    ferryDefinitionsAdd(paths, vm->def);
    ferryDefinitionsAdd(paths, vm->newDef);
}


/**
 * ferryDefinitionsPaths:
 * @locked: domain that the caller has locked, or NULL; it is unlocked meanwhile, since no
 *          domain is locked while another one is
 *
 * Returns the paths of ferryDefinitionsAddDomain() of all domains.
 */
GPtrArray *
ferryDefinitionsPaths(virQEMUDriver *driver,
                      virDomainObj *locked)
{
    g_autoptr(GPtrArray) paths = g_ptr_array_new_with_free_func(g_free);
    virDomainObj **vms = NULL;
    size_t nvms = 0;
    size_t i;

    if (locked)
        virObjectUnlock(locked);

    virDomainObjListCollectAll(driver->domains, &vms, &nvms);

    for (i = 0; i < nvms; i++) {
        VIR_WITH_OBJECT_LOCK_GUARD(vms[i]) {
            ferryDefinitionsAddDomain(paths, vms[i]);
        }
    }

    virObjectListFreeCount(vms, nvms);

    if (locked)
        virObjectLock(locked);

    return g_steal_pointer(&paths);
}


typedef struct {
    char *path;
    GPtrArray *paths;
    bool found;
} ferryDefinitionsSearch;


static void
ferryDefinitionsSearchFree(void *opaque)
{
    ferryDefinitionsSearch *search = opaque;

    g_free(search->path);
    g_ptr_array_unref(search->paths);
    g_free(search);
}


static void
ferryDefinitionsSearchRun(void *opaque)
{
    ferryDefinitionsSearch *search = opaque;
    struct stat st;
    struct stat other;
    bool exists = stat(search->path, &st) == 0;
    size_t i;

    if (!exists && errno == ENOENT)
        return;

    for (i = 0; i < search->paths->len && !search->found; i++) {
        const char *name = g_ptr_array_index(search->paths, i);

        search->found = STREQ(search->path, name) ||
                        (exists && stat(name, &other) == 0 &&
                         other.st_dev == st.st_dev && other.st_ino == st.st_ino);
    }
}


/**
 * ferryDefinitionsName:
 * @locked: as for ferryDefinitionsPaths(); storage may be slow, too
 *
 * Returns whether an image of a disk in any definition, live or persistent, of any domain
 * is the file @path: by name or by device and inode. No, if there is no such file. Elements
 * of chains that the definitions do not spell out are not seen. If the storage of any image
 * does not answer within FERRY_BOUNDED_STORAGE_MS, the file counts as named, and so stays.
 */
bool
ferryDefinitionsName(virQEMUDriver *driver,
                     const char *path,
                     virDomainObj *locked)
{
    ferryDefinitionsSearch *search = g_new0(ferryDefinitionsSearch, 1);
    bool found = true;

    search->path = g_strdup(path);
    search->paths = ferryDefinitionsPaths(driver, locked);

    if (ferryBoundedRunUnlocked(locked, /* place= */ NULL, ferryDefinitionsSearchRun, search,
                                ferryDefinitionsSearchFree, FERRY_BOUNDED_STORAGE_MS)) {
        found = search->found;
        ferryDefinitionsSearchFree(search);
    }

    return found;
}
