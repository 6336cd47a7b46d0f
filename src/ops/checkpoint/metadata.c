/*
 * metadata.c: the definitions of a domain's checkpoints: the list, and a file for each
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include <unistd.h>

#include "block/durable.h"
#include "engine/op.h"
#include "engine/settle.h"
#include "ops/checkpoint/metadata.h"
#include "qemu/qemu_checkpoint.h"
#include "virdomaincheckpointobjlist.h"
#include "virerror.h"
#include "virfile.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.checkpoint");


/**
 * ferryCheckpointFind:
 *
 * Returns the definition of checkpoint @name of @vm, or NULL. The caller unrefs it: as
 * soon as the domain's lock is released, another thread may delete the checkpoint. @vm is
 * locked.
 */
virDomainCheckpointDef *
ferryCheckpointFind(virDomainObj *vm,
                    const char *name)
{
    virDomainMomentObj *chk = virDomainCheckpointFindByName(vm->checkpoints, name);

    return chk ? virObjectRef(virDomainCheckpointObjGetDef(chk)) : NULL;
}


/**
 * ferryCheckpointCheckDisk:
 *
 * Returns 0 if the disk of @chkdisk, which is one of @def, is there and can have a bitmap,
 * or -1 with an error reported.
 */
int
ferryCheckpointCheckDisk(virDomainObj *vm,
                         virDomainCheckpointDef *def,
                         virDomainCheckpointDiskDef *chkdisk)
{
    virDomainDiskDef *disk = virDomainDiskByTarget(vm->def, chkdisk->name);

    if (chkdisk->type != VIR_DOMAIN_CHECKPOINT_TYPE_BITMAP)
        return 0;

    if (!disk) {
        virReportError(VIR_ERR_OPERATION_INVALID,
                       _("disk '%1$s' of domain '%2$s' was removed while checkpoint '%3$s' "
                         "was being created; try again"),
                       chkdisk->name, vm->def->name, def->parent.name);
        return -1;
    }

    if (STRNEQ(chkdisk->bitmap, def->parent.name)) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("bitmap for disk '%1$s' must match checkpoint name '%2$s'"),
                       chkdisk->name, def->parent.name);
        return -1;
    }

    if (disk->src->format != VIR_STORAGE_FILE_QCOW2) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("disk '%1$s' of domain '%2$s' cannot have checkpoint '%3$s', since its "
                         "image is of format %4$s and only qcow2 holds bitmaps: leave the disk out with "
                         "checkpoint='no', or convert the image to qcow2"),
                       chkdisk->name, vm->def->name, def->parent.name,
                       virStorageFileFormatTypeToString(disk->src->format));
        return -1;
    }

    return qemuDomainDiskBlockJobIsSupported(disk) ? 0 : -1;
}


/* Returns a copy of the live definition, or NULL with an error reported. */
static virDomainDef *
ferryCheckpointCopyDomain(virDomainObj *vm)
{
    qemuDomainObjPrivate *priv = vm->privateData;
    g_autofree char *xml = qemuDomainDefFormatLive(priv->driver, priv->qemuCaps, vm->def,
                                                   priv->origCPU, /* inactive= */ true,
                                                   /* compatible= */ true);

    if (!xml)
        return NULL;

    return virDomainDefParseString(xml, priv->driver->xmlopt, priv->qemuCaps,
                                   VIR_DOMAIN_DEF_PARSE_INACTIVE |
                                       VIR_DOMAIN_DEF_PARSE_SKIP_VALIDATE);
}


/**
 * ferryCheckpointPrepare:
 *
 * Returns a new definition of the checkpoint that @xml describes, or NULL with an error
 * reported. Its disks are filled in and checked against @vm; its parent is the current
 * checkpoint. @vm is locked.
 */
virDomainCheckpointDef *
ferryCheckpointPrepare(virDomainObj *vm,
                       const char *xml)
{
    qemuDomainObjPrivate *priv = vm->privateData;
    g_autoptr(virDomainCheckpointDef) def = NULL;
    size_t i;

    if (!(def = virDomainCheckpointDefParseString(xml, priv->driver->xmlopt, priv->qemuCaps,
                                                  /* flags= */ 0)) ||
        !(def->parent.dom = ferryCheckpointCopyDomain(vm)) ||
        virDomainCheckpointAlignDisks(def) < 0)
        return NULL;

    for (i = 0; i < def->ndisks; i++) {
        if (ferryCheckpointCheckDisk(vm, def, &def->disks[i]) < 0)
            return NULL;
    }

    if (ferrySettleCheckCheckpoint(vm, def->parent.name) < 0)
        return NULL;

    if (virDomainCheckpointFindByName(vm->checkpoints, def->parent.name)) {
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("domain moment %1$s already exists"), def->parent.name);
        return NULL;
    }

    def->parent.parent_name = g_strdup(virDomainCheckpointGetCurrentName(vm->checkpoints));
    return g_steal_pointer(&def);
}


/* Returns the folder with the files of the domain's checkpoints. */
static char *
ferryCheckpointFolder(virDomainObj *vm)
{
    g_autoptr(virQEMUDriverConfig) cfg = virQEMUDriverGetConfig(QEMU_DOMAIN_PRIVATE(vm)->driver);

    return g_strdup_printf("%s/%s", cfg->checkpointDir, vm->def->name);
}


/**
 * ferryCheckpointSave:
 *
 * Writes the file of @def to the disk, its folder included. Clients do not see a new
 * checkpoint before ferryCheckpointAdopt() puts it into the domain's list.
 */
int
ferryCheckpointSave(virDomainObj *vm,
                    virDomainCheckpointDef *def)
{
    virQEMUDriver *driver = QEMU_DOMAIN_PRIVATE(vm)->driver;
    g_autoptr(virQEMUDriverConfig) cfg = virQEMUDriverGetConfig(driver);
    g_autofree char *dir = ferryCheckpointFolder(vm);
    virDomainMomentObj moment = { .def = &def->parent };

    if (ferryDurableMkdir(dir, 0777) < 0 ||
        qemuCheckpointWriteMetadata(vm, &moment, driver->xmlopt, cfg->checkpointDir) < 0)
        return -1;

    return ferryDurableFolder(dir);
}


/**
 * ferryCheckpointAdopt:
 *
 * Puts @def into the domain's list as the current checkpoint, unless @def is listed. The
 * list gets its own reference. Returns 0, or -1 with an error reported.
 */
int
ferryCheckpointAdopt(virDomainObj *vm,
                     virDomainCheckpointDef *def)
{
    virDomainMomentObj *chk;

    if (virDomainCheckpointFindByName(vm->checkpoints, def->parent.name))
        return 0;

    if (!(chk = virDomainCheckpointAssignDef(vm->checkpoints, def)))
        return -1;

    virObjectRef(def); /* for the list, which took none */
    virDomainCheckpointSetCurrent(vm->checkpoints, chk);
    virDomainCheckpointLinkParent(vm->checkpoints, chk);
    return 0;
}


static bool
ferryCheckpointIsListed(GPtrArray *names,
                        const char *name)
{
    return name && g_ptr_array_find_with_equal_func(names, name, g_str_equal, NULL);
}


/* Returns @chk, or its nearest ancestor, that is not in @names; NULL: none. */
static virDomainMomentObj *
ferryCheckpointSurvivor(virDomainObj *vm,
                        GPtrArray *names,
                        virDomainMomentObj *chk)
{
    while (chk && ferryCheckpointIsListed(names, chk->def->name))
        chk = chk->def->parent_name ? virDomainCheckpointFindByName(vm->checkpoints,
                                                                    chk->def->parent_name) :
                                      NULL;
    return chk;
}


typedef struct {
    virDomainObj *vm;
    GPtrArray *names;
    int rc;
} ferryCheckpointReparentData;


static int
ferryCheckpointReparent(void *payload,
                        const char *key G_GNUC_UNUSED,
                        void *opaque)
{
    virDomainMomentObj *chk = payload;
    ferryCheckpointReparentData *data = opaque;
    virDomainMomentObj *parent;
    g_autofree char *old = NULL;

    if (ferryCheckpointIsListed(data->names, chk->def->name) ||
        !ferryCheckpointIsListed(data->names, chk->def->parent_name))
        return 0;

    parent = ferryCheckpointSurvivor(data->vm, data->names,
                                     virDomainCheckpointFindByName(data->vm->checkpoints,
                                                                   chk->def->parent_name));
    old = g_steal_pointer(&chk->def->parent_name);
    chk->def->parent_name = parent ? g_strdup(parent->def->name) : NULL;

    if (ferryCheckpointSave(data->vm, virDomainCheckpointObjGetDef(chk)) < 0) {
        /* so that the next try finds the checkpoint again */
        g_free(chk->def->parent_name);
        chk->def->parent_name = g_steal_pointer(&old);
        data->rc = -1;
    }

    return 0;
}


/* Reparents remaining children of @names to their nearest ancestor outside @names. */
static int
ferryCheckpointReparentAll(virDomainObj *vm,
                           GPtrArray *names)
{
    ferryCheckpointReparentData data = { .vm = vm, .names = names };

    virDomainCheckpointForEach(vm->checkpoints, ferryCheckpointReparent, &data);
    return data.rc;
}


static int
ferryCheckpointUnlink(const char *path)
{
    /* A read-only file system does not look whether there is such a file, and a file whose
     * name is too long could not be written either. */
    if (unlink(path) == 0 || errno == ENOENT || errno == ENAMETOOLONG ||
        (errno == EROFS && !virFileExists(path)))
        return 0;

    virReportSystemError(errno, _("cannot remove '%1$s'"), path);
    return -1;
}


/* Removes the files of the checkpoints, and the ".new" file of an interrupted write, also
 * from the disk: a driver that found them again would list checkpoints without bitmaps. */
static int
ferryCheckpointUnsave(virDomainObj *vm,
                      GPtrArray *names)
{
    g_autofree char *dir = ferryCheckpointFolder(vm);
    size_t i;

    for (i = 0; i < names->len; i++) {
        g_autofree char *path = g_strdup_printf("%s/%s.xml", dir,
                                                (const char *) g_ptr_array_index(names, i));
        g_autofree char *unfinished = g_strdup_printf("%s.new", path);

        if (ferryCheckpointUnlink(unfinished) < 0 || ferryCheckpointUnlink(path) < 0)
            return -1;
    }

    return virFileIsDir(dir) ? ferryDurableFolder(dir) : 0;
}


/* Removes the files of the checkpoints, and takes them off the domain's list. Returns 0, or
 * -1 with an error reported and all still listed. */
static int
ferryCheckpointDrop(virDomainObj *vm,
                    GPtrArray *names)
{
    virDomainMomentObj *current = virDomainCheckpointGetCurrent(vm->checkpoints);
    size_t i;

    if (ferryCheckpointUnsave(vm, names) < 0)
        return -1;

    virDomainCheckpointSetCurrent(vm->checkpoints, ferryCheckpointSurvivor(vm, names, current));

    for (i = 0; i < names->len; i++) {
        const char *name = g_ptr_array_index(names, i);
        virDomainMomentObj *chk = virDomainCheckpointFindByName(vm->checkpoints, name);

        if (chk) {
            virDomainMomentMoveChildren(chk, chk->parent);
            virDomainMomentDropParent(chk);
            virDomainCheckpointObjListRemove(vm->checkpoints, chk);
        }
    }

    return 0;
}


/**
 * ferryCheckpointRemoveAll:
 *
 * Removes checkpoints @names from the domain's list, and their files. May be called again
 * after an interruption. Returns 0, or -1 with an error reported and all still listed.
 */
int
ferryCheckpointRemoveAll(virDomainObj *vm,
                         GPtrArray *names)
{
    if (ferryCheckpointReparentAll(vm, names) < 0)
        return -1;

    return ferryCheckpointDrop(vm, names);
}


/**
 * ferryCheckpointRemove:
 *
 * Removes checkpoint @name, which was not created completely, from the domain's list if
 * listed, and its file. Returns 0, or -1 with an error reported: the operation must then
 * stay in the journal, or the next driver would list the checkpoint.
 */
int
ferryCheckpointRemove(virDomainObj *vm,
                      const char *name)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();

    g_ptr_array_add(names, (char *) name);

    /* only a warning: a restarted driver takes a child of an unknown parent for a root */
    if (ferryCheckpointReparentAll(vm, names) < 0)
        VIR_WARN("children of checkpoint '%s' of domain '%s' still name it as their parent: %s",
                 name, vm->def->name, virGetLastErrorMessage());
    virResetLastError();

    return ferryCheckpointDrop(vm, names);
}
