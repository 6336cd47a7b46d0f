/*
 * adopt.c: block copy: the persistent definition names the target
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "block/durable.h"
#include "block/nodename.h"
#include "block/source.h"
#include "ops/copy/adopt.h"
#include "ops/copy/data.h"
#include "virerror.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.copy");


/* Returns the persistent definition, NULL for a transient domain. While the domain runs,
 * and right after QEMU has ended, it is vm->newDef. A domain that was undefined meanwhile
 * still has it, and clients see it: they may define the domain again by what they see. */
static virDomainDef *
ferryCopyConfig(virDomainObj *vm)
{
    return virDomainObjIsActive(vm) || vm->newDef || !vm->persistent ? vm->newDef : vm->def;
}


/* Saves the configuration @def if the domain has one. */
static int
ferryCopySaveConfig(ferryOp *op,
                    virDomainDef *def)
{
    ferryCopy *copy = ferryCopyOf(op);
    g_autoptr(virQEMUDriverConfig) cfg = virQEMUDriverGetConfig(op->driver);

    /* If the disk names the target already, an earlier save may have failed. The folder is
     * synced in any case: the journal is removed next, and must not be outlived by the
     * older configuration. */
    if (op->vm->persistent &&
        ((copy->unsaved && virDomainDefSave(def, op->driver->xmlopt, cfg->configDir) < 0) ||
         ferryDurableFolder(cfg->configDir) < 0))
        return -1;

    return 0;
}


/* Returns the copied disk in @def, or NULL if its source is not the old image. */
static virDomainDiskDef *
ferryCopyConfigDisk(ferryOp *op,
                    virDomainDef *def)
{
    ferryCopy *copy = ferryCopyOf(op);
    virDomainDiskDef *disk = virDomainDiskByTarget(def, copy->dst);

    if (!disk || !copy->old || !virStorageSourceIsSameLocation(disk->src, copy->old))
        return NULL;

    return disk;
}


/* Makes the disk of @op in the persistent definition @def name the target. Returns 0, or -1 with an
 * error reported. */
static int
ferryCopyAdoptDisk(ferryOp *op,
                   virDomainDef *def)
{
    ferryCopy *copy = ferryCopyOf(op);
    virDomainDiskDef *disk = ferryCopyConfigDisk(op, def);
    g_autoptr(virStorageSource) src = NULL;

    if (!disk)
        return 0;

    /* All options of the image are the target's; its labels are the old image's only if the
     * client wanted that. Read-only and shareable are options of the disk. */
    if (!(src = ferrySourceAsConfig(copy->target, op->driver->xmlopt)) ||
        virStorageSourceInitChainElement(src, disk->src, /* force= */ false) < 0)
        return -1;

    /* A driver that was restarted cannot tell a chain that was detected from one that is in the
     * definition: there is none in this one. */
    if (copy->own && !virStorageSourceIsBacking(disk->src->backingStore))
        g_clear_pointer(&src->backingStore, virObjectUnref);

    virObjectUnref(disk->src);
    disk->src = g_steal_pointer(&src);
    copy->unsaved = true;
    return 0;
}


/**
 * ferryCopyAdoptConfig:
 *
 * Makes the persistent definition name the target, if it names the source: for all disks of a
 * group at once, since a driver without Ferry may start the domain next. Domain locked; it may be
 * shut off.
 *
 * Returns 0, or -1 with an error reported: the definition on the disk may still name the
 * source then, so keep the journal, or tell the user.
 */
int
ferryCopyAdoptConfig(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    virDomainDef *def = ferryCopyConfig(op->vm);
    g_autoptr(GPtrArray) group = ferryOpGroup(op);
    size_t i;

    if (!def)
        return 0;

    for (i = 0; i < group->len; i++) {
        ferryOp *member = g_ptr_array_index(group, i);

        /* one whose job failed to move its disk is undone */
        if (member != op && op->vm->pid != 0 && !ferryCopyOf(member)->moved)
            continue;

        if (ferryCopyAdoptDisk(member, def) < 0)
            return -1;
        copy->unsaved = copy->unsaved || ferryCopyOf(g_ptr_array_index(group, i))->unsaved;
    }

    if (ferryCopySaveConfig(op, def) < 0) {
        virErrorPtr err = NULL;

        virErrorPreserveLast(&err);
        VIR_ERROR(_("disk '%1$s' of domain '%2$s' is on '%3$s' now, but the configuration could not "
                    "be saved"),
                  copy->dst, op->vm->def->name, NULLSTR(copy->target->path));
        virErrorRestore(&err);
        return -1;
    }

    for (i = 0; i < group->len; i++)
        ferryCopyOf(g_ptr_array_index(group, i))->unsaved = false;
    return 0;
}


/**
 * ferryCopyCutOld:
 *
 * Takes out of the old image's chain what the disk's chain has now: after a restart the old chain
 * comes from the journal, whole. Domain locked.
 */
void
ferryCopyCutOld(ferryOp *op)
{
    virDomainDiskDef *disk = ferryCopyDisk(op);
    virStorageSource *n;
    virStorageSource *m;

    for (n = ferryCopyOf(op)->old; virStorageSourceIsBacking(n); n = n->backingStore) {
        for (m = disk ? disk->src : NULL; virStorageSourceIsBacking(m); m = m->backingStore) {
            if (n->backingStore && STREQ_NULLABLE(ferryNodeName(n->backingStore), ferryNodeName(m))) {
                g_clear_pointer(&n->backingStore, virObjectUnref);
                break;
            }
        }
    }
}
