/*
 * image.c: files and formats of new images
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include <fcntl.h>
#include <unistd.h>

#include "block/image.h"
#include "block/node.h"
#include "block/source.h"
#include "qemu/qemu_block.h"
#include "qemu/qemu_monitor.h"
#include "storage_source.h"
#include "virerror.h"
#include "virfile.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.image");

/* Bytes: more than an empty image has, even one with clusters of 2 MiB. */
#define FERRY_IMAGE_CLONE_MAX (16 * 1024 * 1024)

VIR_ENUM_IMPL(ferryImageOrigin,
              FERRY_IMAGE_LAST,
              "foreign", "empty", "absent");


/**
 * ferryImageTouch:
 *
 * Makes an empty file for @src, so that it can be labelled before QEMU opens
 * it. Nothing to do for storage that is no file.
 */
int
ferryImageTouch(virDomainObj *vm,
                virStorageSource *src)
{
    int ret = 0;

    if (!ferrySourceIsFile(src))
        return 0;

    if (qemuDomainStorageFileInit(QEMU_DOMAIN_PRIVATE(vm)->driver, vm, src, NULL) < 0)
        return -1;

    if (virStorageSourceCreate(src) < 0) {
        virReportSystemError(errno,
                             _("cannot create '%1$s' for domain '%2$s': check that the folder "
                               "exists and is writable"),
                             src->path, vm->def->name);
        ret = -1;
    }

    virStorageSourceDeinit(src);
    return ret;
}


/**
 * ferryImageRestore:
 * @vm: NULL when the domain is gone
 *
 * Puts back what was where @src is now. Keeps the last error.
 */
void
ferryImageRestore(virQEMUDriver *driver,
                  virDomainObj *vm,
                  virStorageSource *src,
                  ferryImageOrigin origin)
{
    virErrorPtr err = NULL;
    int rc = 0;

    if (origin == FERRY_IMAGE_FOREIGN || !ferrySourceIsFile(src) || !virFileExists(src->path))
        return;

    virErrorPreserveLast(&err);

    if (!vm) {
        rc = origin == FERRY_IMAGE_ABSENT ? unlink(src->path) : truncate(src->path, 0);
    } else if ((rc = qemuDomainStorageFileInit(driver, vm, src, NULL)) == 0) {
        /* creating an existing file truncates it */
        rc = origin == FERRY_IMAGE_ABSENT ? virStorageSourceUnlink(src) : virStorageSourceCreate(src);
        virStorageSourceDeinit(src);
    }

    if (rc < 0)
        VIR_WARN("cannot remove image '%s': %s", src->path, g_strerror(errno));

    virErrorRestore(&err);
}


/**
 * ferryImageIsPlain:
 *
 * Returns true for an image that is nothing but a file or device here: no
 * secret, no slice, nothing remote.
 */
bool
ferryImageIsPlain(virStorageSource *src)
{
    virStorageType type = virStorageSourceGetActualType(src);

    return (type == VIR_STORAGE_TYPE_FILE || type == VIR_STORAGE_TYPE_BLOCK) &&
           !virStorageSourceIsFD(src) && !src->encryption && !src->sliceStorage;
}


/**
 * ferryImageFormatProps:
 * @backing: image that the new one names as its backing file; NULL for none
 * @props: set to what creates the format of @src on its storage node; NULL when
 *         it needs no creating
 *
 * The sizes of @src are set. Returns 0, or -1 with an error reported.
 */
int
ferryImageFormatProps(virStorageSource *src,
                      virStorageSource *backing,
                      virJSONValue **props)
{
    if (src->format == VIR_STORAGE_FILE_RAW && !src->encryption)
        return 0;

    if (qemuBlockStorageSourceCreateGetFormatProps(src, backing, props) < 0)
        return -1;

    if (!*props) {
        virReportError(VIR_ERR_OPERATION_UNSUPPORTED,
                       _("can't create storage format '%1$s'"),
                       virStorageFileFormatTypeToString(src->format));
        return -1;
    }

    return 0;
}


/**
 * ferryImageCreateStart:
 * @props: taken over
 *
 * Starts the job @jobname that creates what @props say.
 */
int
ferryImageCreateStart(virDomainObj *vm,
                      const char *jobname,
                      virJSONValue **props)
{
    int rc;

    qemuDomainObjEnterMonitor(vm);
    rc = qemuMonitorBlockdevCreate(qemuDomainGetMonitor(vm), jobname, props);
    qemuDomainObjExitMonitor(vm);

    return rc;
}


/**
 * ferryImageFormatStart:
 * @backing: image that the new one names as its backing file; NULL for none
 * @storage: create the storage (a file of the right size, a remote volume),
 *           not the format
 *
 * Starts the job @jobname that creates one layer of @src. Its sizes are set. The
 * format of a plain image needs no storage node: QEMU opens the file for the job
 * alone.
 *
 * Returns 1 when the job was started, 0 when that layer needs no creating, or
 * -1 with an error reported.
 */
int
ferryImageFormatStart(virDomainObj *vm,
                      virStorageSource *src,
                      virStorageSource *backing,
                      bool storage,
                      const char *jobname)
{
    g_autoptr(virJSONValue) props = NULL;

    if (storage) {
        /* A format grows its file; only where the file is the disk does its
         * size matter. */
        if (virStorageSourceGetActualType(src) != VIR_STORAGE_TYPE_NETWORK &&
            !(ferrySourceIsFile(src) && src->format == VIR_STORAGE_FILE_RAW))
            return 0;

        if (qemuBlockStorageSourceCreateGetStorageProps(src, &props) < 0)
            return -1;
    } else if (ferryImageFormatProps(src, backing, &props) < 0 ||
               (props && ferryImageIsPlain(src) && ferryNodeInlineStorage(src, props) < 0)) {
        return -1;
    }

    if (!props)
        return 0;

    return ferryImageCreateStart(vm, jobname, &props) < 0 ? -1 : 1;
}


/**
 * ferryImageClone:
 * @direct: QEMU is going to open it past the page cache
 *
 * Makes the empty file of @to the same as that of @from, an image which was
 * just created: mostly a few hundred KiB, for which QEMU takes ten times as long.
 * @from is QEMU's by now, and not trusted to be what it should.
 *
 * Returns 0, or -1 when that is not possible; no error is reported.
 */
int
ferryImageClone(virStorageSource *from,
                virStorageSource *to,
                bool direct)
{
    VIR_AUTOCLOSE in = -1;
    VIR_AUTOCLOSE out = -1;
    struct stat st;
    off_t left;
    ssize_t done;

    if (!ferrySourceIsFile(from) || !ferrySourceIsFile(to) ||
        (in = open(from->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)) < 0 ||
        (out = open(to->path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW)) < 0 ||
        fstat(in, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > FERRY_IMAGE_CLONE_MAX)
        return -1;

    for (left = st.st_size; left > 0; left -= done) {
        if ((done = copy_file_range(in, NULL, out, NULL, left, 0)) <= 0)
            return -1;
    }

    /* opening it would wait for this */
    if (direct)
        ignore_value(sync_file_range(out, 0, 0, SYNC_FILE_RANGE_WRITE));

    return 0;
}


/**
 * ferryImageSync:
 *
 * Writes what the host caches of @src to its disk, without bothering QEMU.
 * Only saves time later, so failure does not matter. Called without the
 * domain's lock: it can take as long as the storage likes.
 */
void
ferryImageSync(virStorageSource *src)
{
    VIR_AUTOCLOSE fd = -1;

    if (!virStorageSourceIsLocalStorage(src) || !src->path)
        return;

    if ((fd = open(src->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)) < 0 ||
        fdatasync(fd) < 0)
        VIR_DEBUG("cannot sync '%s': %s", src->path, g_strerror(errno));
}
