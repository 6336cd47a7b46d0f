/*
 * durable.c: folders on the disk: names that survive a crash of the host
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * fsync() of a file writes its content, not its name. A file that was created, renamed or
 * removed is so after a power loss only if its folder was synced, too. Whoever relies on a
 * name (a journal that is removed because the configuration is saved, say) calls one of
 * these functions before.
 */

#include <config.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/durable.h"
#include "block/source.h"
#include "virerror.h"
#include "virfile.h"

#define VIR_FROM_THIS VIR_FROM_QEMU


/**
 * ferryDurableFolder:
 *
 * Writes the names in folder @dir to the disk. Slow storage can make this take long, so
 * for the folders of images it is called without the lock of a domain.
 *
 * Returns 0, or -1 with an error reported.
 */
int
ferryDurableFolder(const char *dir)
{
    VIR_AUTOCLOSE fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    /* EACCES: root may not list the folder on a server that takes root for nobody; such a
     * server keeps the names itself. EINVAL: the file system cannot sync folders. */
    if ((fd < 0 && errno != EACCES) || (fd >= 0 && g_fsync(fd) < 0 && errno != EINVAL)) {
        virReportSystemError(errno, _("cannot write folder '%1$s' to disk"), dir);
        return -1;
    }

    return 0;
}


/**
 * ferryDurableMkdir:
 * @mode: of the folders that are created
 *
 * Creates folder @dir and the folders above it if missing, and writes the names of the
 * new ones to the disk. Returns 0, or -1 with an error reported.
 */
int
ferryDurableMkdir(const char *dir,
                  mode_t mode)
{
    g_autofree char *parent = NULL;

    if (virFileIsDir(dir))
        return 0;

    parent = g_path_get_dirname(dir);

    if (STRNEQ(parent, dir) && ferryDurableMkdir(parent, mode) < 0)
        return -1;

    if (mkdir(dir, mode) < 0 && errno != EEXIST) {
        virReportSystemError(errno, _("cannot create folder '%1$s'"), dir);
        return -1;
    }

    return ferryDurableFolder(parent);
}


/**
 * ferryDurableImage:
 *
 * Writes the name of the image @src to the disk, if it is a file. Called without the lock
 * of a domain. Returns 0, or -1 with an error reported.
 */
int
ferryDurableImage(virStorageSource *src)
{
    g_autofree char *dir = NULL;

    if (!ferrySourceIsFile(src))
        return 0;

    dir = g_path_get_dirname(src->path);
    return ferryDurableFolder(dir);
}
