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

/* In bytes. An empty image is smaller, even one with clusters of 2 MiB. */
#define FERRY_IMAGE_CLONE_MAX (16 * 1024 * 1024)

VIR_ENUM_IMPL(ferryImageOrigin,
              FERRY_IMAGE_LAST,
              "foreign", "empty", "absent");


/**
 * ferryImageTouch:
 *
 * Creates an empty file for @src, so that it can be labelled before QEMU opens it. Does
 * nothing for storage that is not a file. Returns 0, or -1 with an error reported.
 */
int
ferryImageTouch(virDomainObj *vm,
                virStorageSource *src)
{
    int ret = 0;

    if (!ferrySourceIsFile(src))
        return 0;

    if (qemuDomainStorageFileInit(QEMU_DOMAIN_PRIVATE(vm)->driver, vm, src,
                                  /* parent= */ NULL) < 0)
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
 * @vm: the file is truncated as its user; NULL if it or its QEMU is gone: as the driver's
 *
 * Removes or truncates the file of @src, depending on @origin. Keeps the last error.
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
    } else if ((rc = qemuDomainStorageFileInit(driver, vm, src, /* parent= */ NULL)) == 0) {
        /* virStorageSourceCreate() truncates a file that exists */
        rc = origin == FERRY_IMAGE_ABSENT ? virStorageSourceUnlink(src) : virStorageSourceCreate(src);
        virStorageSourceDeinit(src);
    }

    if (rc < 0)
        VIR_WARN("cannot remove or empty image '%s': %s", src->path, g_strerror(errno));

    virErrorRestore(&err);
}


/**
 * ferryImageIsPlain:
 *
 * Returns whether @src is a local file or device that needs nothing else: it has no
 * secret, no slice and no file descriptor passed by a client.
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
 * @props: set to the blockdev-create options for the format of @src on its storage node;
 *         stays NULL for unencrypted raw, which needs no formatting
 *
 * The caller has set the sizes of @src. Returns 0, or -1 with an error reported.
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
 * Starts job @jobname, a blockdev-create with the options @props.
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
 * @storage: create the storage (a file of full size, a remote volume), not the format
 *
 * Starts job @jobname, which creates one layer of @src. The caller has set the sizes of
 * @src. Formatting a plain image needs no storage node: QEMU opens the file for the job.
 * Returns 1 if the job was started, 0 if the layer needs none, or -1 with an error.
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
        /* Create remote volumes and full-size raw files; other formats grow their file. */
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
 * @direct: QEMU is going to open @to with direct I/O
 *
 * Copies the file of @from, an image that was just created, to the empty file of @to.
 * That is mostly a few hundred KiB; QEMU takes ten times as long to format @to. QEMU's
 * user owns the file of @from by now, so its type and size are not trusted. Returns 0, or
 * -1 when the file cannot be copied; no error is reported.
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
        if ((done = copy_file_range(in, NULL, out, NULL, left, /* flags= */ 0)) <= 0)
            return -1;
    }

    /* Start the writeback now: opening the file with direct I/O waits for it. */
    if (direct)
        ignore_value(sync_file_range(out, /* offset= */ 0, /* nbytes= */ 0, SYNC_FILE_RANGE_WRITE));

    return 0;
}


/**
 * ferryImageSync:
 *
 * Writes the page cache of @src to the disk, without QEMU. This only shortens a later
 * flush by QEMU, so failures are ignored. Called without the domain's lock, because slow
 * storage can make it take long.
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
