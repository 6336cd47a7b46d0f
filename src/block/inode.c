/*
 * inode.c: which file a name leads to, and which files a process has open
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "block/inode.h"
#include "virfile.h"


bool
ferryInodeIsSame(const ferryInode *a,
                 const ferryInode *b)
{
    return a->dev == b->dev && a->ino == b->ino;
}


bool
ferryInodeIsHeld(GArray *held,
                 const ferryInode *file)
{
    size_t i;

    for (i = 0; i < held->len; i++) {
        if (ferryInodeIsSame(&g_array_index(held, ferryInode, i), file))
            return true;
    }

    return false;
}


/* Identifies the file @name in folder @dir. A server is not asked: what the kernel has
 * of an open file or a name that was just looked up is enough. Returns 0 or an error. */
static int
ferryInodeIdentify(int dir,
                   const char *name,
                   int flags,
                   ferryInode *file)
{
    struct statx stx;

    *file = (ferryInode) { 0 };

    if (statx(dir, name, flags | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_INO, &stx) < 0)
        return errno;

    if (S_ISBLK(stx.stx_mode)) {
        file->dev = makedev(stx.stx_rdev_major, stx.stx_rdev_minor);
    } else {
        file->dev = makedev(stx.stx_dev_major, stx.stx_dev_minor);
        file->ino = stx.stx_ino;
    }

    return 0;
}


/**
 * ferryInodeAt:
 *
 * Finds out which file @path leads to, as the driver sees it. Returns 0, or the error number.
 * May wait for storage.
 */
int
ferryInodeAt(const char *path,
             ferryInode *file)
{
    return ferryInodeIdentify(AT_FDCWD, path, /* flags= */ 0, file);
}


/**
 * ferryInodeListHeld:
 *
 * Returns what process @pid has open (array of ferryInode), or NULL if that cannot be found
 * out. Asks no storage.
 */
GArray *
ferryInodeListHeld(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%lld/fd", (long long) pid);
    g_autoptr(GArray) held = g_array_new(/* zero_terminated= */ FALSE, /* clear= */ FALSE,
                                         sizeof(ferryInode));
    g_autoptr(DIR) dir = opendir(path);
    struct dirent *entry;

    while (dir && (entry = readdir(dir))) {
        ferryInode file;

        /* a descriptor may be closed while we look */
        if (g_ascii_isdigit(entry->d_name[0]) &&
            ferryInodeIdentify(dirfd(dir), entry->d_name, /* flags= */ 0, &file) == 0)
            g_array_append_val(held, file);
    }

    /* without the right to look, the folder is empty or its links lead nowhere */
    return held->len > 0 ? g_steal_pointer(&held) : NULL;
}


/* Finds what @path leads to as a process with root folder @root sees it. */
static int
ferryInodeResolve(int root,
                  const char *path,
                  ferryInode *file)
{
    struct open_how how = { .flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT };
    VIR_AUTOCLOSE fd = syscall(SYS_openat2, root, path, &how, sizeof(how));

    /* without openat2(), absolute symbolic links lead out of the namespace */
    if (fd < 0 && errno == ENOSYS)
        fd = openat(root, path + strspn(path, "/"), O_PATH | O_CLOEXEC);

    return fd < 0 ? errno : ferryInodeIdentify(fd, "", AT_EMPTY_PATH, file);
}


/**
 * ferryInodeLookUp:
 * @root: root folder of QEMU, which may have a mount namespace of its own
 *
 * Finds out which file @path leads to now. Returns 0, or the error number: ENOENT also if
 * the path leads QEMU and the driver to different files. May wait for storage.
 */
int
ferryInodeLookUp(int root,
                 const char *path,
                 ferryInode *file)
{
    VIR_AUTOCLOSE fd = -1;
    ferryInode here;
    int err;

    if ((err = ferryInodeResolve(root, path, file)) != 0)
        return err;

    if ((fd = open(path, O_PATH | O_CLOEXEC)) < 0)
        return errno;

    if ((err = ferryInodeIdentify(fd, "", AT_EMPTY_PATH, &here)) != 0)
        return err;

    return ferryInodeIsSame(&here, file) ? 0 : ENOENT;
}
