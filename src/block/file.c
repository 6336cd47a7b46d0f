/*
 * file.c: files by descriptor and inode, not by name
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Theory of operation
 *
 * QEMU's user can often write to the folder of an image. Whoever takes over QEMU can then
 * replace the image by a link or a FIFO at any moment. Two clients may also name the same
 * new path. So a name only tells where to look. Everything is done to an open descriptor,
 * and a file is removed or emptied only if it is the same inode as before.
 *
 * A new file must be in the journal before it has its name, or a driver that dies between
 * the two could not tell its own file from one that somebody else made. Therefore a file
 * is created without a name (O_TMPFILE, ferryFileCreate()), its inode goes into the
 * journal, and then the file gets its name (ferryFileLink()), which fails if the name is
 * taken. If the driver dies in between, the kernel drops the nameless file.
 *
 * Some file systems, NFS for example, have no nameless files. There the file gets its name
 * at once (O_EXCL, ferryFileCreateNamed()), and the caller writes the journal right after
 * that. If the driver dies between the two, an empty file stays.
 *
 * An inode number may be used again as soon as its file is removed, so the time of birth
 * is compared, too. The number of a device may change when the host boots, so it counts
 * only on file systems that do not know the time of birth.
 */

#include <config.h>

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "block/file.h"
#include "virfile.h"
#include "virlog.h"
#include "virprocess.h"
#include "virutil.h"

VIR_LOG_INIT("ferry.file");

#define FERRY_FILE_FLAGS (O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)

/* The bytes of an image that every QEMU locks which has it open, and the tools that write to it. */
#define FERRY_FILE_LOCKS_FROM 100
#define FERRY_FILE_LOCKS_LENGTH 200


/**
 * ferryFileNew:
 *
 * Returns a record of a file that does not exist yet.
 */
ferryFile *
ferryFileNew(void)
{
    ferryFile *file = g_new0(ferryFile, 1);

    file->fd = -1;
    return file;
}


/**
 * ferryFileFree:
 *
 * Frees the record. The file stays if it has a name.
 */
void
ferryFileFree(ferryFile *file)
{
    if (!file)
        return;

    VIR_FORCE_CLOSE(file->fd);
    g_free(file);
}


static void
ferryFileFill(ferryFile *file,
              const struct statx *st)
{
    file->dev = makedev(st->stx_dev_major, st->stx_dev_minor);
    file->ino = st->stx_ino;
    file->born = 0;
    if (st->stx_mask & STATX_BTIME)
        file->born = st->stx_btime.tv_sec * 1000000000ULL + st->stx_btime.tv_nsec;
}


/**
 * ferryFileLearn:
 * @fd: any descriptor, also one opened with O_PATH
 *
 * Records which file @fd is. Returns 0, or -1 with errno set.
 */
int
ferryFileLearn(ferryFile *file,
               int fd)
{
    struct statx st;

    if (statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &st) < 0)
        return -1;

    ferryFileFill(file, &st);
    return 0;
}


static bool
ferryFileIs(const ferryFile *file,
            const struct statx *st)
{
    ferryFile found;

    ferryFileFill(&found, st);

    if (file->ino == 0 || file->ino != found.ino)
        return false;

    return file->born && found.born ? file->born == found.born : file->dev == found.dev;
}


/**
 * ferryFileIsOpen:
 *
 * Returns whether descriptor @fd is @file.
 */
bool
ferryFileIsOpen(const ferryFile *file,
                int fd)
{
    struct statx st;

    return statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &st) == 0 &&
           ferryFileIs(file, &st);
}


/**
 * ferryFileIsAt:
 *
 * Returns whether @path leads to @file, through symbolic links, too. If not, errno is 0, or
 * says why nobody knows.
 */
bool
ferryFileIsAt(const ferryFile *file,
              const char *path)
{
    struct statx st;

    errno = 0;
    return statx(AT_FDCWD, path, 0, STATX_BASIC_STATS | STATX_BTIME, &st) == 0 &&
           ferryFileIs(file, &st);
}


static bool
ferryFileHasLocks(int fd)
{
    struct flock lock = {
        .l_type = F_WRLCK,
        .l_whence = SEEK_SET,
        .l_start = FERRY_FILE_LOCKS_FROM,
        .l_len = FERRY_FILE_LOCKS_LENGTH,
    };

    return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}


/**
 * ferryFileIsLocked:
 *
 * Returns whether a QEMU has the file at @path open as an image: also one on another host, if the file system
 * tells locks there. Whoever removes an image looks here last, since no definition tells of other hosts.
 * Links are followed. If nobody knows, no.
 */
bool
ferryFileIsLocked(const char *path)
{
    VIR_AUTOCLOSE fd = ferryFileOpen(path, O_RDONLY);

    return fd >= 0 && ferryFileHasLocks(fd);
}


/**
 * ferryFileFormat:
 *
 * Adds to @attrs, for the journal, which file @file is; nothing if that is not known.
 */
void
ferryFileFormat(virBuffer *attrs,
                const ferryFile *file)
{
    if (file && file->ino)
        virBufferAsprintf(attrs, " dev='%llu' ino='%llu' born='%llu'",
                          file->dev, file->ino, file->born);
}


/**
 * ferryFileParse:
 * @file: set to a new record; stays NULL if @node does not say which file it was
 *
 * Reads what ferryFileFormat() wrote. Returns 0, or -1 with an error reported.
 */
int
ferryFileParse(xmlNodePtr node,
               ferryFile **file)
{
    g_autoptr(ferryFile) found = ferryFileNew();

    if (virXMLPropULongLong(node, "dev", 10, VIR_XML_PROP_NONE, &found->dev) < 0 ||
        virXMLPropULongLong(node, "ino", 10, VIR_XML_PROP_NONE, &found->ino) < 0 ||
        virXMLPropULongLong(node, "born", 10, VIR_XML_PROP_NONE, &found->born) < 0)
        return -1;

    if (found->ino)
        *file = g_steal_pointer(&found);
    return 0;
}


/**
 * ferryFileOpen:
 * @flags: as for open(); with O_NOFOLLOW a symbolic link is refused
 *
 * Opens a regular file or block device without waiting for anything. Whatever else is at
 * @path is not opened at all: a FIFO would wait, and a device could act on being opened.
 * Returns the descriptor, or -1 with errno set.
 */
int
ferryFileOpen(const char *path,
              int flags)
{
    VIR_AUTOCLOSE fd = open(path, O_PATH | O_CLOEXEC | (flags & O_NOFOLLOW));
    g_autofree char *self = g_strdup_printf("/proc/self/fd/%d", fd);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        return -1;

    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
        errno = S_ISLNK(st.st_mode) ? ELOOP : EINVAL;
        return -1;
    }

    return open(self, (flags & ~O_NOFOLLOW) | O_NONBLOCK | O_CLOEXEC);
}


/**
 * ferryFileIsPinned:
 *
 * Returns whether @fd is what @path leads to without any symbolic link, and has no other
 * name: nobody has brought in a file that he may not read himself.
 */
bool
ferryFileIsPinned(int fd,
                  const char *path)
{
    struct open_how how = { .flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_NO_SYMLINKS };
    VIR_AUTOCLOSE there = syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));
    g_autoptr(ferryFile) file = ferryFileNew();
    struct stat st;

    return there >= 0 && fstat(there, &st) == 0 && S_ISREG(st.st_mode) && st.st_nlink == 1 &&
           ferryFileLearn(file, there) == 0 && ferryFileIsOpen(file, fd);
}


/* Returns whether open() failed because the file system has no nameless files. */
static bool
ferryFileNeedsName(int err)
{
    return err == EOPNOTSUPP || err == EISDIR || err == EINVAL;
}


/**
 * ferryFileCreate:
 * @path: where the file is going to be
 * @uid, @gid: the user who creates it if root may not (NFS)
 *
 * Creates an empty file without a name, for ferryFileLink(). On a file system without
 * nameless files nothing is created: file->fd stays -1, and ferryFileCreateNamed() is to
 * be used. Returns 0, or -1 with errno set.
 */
int
ferryFileCreate(ferryFile *file,
                const char *path,
                uid_t uid,
                gid_t gid)
{
    g_autofree char *dir = g_path_get_dirname(path);
    int fd = virFileOpenAs(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600, uid, gid, /* flags= */ 0);

    if (fd < 0) {
        errno = -fd;
        return ferryFileNeedsName(errno) ? 0 : -1;
    }

    file->fd = fd;
    ignore_value(virSetCloseExec(fd));
    return ferryFileLearn(file, fd);
}


/**
 * ferryFileLink:
 *
 * Gives the file of ferryFileCreate() its name and closes the descriptor. Returns 0, or
 * -1 with errno set: EEXIST if there is something at @path, be it a dangling link.
 */
int
ferryFileLink(ferryFile *file,
              const char *path)
{
    g_autofree char *self = g_strdup_printf("/proc/self/fd/%d", file->fd);

    if (linkat(AT_FDCWD, self, AT_FDCWD, path, AT_SYMLINK_FOLLOW) < 0)
        return -1;

    VIR_FORCE_CLOSE(file->fd);
    return 0;
}


/**
 * ferryFileCreateNamed:
 *
 * Creates an empty file at @path where there must be nothing. Leaves file->fd open.
 * Returns 0, or -1 with errno set: EEXIST as for ferryFileLink().
 */
int
ferryFileCreateNamed(ferryFile *file,
                     const char *path,
                     uid_t uid,
                     gid_t gid)
{
    int fd = virFileOpenAs(path, O_RDWR | O_CREAT | O_EXCL | FERRY_FILE_FLAGS, 0600, uid, gid,
                           /* flags= */ 0);

    if (fd < 0) {
        errno = -fd;
        return -1;
    }

    file->fd = fd;
    ignore_value(virSetCloseExec(fd));
    return ferryFileLearn(file, fd);
}


/**
 * ferryFileRename:
 *
 * Renames @from to @to, where there must be nothing. Returns 0, or -1 with errno set.
 */
int
ferryFileRename(const char *from,
                const char *to)
{
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
        return 0;

    /* file systems without RENAME_NOREPLACE have hard links */
    if ((errno != EINVAL && errno != ENOSYS) || link(from, to) < 0)
        return -1;

    return unlink(from);
}


typedef struct {
    const ferryFile *file;
    const char *path;
    uid_t uid;
    gid_t gid;
    gid_t *groups;
    int ngroups;
} ferryFileRemoval;


/* Returns 0, or an errno value: ENOENT if @file is not at @path, EBUSY if it is locked. */
static int
ferryFileUnlink(const ferryFile *file,
                const char *path)
{
    g_autofree char *folder = g_path_get_dirname(path);
    VIR_AUTOCLOSE dir = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    g_autofree char *name = g_path_get_basename(path);
    VIR_AUTOCLOSE fd = -1;
    struct statx st;

    if (dir < 0 ||
        statx(dir, name, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS | STATX_BTIME, &st) < 0)
        return errno;

    if (!ferryFileIs(file, &st))
        return ENOENT;

    if (S_ISREG(st.stx_mode) &&
        (fd = openat(dir, name, O_RDONLY | FERRY_FILE_FLAGS)) >= 0 &&
        ferryFileIsOpen(file, fd) && ferryFileHasLocks(fd))
        return EBUSY;

    return unlinkat(dir, name, /* flags= */ 0) < 0 ? errno : 0;
}


static int
ferryFileUnlinkAs(pid_t parent G_GNUC_UNUSED,
                  void *opaque)
{
    ferryFileRemoval *removal = opaque;

    if (virSetUIDGID(removal->uid, removal->gid, removal->groups, removal->ngroups) < 0)
        return EPERM;

    return ferryFileUnlink(removal->file, removal->path);
}


/**
 * ferryFileRemove:
 * @uid, @gid: the user who removes the file if root may not (NFS); -1: nobody else
 *
 * Removes @path if it is @file itself, not a link to it. Returns 1; 0 when something else
 * or nothing is at @path; or -1 with a warning in the log.
 */
int
ferryFileRemove(const ferryFile *file,
                const char *path,
                uid_t uid,
                gid_t gid)
{
    g_autofree gid_t *groups = NULL;
    ferryFileRemoval removal = { .file = file, .path = path, .uid = uid, .gid = gid };
    int err = ferryFileUnlink(file, path);

    if ((err == EACCES || err == EPERM) && geteuid() == 0 && uid != (uid_t) -1 && uid != 0 &&
        (removal.ngroups = virGetGroupList(uid, gid, &groups)) >= 0) {
        removal.groups = groups;
        err = virProcessRunInFork(ferryFileUnlinkAs, &removal);
        virResetLastError();
        if (err < 0)
            err = EACCES;
    }

    if (err == 0)
        return 1;

    if (err == ENOENT || err == ENOTDIR)
        return 0;

    if (err == EBUSY)
        VIR_WARN("'%s' is not removed: a process has it open as an image, here or on another host", path);
    else
        VIR_WARN("cannot remove '%s': %s", path, g_strerror(err));
    return -1;
}


/**
 * ferryFileEmpty:
 * @uid, @gid: as for ferryFileRemove()
 *
 * Truncates @path if it is @file, a regular file without a second name. Returns 1; 0 when
 * something else or nothing is at @path; or -1 with errno set.
 */
int
ferryFileEmpty(const ferryFile *file,
               const char *path,
               uid_t uid,
               gid_t gid)
{
    VIR_AUTOCLOSE fd = virFileOpenAs(path, O_WRONLY | FERRY_FILE_FLAGS, 0, uid, gid,
                                     /* flags= */ 0);
    struct statx st;

    if (fd < 0) {
        errno = -fd;
        /* a FIFO that nobody reads is ENXIO */
        if (errno == ENOENT || errno == ENOTDIR || errno == ELOOP || errno == ENXIO || errno == EISDIR)
            return 0;
        return -1;
    }

    if (statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &st) < 0)
        return -1;

    if (!ferryFileIs(file, &st) || !S_ISREG(st.stx_mode) || st.stx_nlink != 1)
        return 0;

    if (ferryFileHasLocks(fd)) {
        errno = EBUSY;
        return -1;
    }

    return ftruncate(fd, 0) < 0 ? -1 : 1;
}
