/*
 * overlay.c: whether an overlay has content of its own
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A qcow2 image finds its clusters through two levels of tables. Level 1 names the tables of
 * level 2, and an entry there names a cluster, or says that it reads as zeroes. As long as all
 * entries are empty, a guest sees only the backing image. (See QEMU's docs/interop/qcow2.txt.)
 */

#include <config.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/bounded.h"
#include "block/file.h"
#include "block/overlay.h"
#include "compat/block.h"
#include "virendian.h"
#include "virerror.h"
#include "virfile.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

/* Where in the header is what. Numbers are big endian. */
#define FERRY_OVERLAY_MAGIC 0x514649fbU /* "QFI" */
#define FERRY_OVERLAY_VERSION 4
#define FERRY_OVERLAY_BACKING 8
#define FERRY_OVERLAY_CLUSTER_BITS 20
#define FERRY_OVERLAY_L1_SIZE 36
#define FERRY_OVERLAY_L1_OFFSET 40
#define FERRY_OVERLAY_FEATURES 72
#define FERRY_OVERLAY_HEADER 80

#define FERRY_OVERLAY_FEATURE_SUBCLUSTERS 0x10

/* In an entry: the place of a table or cluster; the cluster is compressed. */
#define FERRY_OVERLAY_OFFSET 0x00fffffffffffe00ULL
#define FERRY_OVERLAY_COMPRESSED (1ULL << 62)

/* QEMU opens no image with other clusters, or with more entries on level 1. */
#define FERRY_OVERLAY_CLUSTER_BITS_MIN 9
#define FERRY_OVERLAY_CLUSTER_BITS_MAX 21
#define FERRY_OVERLAY_L1_MAX (4 * 1024 * 1024)

/* Bytes of tables without content to look through: those of an image of 1 TiB whose tables
 * were created in advance. */
#define FERRY_OVERLAY_TABLES_MAX (256 * 1024 * 1024)

typedef struct {
    char *path;
    uid_t uid; /* QEMU's, for storage that root may not read */
    gid_t gid;
    int fd;
    bool subclusters; /* an entry of level 2 is followed by a bitmap of its subclusters */
    size_t clusterSize;
    unsigned char *table; /* of level 2: clusterSize bytes */
    size_t looked;        /* bytes of tables looked through */
    int rc;               /* 1: there is content; 0: there is none; -1: not known */
    int err;              /* errno if not known */
} ferryOverlay;


static void
ferryOverlayFree(void *opaque)
{
    ferryOverlay *overlay = opaque;

    VIR_FORCE_CLOSE(overlay->fd);
    g_free(overlay->table);
    g_free(overlay->path);
    g_free(overlay);
}


/* Reads all of @buf. A file that ends before has nothing there. Returns 0, or -1 with errno. */
static int
ferryOverlayRead(ferryOverlay *overlay,
                 unsigned char *buf,
                 size_t len,
                 unsigned long long offset)
{
    while (len > 0) {
        ssize_t got = pread(overlay->fd, buf, len, offset);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -1;
        if (got == 0) {
            memset(buf, 0, len);
            return 0;
        }

        buf += got;
        len -= got;
        offset += got;
    }

    return 0;
}


/* Looks at the table of level 2 at @offset. Returns as ferryOverlayHasContent(). */
static int
ferryOverlayLookAtTable(ferryOverlay *overlay,
                        unsigned long long offset)
{
    size_t size = overlay->subclusters ? 16 : 8;
    size_t i;

    if ((overlay->looked += overlay->clusterSize) > FERRY_OVERLAY_TABLES_MAX) {
        errno = EFBIG;
        return -1;
    }

    if (ferryOverlayRead(overlay, overlay->table, overlay->clusterSize, offset) < 0)
        return -1;

    for (i = 0; i < overlay->clusterSize; i += size) {
        unsigned long long entry = virReadBufInt64BE(overlay->table + i);

        /* A cluster whose subclusters are all empty has only been reserved. Some may read as
         * zeroes although there is no cluster. */
        if (overlay->subclusters)
            entry = virReadBufInt64BE(overlay->table + i + 8) | (entry & FERRY_OVERLAY_COMPRESSED);

        if (entry)
            return 1;
    }

    return 0;
}


/* Looks at @entries entries of level 1 from @offset on. */
static int
ferryOverlayLookAtAll(ferryOverlay *overlay,
                      unsigned long long offset,
                      size_t entries)
{
    unsigned char part[64 * 1024] = { 0 };
    size_t i;

    for (i = 0; i < entries; i++) {
        size_t at = i * 8 % sizeof(part);
        unsigned long long table;
        int rc;

        if (at == 0 &&
            ferryOverlayRead(overlay, part, MIN(sizeof(part), (entries - i) * 8),
                             offset + i * 8) < 0)
            return -1;

        if ((table = virReadBufInt64BE(part + at) & FERRY_OVERLAY_OFFSET) &&
            (rc = ferryOverlayLookAtTable(overlay, table)) != 0)
            return rc;
    }

    return 0;
}


/* Opens the image, as QEMU's user if root may not (NFS). Returns 0, or -1 with errno. */
static int
ferryOverlayOpen(ferryOverlay *overlay)
{
    struct stat st;

    if ((overlay->fd = ferryFileOpen(overlay->path, O_RDONLY)) >= 0)
        return 0;

    if (geteuid() != 0 || (errno != EACCES && errno != EPERM))
        return -1;

    if ((overlay->fd = virFileOpenAs(overlay->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC, /* mode= */ 0,
                                     overlay->uid, overlay->gid, VIR_FILE_OPEN_FORK)) < 0) {
        errno = -overlay->fd;
        return -1;
    }

    if (fstat(overlay->fd, &st) < 0)
        return -1;

    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
        errno = EINVAL;
        return -1;
    }

    return 0;
}


static int
ferryOverlayLook(ferryOverlay *overlay)
{
    unsigned char header[FERRY_OVERLAY_HEADER];
    unsigned int version;
    unsigned int bits;
    unsigned int entries;

    if (ferryOverlayOpen(overlay) < 0)
        return errno == ENOENT ? 0 : -1;

    if (ferryOverlayRead(overlay, header, sizeof(header), /* offset= */ 0) < 0)
        return -1;

    version = virReadBufInt32BE(header + FERRY_OVERLAY_VERSION);
    bits = virReadBufInt32BE(header + FERRY_OVERLAY_CLUSTER_BITS);
    entries = virReadBufInt32BE(header + FERRY_OVERLAY_L1_SIZE);

    /* QEMU will say what is wrong with an image that it cannot open */
    if (virReadBufInt32BE(header) != FERRY_OVERLAY_MAGIC || version < 2 || version > 3 ||
        virReadBufInt64BE(header + FERRY_OVERLAY_BACKING) == 0 ||
        bits < FERRY_OVERLAY_CLUSTER_BITS_MIN || bits > FERRY_OVERLAY_CLUSTER_BITS_MAX ||
        entries > FERRY_OVERLAY_L1_MAX)
        return 0;

    overlay->subclusters = version >= 3 && virReadBufInt64BE(header + FERRY_OVERLAY_FEATURES) &
                                               FERRY_OVERLAY_FEATURE_SUBCLUSTERS;
    overlay->clusterSize = (size_t) 1 << bits;
    overlay->table = g_malloc(overlay->clusterSize);

    return ferryOverlayLookAtAll(overlay, virReadBufInt64BE(header + FERRY_OVERLAY_L1_OFFSET),
                                 entries);
}


/**
 * ferryOverlayLookAt:
 * @uid, @gid: QEMU's, for storage that root may not read
 *
 * Like ferryOverlayHasContent(), for a thread that may wait for storage: no domain is locked.
 * Returns -1 with errno set.
 */
int
ferryOverlayLookAt(const char *path,
                   uid_t uid,
                   gid_t gid)
{
    ferryOverlay *overlay = g_new0(ferryOverlay, 1);
    int rc;

    overlay->path = g_strdup(path);
    overlay->uid = uid;
    overlay->gid = gid;
    overlay->fd = -1;
    rc = ferryOverlayLook(overlay);
    ferryOverlayFree(overlay);

    return rc;
}


static void
ferryOverlayRun(void *opaque)
{
    ferryOverlay *overlay = opaque;

    overlay->rc = ferryOverlayLook(overlay);
    overlay->err = overlay->rc < 0 ? errno : 0;
}


/**
 * ferryOverlayHasContent:
 * @vm: domain, locked; its lock is released meanwhile
 * @src: local image; the caller has a reference
 * @disk: its disk, for messages
 *
 * Returns 1 if @src is a qcow2 image with a backing image and has clusters of its own; 0 if it
 * has none, or is no such image; -1 with an error reported if it cannot be read, or its storage
 * does not answer.
 */
int
ferryOverlayHasContent(virDomainObj *vm,
                       virStorageSource *src,
                       const char *disk)
{
    ferryOverlay *overlay = g_new0(ferryOverlay, 1);
    int rc;

    overlay->path = g_strdup(src->path);
    overlay->fd = -1;
    ferryBlockImageIds(QEMU_DOMAIN_PRIVATE(vm)->driver, vm, src, &overlay->uid, &overlay->gid);

    if (!ferryBoundedRunUnlocked(vm, src->path, ferryOverlayRun, overlay, ferryOverlayFree,
                                 FERRY_BOUNDED_STORAGE_MS)) {
        virReportError(VIR_ERR_OPERATION_TIMEOUT,
                       _("the storage of '%1$s' did not answer within %2$d s; check the mount or the "
                         "device, or name another path"),
                       src->path, FERRY_BOUNDED_STORAGE_MS / 1000);
        return -1;
    }

    if ((rc = overlay->rc) < 0)
        virReportSystemError(overlay->err,
                             _("image '%1$s' of disk '%2$s' of domain '%3$s' may be an overlay with "
                               "content of its own: create it anew with 'qemu-img create'"),
                             src->path, disk, vm->def->name);

    ferryOverlayFree(overlay);
    return rc;
}
