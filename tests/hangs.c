/*
 * hangs.c: storage and a name server that do not answer
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Preloaded into a process that runs the driver. A call that looks at a file, or resolves a
 * name, waits as long as the file that FERRY_HANG_FILE names exists and its content is a
 * part of the function's name, a space, and the path or the name. If it begins with "there ", the
 * rest is such a part, and only calls about files that are there wait. QEMU is not affected.
 */

/* The functions have the same names and layouts then, and the declarations below fit. */
#undef _FILE_OFFSET_BITS
#define _GNU_SOURCE 1

#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HANG_POLL_US 20000


/* Returns whether calls of @func about @what have to wait. By system calls: our own functions
 * would ask again. */
static int
hangs(const char *func,
      const char *what)
{
    const char *control = getenv("FERRY_HANG_FILE");
    char call[PATH_MAX + 32];
    char part[PATH_MAX];
    long n;
    int fd;

    if (!what || !control ||
        (fd = syscall(SYS_openat, AT_FDCWD, control, O_RDONLY | O_CLOEXEC)) < 0)
        return 0;

    n = syscall(SYS_read, fd, part, sizeof(part) - 1);
    syscall(SYS_close, fd);
    if (n <= 0)
        return 0;
    part[n] = 0;

    snprintf(call, sizeof(call), "%s %s", func, what);
    if (strncmp(part, "there ", strlen("there ")) == 0)
        return strstr(call, part + strlen("there ")) &&
               syscall(SYS_faccessat, AT_FDCWD, what, F_OK) == 0;

    return strstr(call, part) != NULL;
}


static void
hang(const char *func,
     const char *what)
{
    while (hangs(func, what))
        usleep(HANG_POLL_US);
}


/* A function that is given a path and where to put what it finds. */
#define HANG_ON_PATH(name) \
    int name(const char *path, void *found); \
    int \
    name(const char *path, \
         void *found) \
    { \
        static int (*real)(const char *path, void *found); \
        if (!real) \
            real = (int (*)(const char *, void *)) dlsym(RTLD_NEXT, #name); \
        hang(#name, path); \
        return real(path, found); \
    }

HANG_ON_PATH(stat)
HANG_ON_PATH(stat64)
HANG_ON_PATH(lstat)
HANG_ON_PATH(lstat64)
HANG_ON_PATH(statvfs)
HANG_ON_PATH(statvfs64)


#define HANG_ON_OPEN(name) \
    int \
    name(const char *path, \
         int flags, \
         ...) \
    { \
        mode_t mode = 0; \
        va_list ap; \
        va_start(ap, flags); \
        if (flags & (O_CREAT | O_TMPFILE)) \
            mode = va_arg(ap, mode_t); \
        va_end(ap); \
        hang(#name, path); \
        return syscall(SYS_openat, AT_FDCWD, path, flags, mode); \
    }

HANG_ON_OPEN(open)
HANG_ON_OPEN(open64)


/* What _FORTIFY_SOURCE makes of an open() without a mode. */
#define HANG_ON_OPEN_2(name) \
    int name(const char *path, int flags); \
    int \
    name(const char *path, \
         int flags) \
    { \
        hang(#name, path); \
        return syscall(SYS_openat, AT_FDCWD, path, flags); \
    }

HANG_ON_OPEN_2(__open_2)
HANG_ON_OPEN_2(__open64_2)


int statx(int dir, const char *path, int flags, unsigned int mask, void *found);
int
statx(int dir,
      const char *path,
      int flags,
      unsigned int mask,
      void *found)
{
    hang("statx", path);
    return syscall(SYS_statx, dir, path, flags, mask, found);
}


int
access(const char *path,
       int mode)
{
    hang("access", path);
    return syscall(SYS_access, path, mode);
}


int
getaddrinfo(const char *name,
            const char *service,
            const struct addrinfo *hints,
            struct addrinfo **found)
{
    static __typeof__(getaddrinfo) *real;

    if (!real)
        real = (__typeof__(getaddrinfo) *) dlsym(RTLD_NEXT, "getaddrinfo");
    hang("getaddrinfo", name);
    return real(name, service, hints, found);
}
