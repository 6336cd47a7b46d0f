/*
 * request.c: backup: checks of a request
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * All checks of a request are done here, before anything is changed. The error codes are
 * ones that clients know from the stock driver.
 */

#include <config.h>

#include "block/active.h"
#include "block/alias.h"
#include "block/image.h"
#include "block/node.h"
#include "block/nodename.h"
#include "block/socket.h"
#include "block/source.h"
#include "block/volume.h"
#include "compat/caps.h"
#include "engine/checkpoints.h"
#include "engine/settle.h"
#include "ops/backup/request.h"
#include "ops/checkpoint/bitmaps.h"
#include "ops/checkpoint/metadata.h"
#include "qemu/qemu_block.h"
#include "virerror.h"
#include "virfile.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.backup");


static int
ferryBackupCheckServer(virDomainObj *vm,
                       virDomainBackupDef *def)
{
    if (def->type != VIR_DOMAIN_BACKUP_TYPE_PULL)
        return 0;

    /* no default: QEMU must not listen on TCP unless the client asks for that */
    if (!def->server) {
        virReportError(VIR_ERR_OPERATION_UNSUPPORTED, "%s",
                       _("<domainbackup> must specify a <server> for a pull backup"));
        return -1;
    }

    return ferryExportAddressCheck(vm, def->server);
}


static int
ferryBackupCheckExtras(virDomainObj *vm,
                       virDomainBackupDef *def,
                       ferryBackupExtras *extras)
{
    bool pull = def->type == VIR_DOMAIN_BACKUP_TYPE_PULL;

    if (extras->bandwidth > 0 && pull) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED, "%s",
                       _("<bandwidth> is for push backups; the client of a pull backup sets its own pace"));
        return -1;
    }

    if (extras->idleTimeout > 0 && !pull) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED, "%s",
                       _("<idle-timeout> is for pull backups; nobody reads a push backup"));
        return -1;
    }

    return ferryQuiesceCheck(vm, &extras->quiesce);
}


/* The store is going to be created through its pool. */
static int
ferryBackupCheckVolume(virDomainObj *vm,
                       ferryBackupDisk *disk)
{
    if (disk->def->store->encryption &&
        virStorageSourceGetActualType(disk->def->store) == VIR_STORAGE_TYPE_BLOCK) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("a volume for the encrypted backup of disk '%1$s' of domain '%2$s' must exist, "
                         "since it has to be larger than the disk: create it with 'virsh vol-create-as'"),
                       disk->def->name, vm->def->name);
        return -1;
    }

    if (!virFileExists(disk->def->store->path))
        return 0;

    virReportError(VIR_ERR_INVALID_ARG,
                   _("'%1$s', for volume '%2$s' of pool '%3$s', exists, and the pool does not know it: use "
                     "'virsh pool-refresh', or name another volume, for the backup of disk '%4$s' of domain "
                     "'%5$s'"),
                   disk->def->store->path, disk->volume->name, disk->volume->pool, disk->def->name,
                   vm->def->name);
    return -1;
}


static int
ferryBackupCheckStore(virDomainObj *vm,
                      ferryBackup *backup,
                      ferryBackupDisk *disk,
                      GPtrArray *aliases)
{
    virStorageSource *store = disk->def->store;
    bool local = virStorageSourceIsLocalStorage(store);
    size_t i;

    for (i = 0; backup->disks + i < disk; i++) {
        virStorageSource *other = backup->disks[i].def->store;

        if (virStorageSourceIsSameLocation(other, store) ||
            (local && virStorageSourceIsLocalStorage(other) &&
             ferryAliasIsSame(aliases, other->path, store->path)))
            break;
    }

    if (backup->disks + i < disk || ferrySourceInUse(vm->def, store, /* except= */ NULL) ||
        (local && ferryAliasIsOpen(aliases, store->path, vm))) {
        virReportError(VIR_ERR_INVALID_ARG,
                       _("store '%1$s' for backup of '%2$s' is already used by domain '%3$s'; "
                         "name another one"),
                       NULLSTR(store->path), disk->def->name, vm->def->name);
        return -1;
    }

    disk->origin = FERRY_IMAGE_FOREIGN;

    if ((disk->volume = ferryVolumeTakeMissing(store)))
        return ferryBackupCheckVolume(vm, disk);

    if (!ferryImageIsOpenable(store)) {
        virReportError(VIR_ERR_INVALID_ARG,
                       _("store '%1$s' for backup of disk '%2$s' of domain '%3$s' is neither a file nor "
                         "a block device; name another one"),
                       store->path, disk->def->name, vm->def->name);
        return -1;
    }

    if (!ferrySourceIsFile(store) || backup->reuse)
        return 0;

    if (virFileExists(store->path)) {
        virReportError(VIR_ERR_INVALID_ARG, FERRY_BACKUP_EXISTS, store->path, disk->def->name);
        return -1;
    }

    disk->origin = FERRY_IMAGE_ABSENT;
    return 0;
}


static int
ferryBackupCheckFormat(ferryBackup *backup,
                       ferryBackupDisk *disk)
{
    virStorageSource *store = disk->def->store;

    if (store->format == VIR_STORAGE_FILE_NONE)
        store->format = VIR_STORAGE_FILE_QCOW2;

    if (store->format != VIR_STORAGE_FILE_QCOW2 &&
        ferryBackupIsPull(backup)) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("pull mode backup for disk '%1$s' requires qcow2 driver"),
                       disk->def->name);
        return -1;
    }

    return 0;
}


/* Returns whether checkpoint @def has a bitmap for disk @dst. */
static bool
ferryBackupDiskInCheckpoint(virDomainCheckpointDef *def,
                            const char *dst)
{
    size_t i;

    for (i = 0; i < def->ndisks; i++) {
        if (STREQ(def->disks[i].name, dst))
            return def->disks[i].type == VIR_DOMAIN_CHECKPOINT_TYPE_BITMAP;
    }

    return false;
}


static int
ferryBackupCheckIncremental(virDomainObj *vm,
                            ferryBackup *backup,
                            ferryBackupDisk *disk,
                            GHashTable **nodeData)
{
    GHashTable *nodes;
    virDomainBackupDiskDef *def = disk->def;
    virDomainDiskDef *domdisk = virDomainDiskByTarget(vm->def, def->name);
    g_autoptr(virDomainCheckpointDef) from = NULL;

    if (!def->incremental)
        return 0;

    if (!(from = ferryCheckpointFind(vm, def->incremental))) {
        virReportError(VIR_ERR_NO_DOMAIN_CHECKPOINT,
                       _("Checkpoint '%1$s' for incremental backup of disk '%2$s' not found"),
                       def->incremental, def->name);
        return -1;
    }

    if (!*nodeData && !(*nodeData = ferryNodeData(vm)))
        return -1;
    nodes = *nodeData;

    if (!qemuBlockBitmapChainIsValid(domdisk->src, def->incremental, nodes)) {
        /* a disk that the checkpoint does not cover (new, raw) is backed up in full */
        if (!ferryBackupDiskInCheckpoint(from, def->name) &&
            !qemuBlockNamedNodeDataGetBitmapByName(nodes, domdisk->src, def->incremental)) {
            VIR_INFO("domain '%s': disk '%s' is not in checkpoint '%s': full backup",
                     vm->def->name, def->name, def->incremental);
            g_clear_pointer(&def->incremental, g_free);
            def->backupmode = VIR_DOMAIN_BACKUP_DISK_BACKUP_MODE_FULL;
            return 0;
        }

        virReportError(VIR_ERR_CHECKPOINT_INCONSISTENT,
                       _("missing or broken bitmap '%1$s' for disk '%2$s'"),
                       def->incremental, def->name);
        return -1;
    }

    disk->bitmap = def->exportbitmap ? g_strdup(def->exportbitmap) :
                                       g_strdup_printf("backup-%s", def->name);

    if (ferryBackupIsPull(backup)) {
        g_free(def->exportbitmap);
        def->exportbitmap = g_strdup(disk->bitmap);
    } else if (qemuBlockNamedNodeDataGetBitmapByName(nodes, domdisk->src, disk->bitmap)) {
        virReportError(VIR_ERR_OPERATION_INVALID,
                       _("disk '%1$s' of domain '%2$s' has a bitmap '%3$s' already: remove it, or end "
                         "the operation that uses it"),
                       def->name, vm->def->name, disk->bitmap);
        return -1;
    }

    return 0;
}


/* QEMU refuses to back up a disk to an image of another size. */
static int
ferryBackupCheckLarger(virDomainObj *vm,
                       ferryBackup *backup,
                       ferryBackupDisk *disk,
                       GHashTable **nodes)
{
    virStorageSource *store = disk->def->store;
    virDomainDiskDef *domdisk = virDomainDiskByTarget(vm->def, disk->def->name);
    unsigned long long capacity;

    if (store->format != VIR_STORAGE_FILE_RAW || store->sliceStorage ||
        !virStorageSourceIsLocalStorage(store) ||
        (!virStorageSourceIsBlockLocal(store) && !backup->reuse))
        return 0;

    if ((!*nodes && !(*nodes = ferryNodeData(vm))) ||
        ferryNodeCapacity(*nodes, ferryNodeName(domdisk->src), &capacity) < 0)
        return -1;

    ferryImageCutToSize(store, capacity);
    return 0;
}


static int
ferryBackupCheckDisk(virDomainObj *vm,
                     ferryBackup *backup,
                     ferryBackupDisk *disk,
                     GPtrArray *aliases,
                     GHashTable **nodes)
{
    qemuDomainObjPrivate *priv = vm->privateData;
    g_autoptr(virQEMUDriverConfig) cfg = virQEMUDriverGetConfig(priv->driver);
    virDomainDiskDef *domdisk = virDomainDiskByTarget(vm->def, disk->def->name);

    if (!qemuDomainDiskBlockJobIsSupported(domdisk) ||
        qemuDomainDiskBlockJobIsActive(domdisk) ||
        (ferryBackupIsPull(backup) &&
         ferryExportMayServe(vm, domdisk, FERRY_EXPORT_ANYTIME) < 0) ||
        ferrySourceRefuseDataFile(vm, disk->def->name, disk->def->store) < 0 ||
        ferryBackupCheckFormat(backup, disk) < 0 ||
        ferryBackupCheckStore(vm, backup, disk, aliases) < 0 ||
        ferryBackupCheckLarger(vm, backup, disk, nodes) < 0 ||
        ferryNodePrepare(vm, /* disk= */ NULL, disk->def->store, cfg) < 0 ||
        ferryBackupCheckIncremental(vm, backup, disk, nodes) < 0)
        return -1;

    if (ferryBackupIsPull(backup) && !disk->def->exportname)
        disk->def->exportname = g_strdup(disk->def->name);

    return 0;
}


/* Returns 0 if the images can get the bitmaps of the backup's checkpoint, if it has one, or -1
 * with an error reported. */
static int
ferryBackupCheckCheckpoint(virDomainObj *vm,
                           ferryBackup *backup,
                           GHashTable **nodes)
{
    g_autofree const char **whole = ferryBackupWholeDisks(backup);

    if (!backup->chkdef)
        return 0;

    if (!*nodes && !(*nodes = ferryNodeData(vm)))
        return -1;

    return ferryCheckpointCheckImages(vm, backup->chkdef, *nodes, whole);
}


static int
ferryBackupCheckDisks(virDomainObj *vm,
                      ferryBackup *backup,
                      GPtrArray *aliases)
{
    g_autoptr(GHashTable) nodes = NULL; /* queried when the first disk needs it */
    size_t i;

    ferryBackupListDisks(backup);

    if (backup->ndisks == 0) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED, "%s", _("no disks selected for backup"));
        return -1;
    }

    for (i = 0; i < backup->ndisks; i++) {
        if (ferrySettleCheckImage(vm, backup->disks[i].def->store) < 0 ||
            ferryBackupCheckDisk(vm, backup, &backup->disks[i], aliases, &nodes) < 0)
            return -1;
    }

    return ferryBackupCheckCheckpoint(vm, backup, &nodes);
}


/* Gives stores that the client left out the names that libvirt's manual promises. libvirt does
 * so only for a disk whose element has no store at all. */
static int
ferryBackupNameStores(virDomainObj *vm,
                      virDomainBackupDef *def,
                      const char *suffix)
{
    size_t i;

    for (i = 0; i < def->ndisks; i++) {
        virStorageSource *store = def->disks[i].store;
        virDomainDiskDef *disk = virDomainDiskByTarget(vm->def, def->disks[i].name);

        if (!disk || !store || store->path || !virStorageSourceIsLocalStorage(store))
            continue;

        if (store->type != VIR_STORAGE_TYPE_FILE ||
            virStorageSourceGetActualType(disk->src) != VIR_STORAGE_TYPE_FILE) {
            virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                           _("the backup of disk '%1$s' of domain '%2$s' needs a <%3$s>: a name can only be "
                             "made up for a file beside a file"),
                           disk->dst, vm->def->name,
                           def->type == VIR_DOMAIN_BACKUP_TYPE_PULL ? "scratch" : "target");
            return -1;
        }

        store->path = g_strdup_printf("%s.%s", disk->src->path, suffix);
    }

    return 0;
}


/**
 * ferryBackupPrepare:
 * @def: the client's request; taken over, also on failure
 * @aliases: of the paths that @def names (block/alias.c)
 * @checkpointXML: checkpoint to create with the backup, or NULL
 * @flags: virDomainBackupBeginFlags
 *
 * Checks the request against @vm and fills in defaults; changes no image. Domain locked,
 * modify job held. Returns the backup, or NULL with an error reported.
 */
ferryBackup *
ferryBackupPrepare(virDomainObj *vm,
                   virDomainBackupDef *def,
                   const ferryBackupExtras *extras,
                   GPtrArray *aliases,
                   const char *checkpointXML,
                   unsigned int flags)
{
    qemuDomainObjPrivate *priv = vm->privateData;
    ferryBackup *backup = ferryBackupNew();
    g_autofree char *suffix = NULL;

    backup->def = def;
    backup->extras = *extras;
    backup->reuse = flags & VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL;

    if (!virDomainObjIsActive(vm)) {
        virReportError(VIR_ERR_OPERATION_UNSUPPORTED, "%s",
                       _("cannot perform disk backup for inactive domain"));
        goto error;
    }

    if (!ferryCapsAreRecent(priv->qemuCaps)) {
        virReportError(VIR_ERR_OPERATION_UNSUPPORTED,
                       _("backup of domain '%1$s' needs QEMU 6.1 or newer"), vm->def->name);
        goto error;
    }

    if (ferryActiveTake(vm) < 0)
        goto error;

    if (checkpointXML) {
        if (!(backup->chkdef = ferryCheckpointPrepare(vm, checkpointXML)))
            goto error;
        backup->checkpoint = g_strdup(backup->chkdef->parent.name);
        suffix = g_strdup(backup->checkpoint);
    } else {
        suffix = g_strdup_printf("%lld", (long long) g_get_real_time() / G_USEC_PER_SEC);
    }

    if (ferryBackupNameStores(vm, def, suffix) < 0 ||
        virDomainBackupAlignDisks(def, vm->def, suffix) < 0 ||
        ferryBackupCheckServer(vm, def) < 0 ||
        ferryBackupCheckExtras(vm, def, &backup->extras) < 0 ||
        ferryBackupCheckDisks(vm, backup, aliases) < 0 ||
        (ferryBackupRefersToCheckpoint(backup) && ferryCheckpointsCheckFree(vm, /* except= */ NULL) < 0))
        goto error;

    return backup;

error:
    ferryBackupFree(backup);
    return NULL;
}
