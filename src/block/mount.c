/*
 * mount.c: which file system a name is on
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include <mntent.h>

#include "block/mount.h"
#include "internal.h"

#define FERRY_MOUNT_TABLE "/proc/self/mounts"
#define FERRY_MOUNT_LINE_MAX 16384


/**
 * ferryMountOf:
 *
 * Returns the folder of the innermost mount that @path is below, by name: no file system is
 * asked, since it may hang. So symbolic links are not followed. Returns @path itself if it is
 * no absolute path or the mounts cannot be read. The caller frees it.
 */
char *
ferryMountOf(const char *path)
{
    FILE *table = g_path_is_absolute(path) ? setmntent(FERRY_MOUNT_TABLE, "re") : NULL;
    g_autofree char *line = g_new(char, FERRY_MOUNT_LINE_MAX);
    g_autofree char *found = NULL;
    struct mntent entry;
    size_t longest = 0;

    while (table && getmntent_r(table, &entry, line, FERRY_MOUNT_LINE_MAX)) {
        const char *below = STRSKIP(path, entry.mnt_dir);
        size_t len = strlen(entry.mnt_dir);

        if (len > longest && below && (len == 1 || *below == '/' || *below == 0)) {
            g_free(found);
            found = g_strdup(entry.mnt_dir);
            longest = len;
        }
    }

    if (table)
        endmntent(table);

    return found ? g_steal_pointer(&found) : g_strdup(path);
}
