/*
 * alias.c: names that lead to the same file
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * An image that a domain uses may have other names: through a symbolic or a hard link, a bind
 * mount, a second device node. A client that names it as a target by one of these would have the
 * guest's own image labelled for the target, and lose the guest's rights when QEMU's image lock
 * refuses the target later. So names are compared by the files that they lead to, before
 * anything is changed: with each other, and with what QEMU has open.
 *
 * Storage is asked ahead, without the domain's lock and job. What QEMU has open needs no storage.
 */

#include <config.h>

#include "block/alias.h"
#include "block/bounded.h"
#include "block/inode.h"

/* What a path leads to. */
typedef struct {
    char *path;
    char *name;      /* if nothing is there yet: the last part of the path ... */
    ferryInode file; /* ... and its folder; else the file */
    bool known;
} ferryAlias;


static void
ferryAliasFree(void *opaque)
{
    ferryAlias *alias = opaque;

    g_free(alias->path);
    g_free(alias->name);
    g_free(alias);
}


static void
ferryAliasRun(void *opaque)
{
    ferryAlias *alias = opaque;
    g_autofree char *folder = NULL;
    int err = ferryInodeAt(alias->path, &alias->file);

    if (err == ENOENT) {
        folder = g_path_get_dirname(alias->path);
        alias->name = g_path_get_basename(alias->path);
        err = ferryInodeAt(folder, &alias->file);
    }

    alias->known = err == 0;
}


/**
 * ferryAliasAsk:
 * @vm: domain, locked, whose lock is released meanwhile
 * @paths: ends with NULL; the files need not exist
 *
 * Finds out what the @paths lead to, for the other functions. Takes a bounded time.
 *
 * Returns an array, or NULL with an error reported if storage does not answer.
 */
GPtrArray *
ferryAliasAsk(virDomainObj *vm,
              const char *const *paths)
{
    g_autoptr(GPtrArray) aliases = g_ptr_array_new_with_free_func(ferryAliasFree);
    g_auto(GStrv) copies = g_strdupv((char **) paths); /* some may be the domain's */
    size_t i;

    if (ferryBoundedAnswers(vm, paths) < 0)
        return NULL;

    for (i = 0; copies[i]; i++) {
        ferryAlias *alias = g_new0(ferryAlias, 1);

        alias->path = g_strdup(copies[i]);

        /* storage that has fallen silent since is noticed by who comes next */
        if (ferryBoundedRunUnlocked(vm, alias->path, ferryAliasRun, alias, ferryAliasFree,
                                    FERRY_BOUNDED_STORAGE_MS))
            g_ptr_array_add(aliases, alias);
    }

    return g_steal_pointer(&aliases);
}


static const ferryAlias *
ferryAliasFind(GPtrArray *aliases,
               const char *path)
{
    size_t i;

    for (i = 0; i < aliases->len; i++) {
        const ferryAlias *alias = g_ptr_array_index(aliases, i);

        if (alias->known && STREQ_NULLABLE(alias->path, path))
            return alias;
    }

    return NULL;
}


/**
 * ferryAliasIsOpen:
 *
 * Returns whether @path led to a file that QEMU has open now, under whatever name. Domain
 * locked. Asks no storage.
 */
bool
ferryAliasIsOpen(GPtrArray *aliases,
                 const char *path,
                 virDomainObj *vm)
{
    const ferryAlias *alias = ferryAliasFind(aliases, path);
    g_autoptr(GArray) held = NULL;

    if (!alias || alias->name || vm->pid <= 0)
        return false;

    held = ferryInodeListHeld(vm->pid);
    return held && ferryInodeIsHeld(held, &alias->file);
}


/**
 * ferryAliasIsKnown:
 *
 * Returns whether the storage has said what @path leads to, also if that is nothing yet.
 */
bool
ferryAliasIsKnown(GPtrArray *aliases,
                  const char *path)
{
    return !!ferryAliasFind(aliases, path);
}


/**
 * ferryAliasIsSame:
 *
 * Returns whether @a and @b are known to lead to the same file, which need not exist.
 */
bool
ferryAliasIsSame(GPtrArray *aliases,
                 const char *a,
                 const char *b)
{
    const ferryAlias *one = ferryAliasFind(aliases, a);
    const ferryAlias *other = ferryAliasFind(aliases, b);

    return one && other && ferryInodeIsSame(&one->file, &other->file) &&
           STREQ_NULLABLE(one->name, other->name);
}
