/*
 * faults_files.c: the calls of the library of faults that concern files: see faults.c
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <unistd.h>

#include "faults.h"

/* Longer than FERRY_BOUNDED_STORAGE_MS. */
#define FAULT_HANG_US (7 * G_USEC_PER_SEC)

/* The journal that is being written. */
static struct {
    int fd;
    char *fault;
} journal = { .fd = -1 };


/* The journal */

static bool
faultIsJournal(const char *path,
               const char *suffix)
{
    g_autofree char *dir = path ? g_path_get_dirname(path) : NULL;

    return dir && g_str_has_suffix(dir, "/ferry") && g_str_has_suffix(path, suffix);
}


static char *
faultPath(int fd)
{
    g_autofree char *link = g_strdup_printf("/proc/self/fd/%d", fd);

    return g_file_read_link(link, NULL);
}


/* Files that are saved by steps, and what is done to names */

static bool
faultIsSaveFolder(const char *dir)
{
    g_autofree char *parent = dir ? g_path_get_dirname(dir) : NULL;

    return dir && (g_str_has_suffix(dir, "/etc/qemu") || g_str_has_suffix(dir, "/etc/libvirt/qemu") ||
                   g_str_has_suffix(parent, "/qemu/checkpoint"));
}


/* A file of a configuration or of a checkpoint is about to be changed by the call that
 * @what stands for. Does the call fail? */
static bool
faultSave(const char *path,
          bool folder,
          const char *what)
{
    g_autofree char *dir = path && !folder ? g_path_get_dirname(path) : g_strdup(path);

    if (!current.op || !faultIsSaveFolder(dir))
        return false;

    current.saved = true;
    if (STRNEQ_NULLABLE(current.save, what))
        return false;

    faultLog("fault %s", what);
    g_clear_pointer(&current.save, g_free);
    return true;
}


/* Is @path in the folder of images, and not a file of this library? */
static bool
faultIsImage(const char *path)
{
    const char *images = g_getenv("FERRY_FAULT_IMAGES");
    g_autofree char *dir = path && images ? g_path_get_dirname(path) : NULL;

    return dir && STREQ(dir, images) && !STRPREFIX(path, g_getenv("FERRY_FAULT_FILE"));
}


/* A file in the folder of images is about to be worked on by a call that @what would make
 * fail. Does it fail? */
static bool
faultImage(const char *path,
           const char *what)
{
    if (!current.op || (!faultIsImage(path) && STRNEQ_NULLABLE(path, g_getenv("FERRY_FAULT_IMAGES"))))
        return false;

    if (!strstr(current.images->str, what))
        g_string_append_printf(current.images, " %s", what);
    if (STREQ_NULLABLE(current.image, "image-hang")) {
        g_clear_pointer(&current.image, g_free);
        faultLog("fault image-hang at '%s'", path);
        g_usleep(FAULT_HANG_US);
    }
    if (STRNEQ_NULLABLE(current.image, what))
        return false;

    faultLog("fault %s", what);
    return true;
}


/* Storage that has stopped to answer shows that already when a file is looked at. */
static void
faultLook(const char *path)
{
    ignore_value(faultImage(path, "image-look"));
}


static bool
faultImageOpen(int fd,
               const char *what)
{
    g_autofree char *path = current.op ? faultPath(fd) : NULL;

    return path && faultImage(path, what);
}


static void
faultTrace(const char *what,
           const char *path)
{
    const char *trace = g_getenv("FERRY_FAULT_TRACE");
    FILE *f;

    if (!trace || !path || !(f = fopen(trace, "a")))
        return;

    fprintf(f, "%s %s\n", what, path);
    fclose(f);
}


/* Notes for a power loss: what was there before (lost), or that there was nothing (fresh). */
static char *
faultLostPath(const char *kind,
              const char *path)
{
    g_autofree char *dir = g_strdup_printf("%s.%s", g_getenv("FERRY_FAULT_FILE"), kind);
    g_autofree char *name = path ? g_uri_escape_string(path, NULL, FALSE) : g_strdup("");

    if (g_mkdir_with_parents(dir, 0700) < 0)
        abort();

    return g_build_filename(dir, name, NULL);
}


/* The name @path is about to change, in a step: a power loss may bring back the file that is
 * there now, until the folder is synced. */
static void
faultLose(const char *path)
{
    g_autofree char *folder = g_path_get_dirname(path);
    g_autofree char *lost = NULL;
    g_autofree char *fresh = NULL;

    if (!current.op || (!faultIsSaveFolder(folder) && !faultIsImage(path)))
        return;

    lost = faultLostPath("lost", path);
    fresh = faultLostPath("fresh", path);

    if (g_file_test(lost, G_FILE_TEST_EXISTS) || g_file_test(fresh, G_FILE_TEST_EXISTS) ||
        link(path, lost) == 0)
        return;

    if (errno != ENOENT || !g_file_set_contents(fresh, "", 0, NULL))
        abort();
}


/* The folder was synced: a power loss changes none of its names any more. */
static void
faultKeepNames(const char *folder)
{
    const char *kinds[] = { "lost", "fresh" };
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(kinds); i++) {
        g_autofree char *path = faultLostPath(kinds[i], NULL);
        g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
        const char *name;

        while (dir && (name = g_dir_read_name(dir))) {
            g_autofree char *file = g_uri_unescape_string(name, NULL);
            g_autofree char *of = g_path_get_dirname(file);
            g_autofree char *note = g_build_filename(path, name, NULL);

            if (STREQ(of, folder))
                remove(note);
        }
    }
}


/* Of what a host without power still has there is a copy. */
static void
faultKeep(const char *path)
{
    g_autofree char *dir = g_strdup_printf("%s.durable", g_getenv("FERRY_FAULT_FILE"));
    g_autofree char *name = g_path_get_basename(path);
    g_autofree char *copy = g_build_filename(dir, name, NULL);
    g_autofree char *text = NULL;
    gsize len;

    if (g_mkdir_with_parents(dir, 0700) < 0)
        abort();

    if (!g_file_get_contents(path, &text, &len, NULL))
        unlink(copy);
    else if (!g_file_set_contents(copy, text, len, NULL))
        abort();
}


/* The folder was synced: every name in it, old or gone, is what it is now. */
static void
faultKeepFolder(const char *path)
{
    g_autofree char *durable = g_strdup_printf("%s.durable", g_getenv("FERRY_FAULT_FILE"));
    const char *folders[] = { path, durable };
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(folders); i++) {
        g_autoptr(GDir) dir = g_dir_open(folders[i], 0, NULL);
        const char *name;

        while (dir && (name = g_dir_read_name(dir))) {
            g_autofree char *file = g_build_filename(path, name, NULL);

            if (g_str_has_suffix(name, ".xml"))
                faultKeep(file);
        }
    }
}


/* What is to happen to the journal that says @text, or NULL: it names the last
 * step that may have acted. */
static char *
faultJournal(const char *text)
{
    g_auto(GStrv) faults = faultRead();
    size_t i;

    for (i = 0; faults[i]; i++) {
        g_auto(GStrv) f = g_strsplit(faults[i], "/", 0);

        if (g_strv_length(f) == 3 && STREQ(f[0], "any"))
            return g_strdup(f[2]);

        if (g_strv_length(f) == 4 && STREQ(f[2], "journal")) {
            g_autofree char *plan = g_strdup_printf("<plan name='%s'", f[0]);
            g_autofree char *last = g_strdup_printf("last='%s'", f[1]);
            const char *entry = strstr(text, plan);
            const char *end = entry ? strchr(entry, '>') : NULL;

            if (end && g_strstr_len(entry, end - entry, last))
                return g_strdup(f[3]);
        }
    }

    return NULL;
}


/* The mark of the point of no return is set by few bytes: which step's that is,
 * the one that ran last tells. */
static char *
faultMark(void)
{
    const ferryStep *step = current.step ? current.step + 1 : NULL;
    g_auto(GStrv) faults = faultRead();

    /* which overwrites a block that the file has, so it does not matter that the disk is full */
    if (faults[0] && g_str_has_prefix(faults[0], "any/"))
        return STREQ(faults[0], "any/journal/enospc") ? NULL : faultJournal("");

    return step && step->name && step->durable && !step->undo ?
               faultFind(current.plan, step, "journal") :
               NULL;
}


/* Does the fault that was found for the journal happen in this call? */
static bool
faultStrikes(const char *what)
{
    if (STRNEQ_NULLABLE(journal.fault, what))
        return false;

    faultLog("fault %s", what);
    if (STRNEQ(what, "enospc"))
        g_clear_pointer(&journal.fault, g_free);
    return true;
}


/* No space is for good, until the test says otherwise; and then everything is. */
static void
faultFound(char *what)
{
    g_auto(GStrv) faults = faultRead();

    if (what || !faults[0] || !g_str_has_suffix(faults[0], "/enospc") ||
        STRNEQ_NULLABLE(journal.fault, "enospc")) {
        g_free(journal.fault);
        journal.fault = what;
    }
}


int
open64(const char *path,
       int flags,
       ...)
{
    FAULT_REAL(open64);
    va_list ap;
    mode_t mode;
    int fd;

    va_start(ap, flags);
    mode = va_arg(ap, mode_t);
    va_end(ap);

    if (((flags & O_CREAT) && faultSave(path, false, "unsaved-erofs")) ||
        ((flags & (O_CREAT | O_TMPFILE) & ~O_DIRECTORY) && faultImage(path, "image-erofs"))) {
        errno = EROFS;
        return -1;
    }

    faultLook(path);
    fd = real(path, flags, mode);
    if (fd >= 0 && faultIsJournal(path, ".xml.new"))
        journal.fd = fd;
    return fd;
}


/* What _FORTIFY_SOURCE makes of an open() without a mode. */
int __open64_2(const char *path, int flags);
int
__open64_2(const char *path,
           int flags)
{
    FAULT_REAL(__open64_2);

    faultLook(path);
    return real(path, flags);
}


int
access(const char *path,
       int mode)
{
    FAULT_REAL(access);

    faultLook(path);
    return real(path, mode);
}


int
stat64(const char *path,
       struct stat64 *st)
{
    FAULT_REAL(stat64);

    faultLook(path);
    return real(path, st);
}


int
lstat64(const char *path,
        struct stat64 *st)
{
    FAULT_REAL(lstat64);

    faultLook(path);
    return real(path, st);
}


int
statx(int dir,
      const char *path,
      int flags,
      unsigned int mask,
      struct statx *found)
{
    FAULT_REAL(statx);

    faultLook(path);
    return real(dir, path, flags, mask, found);
}


ssize_t
write(int fd,
      const void *buf,
      size_t len)
{
    FAULT_REAL(write);
    g_autofree char *what = NULL;
    ssize_t rc;

    if (fd == journal.fd) {
        g_autofree char *path = faultPath(fd);
        g_autofree char *text = g_strndup(buf, len);

        if (faultIsJournal(path, ".xml.new"))
            faultFound(faultJournal(text));
        if (faultIsJournal(path, ".xml.new") && faultStrikes("enospc")) {
            errno = ENOSPC;
            return -1;
        }
        if (faultIsJournal(path, ".xml.new") && faultStrikes("kill-driver")) {
            ignore_value(real(fd, buf, len / 2));
            kill(getpid(), SIGKILL);
        }
    }

    if (STREQ_NULLABLE(current.save, "unsaved-enospc")) {
        g_autofree char *path = faultPath(fd);

        if (faultSave(path, false, "unsaved-enospc")) {
            errno = ENOSPC;
            return -1;
        }
    }

    if (faultImageOpen(fd, "image-enospc")) {
        errno = ENOSPC;
        return -1;
    }

    what = faultCommand(fd);
    if (STREQ_NULLABLE(what, "error")) {
        g_autofree char *refused = faultRefused(buf, len);

        faultLog("fault error instead of %.*s", (int) len, (const char *) buf);
        if (real(fd, refused, strlen(refused)) != (ssize_t) strlen(refused))
            abort();
        return len;
    }

    rc = real(fd, buf, len);
    if (what)
        faultAnswered(fd, what);
    return rc;
}


ssize_t
sendmsg(int fd,
        const struct msghdr *msg,
        int flags)
{
    FAULT_REAL(sendmsg);
    g_autofree char *what = faultCommand(fd);
    ssize_t rc;

    if (STREQ_NULLABLE(what, "error")) {
        g_autofree char *refused = faultRefused(msg->msg_iov[0].iov_base, msg->msg_iov[0].iov_len);

        faultLog("fault error instead of a command with a descriptor");
        if (send(fd, refused, strlen(refused), 0) != (ssize_t) strlen(refused))
            abort();
        return msg->msg_iov[0].iov_len;
    }

    rc = real(fd, msg, flags);
    if (what)
        faultAnswered(fd, what);
    return rc;
}


ssize_t
pwrite64(int fd,
         const void *buf,
         size_t len,
         off64_t offset)
{
    FAULT_REAL(pwrite64);
    g_autofree char *path = faultPath(fd);

    if (faultIsJournal(path, ".xml")) {
        g_autofree char *mark = faultMark();

        faultFound(g_strdup(mark));
        if (mark && faultStrikes("enospc")) {
            errno = ENOSPC;
            return -1;
        }
        if (faultStrikes("kill-driver"))
            kill(getpid(), SIGKILL);
    }

    return real(fd, buf, len, offset);
}


int
fdatasync(int fd)
{
    FAULT_REAL(fdatasync);
    g_autofree char *path = faultPath(fd);
    int rc;

    if ((faultIsJournal(path, ".xml") && faultStrikes("eio")) || faultImage(path, "image-eio")) {
        errno = EIO;
        return -1;
    }

    rc = real(fd);
    if (rc == 0 && faultIsJournal(path, ".xml")) {
        faultTrace("commit", path);
        faultKeep(path);
    }
    return rc;
}


int
fsync(int fd)
{
    FAULT_REAL(fsync);
    g_autofree char *path = faultPath(fd);
    bool folder = path && g_str_has_suffix(path, "/ferry");
    int rc;

    if ((faultIsJournal(path, ".xml.new") && faultStrikes("eio")) ||
        (folder && faultStrikes("eio-folder")) || faultImage(path, "image-eio") ||
        (g_file_test(path, G_FILE_TEST_IS_DIR) && faultSave(path, true, "unsaved-folder"))) {
        errno = EIO;
        return -1;
    }

    rc = real(fd);
    if (rc == 0 && path && g_file_test(path, G_FILE_TEST_IS_DIR)) {
        faultTrace("sync", path);
        faultKeepNames(path);
    }
    if (rc == 0 && folder)
        faultKeepFolder(path);
    if (folder && faultIsRecorded())
        faultLog("synced");
    return rc;
}


int
rename(const char *from,
       const char *to)
{
    FAULT_REAL(rename);

    if ((faultIsJournal(from, ".xml.new") && faultStrikes("eio")) ||
        faultSave(from, false, "unsaved-eio")) {
        errno = EIO;
        return -1;
    }

    faultTrace("rename", to);
    faultLose(to);
    return real(from, to);
}


int
unlink(const char *path)
{
    FAULT_REAL(unlink);

    if (g_file_test(path, G_FILE_TEST_EXISTS)) {
        if (faultIsJournal(path, ".xml"))
            faultRemoval();
        if (faultSave(path, false, "unsaved-erofs")) {
            errno = EROFS;
            return -1;
        }
        faultTrace("unlink", path);
        faultLose(path);
    }

    return real(path);
}


/* Names of images */

/* The file at @path is about to be made, replaced or removed. Does that fail? */
static bool
faultName(const char *path)
{
    if (faultImage(path, "image-erofs")) {
        errno = EROFS;
        return true;
    }

    faultLose(path);
    return false;
}


int
linkat(int from_dir,
       const char *from,
       int to_dir,
       const char *to,
       int flags)
{
    FAULT_REAL(linkat);

    return faultName(to) ? -1 : real(from_dir, from, to_dir, to, flags);
}


int
renameat2(int from_dir,
          const char *from,
          int to_dir,
          const char *to,
          unsigned int flags)
{
    FAULT_REAL(renameat2);

    return faultName(to) ? -1 : real(from_dir, from, to_dir, to, flags);
}


int
unlinkat(int dir,
         const char *name,
         int flags)
{
    FAULT_REAL(unlinkat);
    g_autofree char *folder = faultPath(dir);
    g_autofree char *path = folder ? g_build_filename(folder, name, NULL) : g_strdup(name);

    return faultName(path) ? -1 : real(dir, name, flags);
}


int
ftruncate64(int fd,
            off64_t size)
{
    FAULT_REAL(ftruncate64);

    if (faultImageOpen(fd, "image-enospc")) {
        errno = ENOSPC;
        return -1;
    }

    return real(fd, size);
}
