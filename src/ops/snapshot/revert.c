/*
 * revert.c: mirrored snapshots: take a snapshot back
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What the guest has written since the snapshot is in the overlays: it is committed to the images
 * below, which takes as long as copying that takes, and the guest goes on all the time. QEMU is
 * asked what is so, not the definition: a driver may have died while the stock driver's call ran,
 * and the definition that the next one reads can name either image.
 */

#include <config.h>

#include <unistd.h>

#include "block/access.h"
#include "block/durable.h"
#include "block/node.h"
#include "block/nodename.h"
#include "block/qmp.h"
#include "block/source.h"
#include "engine/wait.h"
#include "ops/opfile.h"
#include "ops/snapshot/commit.h"
#include "ops/snapshot/revert.h"
#include "qemu/qemu_security.h"
#include "virdomainsnapshotobjlist.h"
#include "virerror.h"
#include "virfile.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.snapshot");

/* How libvirt's names of nodes end. */
#define FERRY_SNAPSHOT_STORAGE "-storage"
#define FERRY_SNAPSHOT_FORMAT "-format"


/* Finds the nodes of QEMU that have the file of @overlay open, as an image by which
 * ferryNodeRemove() finds them; @result stays NULL if there are none. Only the storage node says which file
 * it is: for a format node without its backing image, QEMU makes a name up. Returns 0, or -1 with an error
 * reported. */
static int
ferrySnapshotFindNodes(ferryOp *op,
                       virStorageSource *overlay,
                       virStorageSource **result)
{
    g_autoptr(virJSONValue) nodes = ferryNodeList(op->vm);
    g_autoptr(virStorageSource) found = virStorageSourceNew();
    g_autofree char *storage = NULL;
    g_autofree char *format = NULL;
    g_autofree char *prefix = NULL;
    size_t i;

    if (!nodes)
        return -1;

    for (i = 0; i < virJSONValueArraySize(nodes) && !storage; i++) {
        virJSONValue *node = virJSONValueArrayGet(nodes, i);
        const char *name = virJSONValueObjectGetString(node, "node-name");

        if (overlay->path && name && g_str_has_suffix(name, FERRY_SNAPSHOT_STORAGE) &&
            STREQ_NULLABLE(virJSONValueObjectGetString(node, "file"), overlay->path))
            storage = g_strdup(name);
    }

    if (!storage)
        return 0;

    /* as libvirt names the nodes of an image */
    prefix = g_strndup(storage, strlen(storage) - strlen(FERRY_SNAPSHOT_STORAGE));
    for (i = 0; i < virJSONValueArraySize(nodes) && !format; i++) {
        const char *name = virJSONValueObjectGetString(virJSONValueArrayGet(nodes, i), "node-name");

        if (name && g_str_has_prefix(name, prefix) && STREQ(name + strlen(prefix), FERRY_SNAPSHOT_FORMAT))
            format = g_strdup(name);
    }

    ferryNodeSetNames(found, g_steal_pointer(&storage), g_steal_pointer(&format));
    found->type = overlay->type;
    found->path = g_strdup(overlay->path);
    found->format = overlay->format;
    *result = g_steal_pointer(&found);
    return 0;
}


static int
ferrySnapshotSaveConfig(ferryOp *op,
                        ferrySnapshotDisk *sdisk,
                        virDomainDef *def)
{
    g_autoptr(virQEMUDriverConfig) cfg = virQEMUDriverGetConfig(op->driver);

    if (op->vm->persistent &&
        (virDomainDefSave(def, op->driver->xmlopt, cfg->configDir) < 0 ||
         ferryDurableFolder(cfg->configDir) < 0))
        return -1;

    sdisk->unsaved = false;
    return 0;
}


/**
 * ferrySnapshotRevertConfig:
 * @def: the configuration, or NULL
 * @base: the disk's image before the snapshot; NULL: the one that @def has below the overlay
 *
 * Makes the configuration name @base again, in place of the overlay: as it did before, if the stock
 * driver has kept that below the overlay. Returns 0, or -1 with an error reported.
 */
int
ferrySnapshotRevertConfig(ferryOp *op,
                          ferrySnapshotDisk *sdisk,
                          virDomainDef *def,
                          virStorageSource *base)
{
    virDomainDiskDef *disk = def ? virDomainDiskByTarget(def, sdisk->dst) : NULL;
    virStorageSource *src;

    if (!disk || (STRNEQ_NULLABLE(disk->src->path, sdisk->overlay->path) && !sdisk->unsaved))
        return 0;

    if (sdisk->unsaved)
        return ferrySnapshotSaveConfig(op, sdisk, def);

    base = base ? base : disk->src->backingStore;
    if (!base) {
        virReportError(VIR_ERR_INTERNAL_ERROR, _("the configuration of disk '%1$s' names no image below '%2$s'"),
                       sdisk->dst, NULLSTR(sdisk->overlay->path));
        return -1;
    }

    if (disk->src->backingStore && virStorageSourceIsSameLocation(disk->src->backingStore, base)) {
        src = g_steal_pointer(&disk->src->backingStore);
        src->readonly = disk->src->readonly;
    } else if (!(src = ferrySourceAsConfig(base, op->driver->xmlopt))) {
        return -1;
    }

    if (virStorageSourceInitChainElement(src, disk->src, /* force= */ false) < 0) {
        virObjectUnref(src);
        return -1;
    }

    virObjectUnref(disk->src);
    disk->src = src;
    sdisk->unsaved = true;
    return ferrySnapshotSaveConfig(op, sdisk, def);
}


/* The guest is on the image below: so says the definition then, and the overlay is let go of.
 * Returns 0, or -1 with an error reported. */
static int
ferrySnapshotAdoptBase(ferryOp *op,
                       ferrySnapshotDisk *sdisk,
                       virDomainDiskDef *disk)
{
    g_autoptr(virStorageSource) overlay = NULL;
    virStorageSource *base = disk->src;

    if (STRNEQ_NULLABLE(ferryNodeName(disk->src), sdisk->base)) {
        if (!virStorageSourceHasBacking(disk->src) ||
            STRNEQ_NULLABLE(ferryNodeName(disk->src->backingStore), sdisk->base))
            return 0;

        overlay = g_steal_pointer(&disk->src);
        base = g_steal_pointer(&overlay->backingStore);
        base->readonly = overlay->readonly;
        disk->src = base;
        if (qemuSecurityMoveImageMetadata(op->driver, op->vm, overlay, base) < 0)
            virResetLastError();
    } else if (ferrySnapshotFindNodes(op, sdisk->overlay, &overlay) < 0) {
        return -1;
    }

    /* a driver that died may have added one node only */
    if (overlay && ferryNodeHasFormat(overlay))
        ferryNodeRemove(op->vm, overlay);
    else if (overlay)
        ferryNodeRemoveStorage(op->vm, overlay);
    if (overlay)
        ferryAccessDrop(op->vm, overlay);

    qemuDomainSaveStatus(op->vm);
    return ferrySnapshotRevertConfig(op, sdisk, op->vm->newDef, base);
}


/* Returns 0 if no other operation has jobs in QEMU, whose filters hide what a disk is on; or -1 with an error
 * reported. */
static int
ferrySnapshotCheckAlone(ferryOp *op,
                        virDomainDiskDef *disk)
{
    g_autoptr(GPtrArray) jobs = ferryJobListAll(op);
    size_t i;

    if (!jobs || qemuDomainDiskBlockJobIsActive(disk))
        return -1;

    for (i = 0; i < jobs->len; i++) {
        qemuMonitorJobInfo *job = g_ptr_array_index(jobs, i);

        if (ferryJobIsOf(op, job->id))
            continue;

        virReportError(VIR_ERR_OPERATION_INVALID,
                       _("disk '%1$s' of domain '%2$s' cannot go back before job '%3$s' has ended"),
                       disk->dst, op->vm->def->name, job->id);
        return -1;
    }

    return 0;
}


/**
 * ferrySnapshotRevertDisk:
 *
 * Brings a disk back to the image that it had before the snapshot, with all that the guest has
 * written since. Domain locked, job held; both may be released meanwhile. Idempotent. Returns 0, or
 * -1 with an error reported.
 */
int
ferrySnapshotRevertDisk(ferryOp *op,
                        ferrySnapshotDisk *sdisk)
{
    virDomainDiskDef *disk = virDomainDiskByTarget(op->vm->def, sdisk->dst);
    g_autofree char *what = g_strdup_printf("commit-%s", sdisk->dst);
    g_autofree char *jobname = ferryJobName(op, what);
    g_autofree char *node = NULL;
    g_autoptr(virStorageSource) nodes = NULL;

    if (!disk)
        return ferryJobKill(op, jobname);

    if (ferryOpFileAnswers(op, disk->src) < 0 || ferryOpFileAnswers(op, sdisk->overlay) < 0 ||
        !(disk = virDomainDiskByTarget(op->vm->def, sdisk->dst)) ||
        !(node = ferryQMPDiskNode(op->vm, disk)))
        return -1;

    if (STRNEQ(node, sdisk->base)) {
        if (ferrySnapshotFindNodes(op, sdisk->overlay, &nodes) < 0)
            return -1;

        if (!nodes || STRNEQ_NULLABLE(ferryNodeName(nodes), node)) {
            if (ferrySnapshotCheckAlone(op, disk) < 0)
                return -1;
            VIR_WARN("disk '%s' of domain '%s' is on another image than the overlay '%s', which "
                     "snapshot '%s' had made: it stays there",
                     sdisk->dst, op->vm->def->name,
                     NULLSTR(sdisk->overlay->path), ferrySnapshotOf(op)->name);
            return 0;
        }

        if (ferrySnapshotCommit(op, sdisk, node) < 0)
            return -1;
    } else if (ferryJobKill(op, jobname) < 0) {
        /* a driver that died after the commit has left its job: the next snapshot's has this name, too */
        return -1;
    }

    if (!(disk = virDomainDiskByTarget(op->vm->def, sdisk->dst)))
        return 0;

    return ferrySnapshotAdoptBase(op, sdisk, disk);
}


/* Returns whether @moment has the images of @snapshot: another client may have taken the name. */
static bool
ferrySnapshotIsOurs(ferrySnapshot *snapshot,
                    virDomainMomentObj *moment)
{
    size_t i;

    for (i = 0; i < snapshot->disks->len; i++) {
        ferrySnapshotDisk *disk = ferrySnapshotDiskAt(snapshot, i);

        if (ferrySnapshotHasImage(moment, disk->dst, disk->overlay))
            return true;
    }

    return false;
}


/**
 * ferrySnapshotForget:
 *
 * Removes the snapshot from the domain's list, and its file, if it got there. Domain locked, job
 * held. Returns 0, or -1 with an error reported.
 */
int
ferrySnapshotForget(ferryOp *op)
{
    ferrySnapshot *snapshot = ferrySnapshotOf(op);
    g_autoptr(virQEMUDriverConfig) cfg = virQEMUDriverGetConfig(op->driver);
    g_autofree char *folder = g_strdup_printf("%s/%s", cfg->snapshotDir, op->vm->def->name);
    g_autofree char *file = g_strdup_printf("%s/%s.xml", folder, snapshot->name);
    virDomainMomentObj *moment;
    virDomainMomentObj *parent;

    /* the stock driver removes it when its call fails */
    if (!snapshot->metadata || snapshot->taking)
        return 0;

    if (!(moment = virDomainSnapshotFindByName(op->vm->snapshots, snapshot->name)) ||
        !ferrySnapshotIsOurs(snapshot, moment))
        return 0;

    if (moment->nchildren > 0) {
        VIR_WARN("snapshot '%s' of domain '%s' was taken back, and stays in the list, since others were taken "
                 "after it: delete it with 'virsh snapshot-delete --metadata'",
                 snapshot->name,
                 op->vm->def->name);
        return 0;
    }

    if (unlink(file) < 0 && errno != ENOENT && errno != ENOTDIR) {
        virReportSystemError(errno, _("cannot remove '%1$s'"), file);
        return -1;
    }

    if (virFileIsDir(folder) && ferryDurableFolder(folder) < 0)
        return -1;

    if (moment == virDomainSnapshotGetCurrent(op->vm->snapshots)) {
        parent = moment->def->parent_name ?
                     virDomainSnapshotFindByName(op->vm->snapshots, moment->def->parent_name) :
                     NULL;
        virDomainSnapshotSetCurrent(op->vm->snapshots, parent);
        if (parent && qemuDomainSnapshotWriteMetadata(op->vm, parent, op->driver->xmlopt,
                                                      cfg->snapshotDir) < 0)
            VIR_WARN("domain '%s': snapshot '%s' is not written as the current one: %s",
                     op->vm->def->name, parent->def->name, virGetLastErrorMessage());
    }

    if (moment->parent)
        virDomainMomentDropParent(moment);
    virDomainSnapshotObjListRemove(op->vm->snapshots, moment);
    return 0;
}
