/*
 * request.c: block copy: the request and its checks
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Finds every error that can be found before anything is changed. The error codes are
 * those of the stock driver, which clients know.
 */

#include <config.h>

#include <sys/stat.h>

#include "block/active.h"
#include "block/alias.h"
#include "block/image.h"
#include "block/node.h"
#include "block/nodename.h"
#include "block/source.h"
#include "block/volume.h"
#include "compat/block.h"
#include "compat/caps.h"
#include "domain_validate.h"
#include "engine/settle.h"
#include "ops/copy/base.h"
#include "ops/copy/request.h"
#include "qemu/qemu_block.h"
#include "storage_file_probe.h"
#include "storage_source.h"
#include "virerror.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

/* of QEMU's mirror job */
#define FERRY_COPY_GRANULARITY_MIN 512
#define FERRY_COPY_GRANULARITY_MAX (64 * 1024 * 1024)

/* What the checks read and fill in. */
typedef struct {
    virDomainObj *vm;
    qemuDomainObjPrivate *priv;
    const ferryCopyRequest *req;
    virDomainDiskDef *disk;
    virStorageSource *target;
    ferryCopy *copy;
} ferryCopyCheck;


static int
ferryCopyCheckParams(ferryCopyCheck *c)
{
    if (virStorageSourceIsRelative(c->target)) {
        virReportError(VIR_ERR_INVALID_ARG, "%s",
                       _("absolute path must be used as block copy target"));
        return -1;
    }

    if (c->req->bandwidth > LLONG_MAX) {
        virReportError(VIR_ERR_INVALID_ARG,
                       _("bandwidth must be less than '%1$llu' bytes/s (%2$llu MiB/s)"),
                       LLONG_MAX, LLONG_MAX >> 20);
        return -1;
    }

    if (c->req->granularity > 0 &&
        (c->req->granularity < FERRY_COPY_GRANULARITY_MIN ||
         c->req->granularity > FERRY_COPY_GRANULARITY_MAX)) {
        virReportError(VIR_ERR_INVALID_ARG,
                       _("granularity of a copy must be from %1$d to %2$d bytes"),
                       FERRY_COPY_GRANULARITY_MIN, FERRY_COPY_GRANULARITY_MAX);
        return -1;
    }

    if (c->req->bufSize > INT_MAX) {
        virReportError(VIR_ERR_INVALID_ARG,
                       _("buf-size must be at most %1$d bytes"), INT_MAX);
        return -1;
    }

    return 0;
}


static int
ferryCopyCheckDisk(ferryCopyCheck *c)
{
    if (virDomainObjCheckActive(c->vm) < 0 ||
        !(c->disk = qemuDomainDiskByName(c->vm->def, c->req->path)) ||
        qemuDomainDiskBlockJobIsActive(c->disk) ||
        !qemuDomainDiskBlockJobIsSupported(c->disk))
        return -1;

    if (virStorageSourceIsEmpty(c->disk->src)) {
        virReportError(VIR_ERR_INVALID_ARG,
                       _("disk '%1$s' of domain '%2$s' has no medium to copy"),
                       c->disk->dst, c->vm->def->name);
        return -1;
    }

    if (c->disk->device == VIR_DOMAIN_DISK_DEVICE_LUN &&
        virDomainDiskDefSourceLUNValidate(c->target) < 0)
        return -1;

    return 0;
}


static int
ferryCopyCheckQEMU(ferryCopyCheck *c)
{
    /* the oldest version tested is 7.2 */
    if (!ferryCapsAreRecent(c->priv->qemuCaps)) {
        virReportError(VIR_ERR_OPERATION_UNSUPPORTED,
                       _("block copy of disk '%1$s' needs QEMU 6.1 or newer for domain '%2$s'"),
                       c->disk->dst, c->vm->def->name);
        return -1;
    }

    return 0;
}


static int
ferryCopyCheckTarget(ferryCopyCheck *c)
{
    if (virStorageSourceIsFD(c->target)) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED, "%s",
                       _("copy to a FD passed disk source is not yet supported"));
        return -1;
    }

    /* QEMU's image locks would refuse most of these, but only after the target was
     * formatted */
    if (ferrySourceInUse(c->vm->def, c->target, /* except= */ NULL) ||
        (c->req->aliases && virStorageSourceIsLocalStorage(c->target) &&
         ferryAliasIsOpen(c->req->aliases, c->target->path, c->vm))) {
        virReportError(VIR_ERR_INVALID_ARG,
                       _("block copy target '%1$s' is already used by domain '%2$s'; name another one"),
                       NULLSTR(c->target->path), c->vm->def->name);
        return -1;
    }

    return 0;
}


/* The format, if the client has not named it, is known by now. */
static int
ferryCopyCheckSharing(ferryCopyCheck *c)
{
    if (!c->disk->src->shared || c->disk->src->readonly ||
        qemuBlockStorageSourceSupportsConcurrentAccess(c->target))
        return 0;

    virReportError(VIR_ERR_OPERATION_UNSUPPORTED,
                   _("disk '%1$s' of domain '%2$s' is shared, and a target of format '%3$s' cannot be: "
                     "copy it to format 'raw'"),
                   c->disk->dst, c->vm->def->name, virStorageFileFormatTypeToString(c->target->format));
    return -1;
}


static int
ferryCopyCheckBacking(ferryCopyCheck *c)
{
    ferryCopy *copy = c->copy;

    copy->reuse = c->req->flags & VIR_DOMAIN_BLOCK_COPY_REUSE_EXT;
    copy->overlay = c->req->overlay;
    /* without backing images, shallow and full are the same */
    copy->shallow = copy->overlay || ((c->req->flags & VIR_DOMAIN_BLOCK_COPY_SHALLOW) &&
                                      virStorageSourceHasBacking(c->disk->src));

    if (virStorageSourceHasBacking(c->target)) {
        if (!copy->shallow) {
            virReportError(VIR_ERR_INVALID_ARG, "%s",
                           _("backingStore of mirror without VIR_DOMAIN_BLOCK_COPY_SHALLOW "
                             "doesn't make sense"));
            return -1;
        }
        if (qemuDomainStorageSourceValidateDepth(c->target, /* add= */ 0, /* diskdst= */ NULL) < 0 ||
            (!copy->overlay && ferryBaseFind(c->vm, c->disk, c->target, c->req->aliases, copy) < 0))
            return -1;
    } else if (!c->target->backingStore && !copy->shallow) {
        c->target->backingStore = virStorageSourceNew();
    }

    copy->own = copy->shallow && !ferryCopyOpensLate(copy) && !virStorageSourceHasBacking(c->target);

    if (copy->shallow && !copy->reuse && c->target->format == VIR_STORAGE_FILE_RAW) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("shallow copy of disk '%1$s' into a raw file is not possible"),
                       c->disk->dst);
        return -1;
    }

    return 0;
}


static int
ferryCopyCheckAbsent(ferryCopyCheck *c,
                     int err)
{
    struct stat st;

    if (err != ENOENT) {
        virReportSystemError(err,
                             _("unable to verify existence of block copy target '%1$s': QEMU's user must be "
                               "allowed to enter its folder"),
                             c->target->path);
        return -1;
    }

    if (c->copy->reuse ||
        (virStorageSourceGetActualType(c->target) == VIR_STORAGE_TYPE_BLOCK && !c->copy->volume)) {
        virReportSystemError(err, _("missing destination file for disk %1$s: %2$s"),
                             c->disk->dst, c->target->path);
        return -1;
    }

    if (c->copy->volume && c->target->encryption &&
        virStorageSourceGetActualType(c->target) == VIR_STORAGE_TYPE_BLOCK) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("a volume for the encrypted copy of disk '%1$s' of domain '%2$s' must exist, "
                         "since it has to be larger than the disk: create it with 'virsh vol-create-as'"),
                       c->disk->dst, c->vm->def->name);
        return -1;
    }

    if (lstat(c->target->path, &st) == 0) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("'%1$s' for the copy of disk '%2$s' of domain '%3$s' is a symbolic link to "
                         "nothing; remove it, or create what it names"),
                       c->target->path, c->disk->dst, c->vm->def->name);
        return -1;
    }

    c->copy->origin = c->copy->volume ? FERRY_IMAGE_FOREIGN : FERRY_IMAGE_ABSENT;
    return 0;
}


static int
ferryCopyCheckPresent(ferryCopyCheck *c,
                      const struct stat *st)
{
    if (c->copy->volume) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("'%1$s', for volume '%2$s' of pool '%3$s', exists, and the pool does not know it: "
                         "use 'virsh pool-refresh', or name another volume, for the copy of disk '%4$s' of "
                         "domain '%5$s'"),
                       c->target->path, c->copy->volume->name, c->copy->volume->pool, c->disk->dst,
                       c->vm->def->name);
        return -1;
    }

    if (S_ISBLK(st->st_mode))
        return 0;

    if (virStorageSourceGetActualType(c->target) == VIR_STORAGE_TYPE_BLOCK) {
        virReportError(VIR_ERR_INVALID_ARG,
                       _("blockdev flag requested for disk %1$s, but file '%2$s' is not a block device"),
                       c->disk->dst, c->target->path);
        return -1;
    }

    /* libvirt would open it to look at its format, and wait for a FIFO's other end */
    if (!ferryImageIsOpenable(c->target) || S_ISDIR(st->st_mode)) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("'%1$s' for the copy of disk '%2$s' of domain '%3$s' is neither a file nor a "
                         "block device; name another one"),
                       c->target->path, c->disk->dst, c->vm->def->name);
        return -1;
    }

    if (c->copy->reuse)
        return 0;

    if (st->st_size > 0 || !S_ISREG(st->st_mode)) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED, FERRY_COPY_EXISTS, c->disk->dst, c->target->path);
        return -1;
    }

    c->copy->origin = FERRY_IMAGE_EMPTY;
    return 0;
}


/* Finds out what is at the target's path: copy->origin tells undo what to remove. */
static int
ferryCopyCheckExisting(ferryCopyCheck *c)
{
    struct stat st;
    int ret = -1;

    c->copy->origin = FERRY_IMAGE_FOREIGN;

    if (!virStorageSourceIsLocalStorage(c->target) ||
        virStorageSourceSupportsAccess(c->target) != 1)
        return 0;

    if (qemuDomainStorageFileInit(c->priv->driver, c->vm, c->target, /* parent= */ NULL) < 0)
        return -1;

    if (virStorageSourceAccess(c->target, F_OK) < 0) {
        ret = ferryCopyCheckAbsent(c, errno);
    } else if (virStorageSourceStat(c->target, &st) < 0) {
        virReportSystemError(errno, _("unable to stat block copy target '%1$s'"),
                             c->target->path);
    } else {
        ret = ferryCopyCheckPresent(c, &st);
    }

    virStorageSourceDeinit(c->target);
    return ret;
}


/* QEMU would say only that it cannot open the image. If the driver cannot look, QEMU may still be
 * able to (root on NFS): the format was named, so nobody has to know it. Of other formats there
 * are images that cannot be told by their first bytes. */
static int
ferryCopyCheckReused(ferryCopyCheck *c)
{
    g_autoptr(virQEMUDriverConfig) cfg = virQEMUDriverGetConfig(c->priv->driver);
    int format;

    if (!c->copy->reuse || c->target->format != VIR_STORAGE_FILE_QCOW2 ||
        !virStorageSourceIsLocalStorage(c->target))
        return 0;

    format = virStorageFileProbeFormat(c->target->path, cfg->user, cfg->group);
    if (format < 0 || format == VIR_STORAGE_FILE_QCOW2) {
        virResetLastError();
        return 0;
    }

    virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                   _("the target '%1$s' of disk '%2$s' of domain '%3$s' has format '%4$s', not '%5$s': "
                     "prepare it with 'qemu-img create', or name its format"),
                   c->target->path, c->disk->dst, c->vm->def->name,
                   virStorageFileFormatTypeToString(format),
                   virStorageFileFormatTypeToString(c->target->format));
    return -1;
}


static int
ferryCopyCheckFormat(ferryCopyCheck *c)
{
    g_autoptr(virQEMUDriverConfig) cfg = virQEMUDriverGetConfig(c->priv->driver);

    if (c->target->format)
        return ferryCopyCheckReused(c);

    if (!c->copy->reuse) {
        c->target->format = c->copy->overlay ? VIR_STORAGE_FILE_QCOW2 : c->disk->src->format;
        return 0;
    }

    /* A client that does not trust the content of the reused image can avoid the probing
     * by naming the format. */
    if (virStorageSourceIsLocalStorage(c->target) &&
        virStorageSourceSupportsBackingChainTraversal(c->target) == 1 &&
        (c->target->format = virStorageFileProbeFormat(c->target->path,
                                                       cfg->user, cfg->group)) >= 0)
        return 0;

    c->target->format = VIR_STORAGE_FILE_NONE;
    virReportError(VIR_ERR_CONFIG_UNSUPPORTED, "%s",
                   _("reused mirror destination format must be specified"));
    return -1;
}


/* QEMU would copy all of the disk to a larger raw target, and then refuse to move the guest to a
 * disk of another size. */
static int
ferryCopyCheckLarger(ferryCopyCheck *c)
{
    g_autoptr(GHashTable) nodes = NULL;
    unsigned long long capacity;

    if (c->target->format != VIR_STORAGE_FILE_RAW || c->target->sliceStorage ||
        !virStorageSourceIsLocalStorage(c->target) ||
        (!virStorageSourceIsBlockLocal(c->target) && !c->copy->reuse))
        return 0;

    if (!(nodes = ferryNodeData(c->vm)) ||
        ferryNodeCapacity(nodes, ferryNodeName(c->disk->src), &capacity) < 0)
        return -1;

    ferryImageCutToSize(c->target, capacity);
    return 0;
}


/* Sets the image below the target of a mirrored snapshot: by default that of the overlay, which is
 * the disk's image of now; or what a reused image names, which need not be there yet. QEMU may
 * write to the target from now on, so that its header must not be trusted any more later. */
static int
ferryCopyCheckOverlay(ferryCopyCheck *c)
{
    uid_t uid;
    gid_t gid;

    if (!c->copy->overlay || virStorageSourceHasBacking(c->target))
        return 0;

    g_clear_pointer(&c->target->backingStore, virObjectUnref);
    if (!c->copy->reuse) {
        c->target->backingStore = virStorageSourceCopy(c->disk->src, /* backingChain= */ true);
        /* nobody writes to it any more then */
        c->target->backingStore->readonly = true;
        return 0;
    }

    ferryBlockImageIds(c->priv->driver, c->vm, c->target, &uid, &gid);
    if (virStorageSourceGetMetadata(c->target, uid, gid, /* max_depth= */ 1, /* report_broken= */ false) < 0)
        return -1;

    /* of the images below, one deep was looked at */
    virResetLastError();
    g_clear_pointer(&c->target->backingStore, virObjectUnref);
    if (!c->target->backingStoreRaw || c->target->backingStoreRawFormat <= VIR_STORAGE_FILE_NONE) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("the mirror '%1$s' of disk '%2$s' of domain '%3$s' must name a backing image and its "
                         "format: use 'qemu-img create -u -b IMAGE -F FORMAT'"),
                       c->target->path, c->disk->dst, c->vm->def->name);
        return -1;
    }

    if (virStorageSourceNewFromBacking(c->target, &c->target->backingStore) < 0)
        return -1;

    c->target->backingStore->format = c->target->backingStoreRawFormat;
    c->target->backingStore->readonly = true;
    c->target->backingStore->detected = true;
    return 0;
}


/* Fills in what QEMU needs to open the target: node names, secrets, and the chain below
 * an existing image. */
static int
ferryCopyCheckNodes(ferryCopyCheck *c)
{
    g_autoptr(virQEMUDriverConfig) cfg = virQEMUDriverGetConfig(c->priv->driver);
    virStorageSource *n;

    if (virStorageSourceInitChainElement(c->target, c->disk->src, c->req->keepLabel) < 0)
        return -1;

    /* the mirror job writes to the target; the pivot makes it read-only if need be */
    c->target->readonly = false;

    for (n = c->target; virStorageSourceIsBacking(n); n = n->backingStore) {
        if (ferryNodePrepare(c->vm, c->disk, n, cfg) < 0)
            return -1;
    }

    c->target->detect_zeroes = c->disk->detect_zeroes;

    if (c->copy->reuse && !c->copy->overlay && !c->target->backingStore &&
        c->target->format >= VIR_STORAGE_FILE_BACKING &&
        qemuDomainDetermineDiskChain(c->priv->driver, c->vm, c->disk, c->target) < 0)
        return -1;

    if (ferrySourceRefuseDataFile(c->vm, c->disk->dst, c->target) < 0)
        return -1;

    return ferryBaseCheckReused(c->vm, c->disk, c->target, c->copy);
}


static int
ferryCopyCheckLeft(ferryCopyCheck *c)
{
    return ferrySettleCheckImage(c->vm, c->target);
}


static int (*const ferryCopyChecks[])(ferryCopyCheck *c) = {
    ferryCopyCheckParams,
    ferryCopyCheckDisk,
    ferryCopyCheckQEMU,
    ferryCopyCheckTarget,
    ferryCopyCheckLeft,
    ferryCopyCheckBacking,
    ferryCopyCheckExisting,
    ferryCopyCheckFormat,
    ferryCopyCheckSharing,
    ferryCopyCheckLarger,
    ferryCopyCheckOverlay,
    ferryCopyCheckNodes,
};


/**
 * ferryCopyPrepare:
 *
 * Checks @req against @vm, which is locked and whose job is held. Changes nothing but
 * req->target; at last, QEMU takes over the disks of a paused guest.
 *
 * Returns the copy (free: ferryCopyFree()), or NULL with an error reported.
 */
ferryCopy *
ferryCopyPrepare(virDomainObj *vm,
                 const ferryCopyRequest *req)
{
    g_autoptr(ferryCopy) copy = g_new0(ferryCopy, 1);
    ferryCopyCheck check = {
        .vm = vm,
        .priv = vm->privateData,
        .req = req,
        .target = req->target,
        .copy = copy,
    };
    size_t i;

    copy->volume = ferryVolumeTakeMissing(req->target);

    for (i = 0; i < G_N_ELEMENTS(ferryCopyChecks); i++) {
        if (ferryCopyChecks[i](&check) < 0)
            return NULL;
    }

    copy->dst = g_strdup(check.disk->dst);
    copy->target = virObjectRef(req->target);
    copy->synchronous = req->flags & VIR_DOMAIN_BLOCK_COPY_SYNCHRONOUS_WRITES;
    copy->bandwidth = req->bandwidth;
    copy->granularity = req->granularity;
    copy->bufSize = req->bufSize;

    if (ferryActiveTake(vm) < 0)
        return NULL;

    return g_steal_pointer(&copy);
}
