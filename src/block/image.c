/*
 * image.c: files and formats of new images
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include <fcntl.h>
#include <unistd.h>

#include "block/file.h"
#include "block/image.h"
#include "block/node.h"
#include "block/nodename.h"
#include "block/source.h"
#include "compat/block.h"
#include "qemu/qemu_block.h"
#include "qemu/qemu_monitor.h"
#include "virerror.h"
#include "virfile.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.image");

/* In bytes. An empty image is smaller, even one with clusters of 2 MiB. */
#define FERRY_IMAGE_CLONE_MAX (16 * 1024 * 1024)

VIR_ENUM_IMPL(ferryImageOrigin,
              FERRY_IMAGE_LAST,
              "foreign",
              "empty",
              "absent");


static void
ferryImageReport(virDomainObj *vm,
                 virStorageSource *src)
{
    virReportSystemError(errno,
                         _("cannot create '%1$s' for domain '%2$s': check that the folder "
                           "exists and is writable"),
                         src->path, vm->def->name);
}


/* Finds out which empty file is at the path of @src. */
static int
ferryImageFindEmpty(virStorageSource *src,
                    ferryFile *file)
{
    VIR_AUTOCLOSE fd = ferryFileOpen(src->path, O_RDONLY | O_NOFOLLOW);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        return -1;

    if (!S_ISREG(st.st_mode) || st.st_size > 0) {
        errno = EEXIST;
        return -1;
    }

    return ferryFileLearn(file, fd);
}


/**
 * ferryImagePrepare:
 * @origin: what is at the path of @src
 * @file: set to a record of the file that is going to be the image; NULL: not ours
 *
 * Creates the file of @src without a name, or finds the empty one that is there, so that
 * the journal knows its inode before ferryImageTouch() gives it its name. Does nothing for
 * storage that is not a file. Returns 0, or -1 with an error reported.
 */
int
ferryImagePrepare(virDomainObj *vm,
                  virStorageSource *src,
                  ferryImageOrigin origin,
                  ferryFile **file)
{
    g_autoptr(ferryFile) made = ferryFileNew();
    uid_t uid;
    gid_t gid;

    if (origin == FERRY_IMAGE_FOREIGN || !ferrySourceIsFile(src))
        return 0;

    ferryBlockImageIds(QEMU_DOMAIN_PRIVATE(vm)->driver, vm, src, &uid, &gid);

    if ((origin == FERRY_IMAGE_EMPTY ? ferryImageFindEmpty(src, made) :
                                       ferryFileCreate(made, src->path, uid, gid)) < 0) {
        ferryImageReport(vm, src);
        return -1;
    }

    *file = g_steal_pointer(&made);
    return 0;
}


/**
 * ferryImageTouch:
 * @file: of ferryImagePrepare(), may be NULL
 *
 * Gives the file of @src its name, so that it can be labelled before QEMU opens it.
 */
ferryImageTouched
ferryImageTouch(virDomainObj *vm,
                virStorageSource *src,
                ferryFile *file)
{
    bool named = file && file->fd < 0;
    uid_t uid;
    gid_t gid;
    int rc;

    /* an empty file was there before */
    if (!file || (named && file->ino))
        return FERRY_IMAGE_READY;

    ferryBlockImageIds(QEMU_DOMAIN_PRIVATE(vm)->driver, vm, src, &uid, &gid);

    if (named)
        rc = ferryFileCreateNamed(file, src->path, uid, gid);
    else
        rc = ferryFileLink(file, src->path);

    if (rc == 0)
        return named ? FERRY_IMAGE_UNWRITTEN : FERRY_IMAGE_READY;

    if (errno == EEXIST)
        return FERRY_IMAGE_TAKEN;

    ferryImageReport(vm, src);
    return FERRY_IMAGE_FAILED;
}


/**
 * ferryImageCheckOurs:
 * @file: of ferryImagePrepare(), may be NULL
 *
 * To be called before QEMU opens @src: checks that the name still leads to @file. QEMU
 * would wait for ever for the other end of a FIFO. Returns 0, or -1 with an error reported.
 */
int
ferryImageCheckOurs(virDomainObj *vm,
                    virStorageSource *src,
                    const ferryFile *file)
{
    /* EACCES: NFS lets only QEMU's user look */
    if (!file || ferryFileIsAt(file, src->path) || errno == EACCES)
        return 0;

    virReportError(VIR_ERR_OPERATION_FAILED,
                   _("'%1$s' for domain '%2$s' was replaced after it was created; find out who "
                     "writes to its folder"),
                   src->path, vm->def->name);
    return -1;
}


/* Returns whether @n is the file of @src in the folder of another name. */
static bool
ferryImageIsAlias(virStorageSource *n,
                  virStorageSource *src,
                  const ferryFile *file)
{
    g_autofree char *name = NULL;
    g_autofree char *other = NULL;

    if (!virStorageSourceIsLocalStorage(n) || !n->path)
        return false;

    name = g_path_get_basename(src->path);
    other = g_path_get_basename(n->path);

    return STREQ(name, other) && ferryFileIsAt(file, n->path);
}


/* Returns whether a definition of @vm itself names @src. The mirror of a copy that Ferry
 * runs does not count: its undo is what removes the image. */
static bool
ferryImageIsOwn(virDomainObj *vm,
                const ferryFile *file,
                virStorageSource *src)
{
    virDomainDef *defs[] = { vm->def, vm->newDef };
    size_t i;
    size_t k;

    for (i = 0; i < G_N_ELEMENTS(defs); i++) {
        for (k = 0; defs[i] && k < defs[i]->ndisks; k++) {
            virDomainDiskDef *disk = defs[i]->disks[k];
            virStorageSource *chains[] = {
                disk->src, QEMU_DOMAIN_DISK_PRIVATE(disk)->blockjob ? disk->mirror : NULL
            };
            size_t c;

            for (c = 0; c < G_N_ELEMENTS(chains); c++) {
                virStorageSource *n;

                for (n = chains[c]; virStorageSourceIsBacking(n); n = n->backingStore) {
                    if (virStorageSourceIsSameLocation(n, src) ||
                        ferryImageIsAlias(n, src, file))
                        return true;
                }
            }
        }
    }

    return false;
}


/* Returns whether a domain needs the image of @src, and says so in the log. */
static bool
ferryImageIsNeeded(ferryUse *use,
                   virDomainObj *vm,
                   virStorageSource *src,
                   ferryFile *file)
{
    g_autofree char *user = NULL;

    if (vm && ferryImageIsOwn(vm, file, src))
        user = g_strdup_printf("domain '%s'", vm->def->name);
    else
        user = ferryUseFind(use, src->path, file);

    if (!user)
        return false;

    VIR_WARN("'%s' is neither removed nor emptied: %s names it", src->path, user);
    return true;
}


/**
 * ferryImageRestore:
 * @use: the definitions of the other domains
 * @vm: the domain whose own definitions count, too; NULL: it is gone, or they do not
 * @file: which file Ferry made or found; NULL: a journal does not say
 *
 * Removes or empties the file of @src, depending on @origin, if it is still @file and no
 * domain names it. Keeps the last error. Returns true if it did.
 */
bool
ferryImageRestore(ferryUse *use,
                  virDomainObj *vm,
                  virStorageSource *src,
                  ferryImageOrigin origin,
                  ferryFile *file)
{
    virErrorPtr err = NULL;
    bool absent = origin == FERRY_IMAGE_ABSENT;
    bool there;
    struct stat st;
    uid_t uid;
    gid_t gid;
    int rc = 0;

    if (origin == FERRY_IMAGE_FOREIGN || !ferrySourceIsFile(src))
        return false;

    if (!file) {
        if (lstat(src->path, &st) == 0)
            VIR_WARN("'%s' is left as it is: the journal does not say whether Ferry made it; remove "
                     "it if nobody needs it",
                     src->path);
        return false;
    }

    /* a nameless file goes with its last descriptor */
    VIR_FORCE_CLOSE(file->fd);

    virErrorPreserveLast(&err);

    /* The file may be gone, or never have had its name. On NFS root may have no right to
     * look; then the user who removes the file does. */
    there = file->ino && (ferryFileIsAt(file, src->path) || errno == EACCES);

    if (!there && file->ino && lstat(src->path, &st) == 0 && st.st_ino == file->ino)
        VIR_WARN("'%s' stays: it may be the image that was made, but its file system does not say "
                 "so; remove it if nobody needs it",
                 src->path);

    if (there && !ferryImageIsNeeded(use, vm, src, file)) {
        ferryBlockImageIds(ferryUseDriver(use), vm, src, &uid, &gid);

        if (absent)
            rc = ferryFileRemove(file, src->path, uid, gid);
        else if ((rc = ferryFileEmpty(file, src->path, uid, gid)) < 0)
            VIR_WARN("cannot empty '%s': %s", src->path, g_strerror(errno));
    }

    virErrorRestore(&err);
    return rc > 0;
}


/**
 * ferryImageCutToSize:
 * @capacity: of the disk, in bytes
 *
 * Limits a raw @src that is larger than @capacity to a slice of that size: a volume manager
 * rounds its volumes up. Storage must answer. Reports no error: if @src cannot be used, QEMU
 * will say so.
 */
void
ferryImageCutToSize(virStorageSource *src,
                    unsigned long long capacity)
{
    VIR_AUTOCLOSE fd = -1;
    off_t size;

    /* an encrypted one is larger by its header */
    if (src->format != VIR_STORAGE_FILE_RAW || src->sliceStorage || src->encryption ||
        !virStorageSourceIsLocalStorage(src) ||
        (fd = ferryFileOpen(src->path, O_RDONLY)) < 0 ||
        (size = lseek(fd, 0, SEEK_END)) < 0 ||
        (unsigned long long) size <= capacity)
        return;

    src->sliceStorage = g_new0(virStorageSourceSlice, 1);
    src->sliceStorage->size = capacity;
    /* libvirt has given the other nodes their names already, if the domain is about to start */
    if (ferryNodeStorage(src))
        src->sliceStorage->nodename = g_strdup_printf("libvirt-%u-slice-sto", src->id);
}


/**
 * ferryImageIsOpenable:
 *
 * Returns false if a local @src is something that a process must not just open, such as a
 * FIFO, which makes it wait. True if there is nothing: whoever opens it will report that.
 */
bool
ferryImageIsOpenable(virStorageSource *src)
{
    struct stat st;

    return !virStorageSourceIsLocalStorage(src) || !src->path || stat(src->path, &st) < 0 ||
           S_ISREG(st.st_mode) || S_ISBLK(st.st_mode) || S_ISDIR(st.st_mode);
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

    /* libvirt sets all other properties */
    if (src->format == VIR_STORAGE_FILE_QCOW2 && src->features &&
        virBitmapIsBitSet(src->features, VIR_STORAGE_FILE_FEATURE_LAZY_REFCOUNTS) &&
        virJSONValueObjectAdd(props, "b:lazy-refcounts", true, NULL) < 0)
        return -1;

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
 * @file: which file that of @to must be
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
                const ferryFile *file,
                bool direct)
{
    VIR_AUTOCLOSE in = -1;
    VIR_AUTOCLOSE out = -1;
    struct stat st;
    off_t left;
    ssize_t done;

    if (!file || !ferrySourceIsFile(from) || !ferrySourceIsFile(to) ||
        (in = ferryFileOpen(from->path, O_RDONLY | O_NOFOLLOW)) < 0 ||
        (out = ferryFileOpen(to->path, O_WRONLY | O_NOFOLLOW)) < 0 ||
        !ferryFileIsOpen(file, out) ||
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

    if ((fd = ferryFileOpen(src->path, O_RDONLY)) < 0 ||
        fdatasync(fd) < 0)
        VIR_DEBUG("cannot sync '%s': %s", src->path, g_strerror(errno));
}
