/*
 * data.c: mirrored snapshots: the data of the operation, and its journal
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "ops/copy/copy.h"
#include "ops/copy/data.h"
#include "ops/snapshot/data.h"
#include "virerror.h"
#include "virxml.h"

#define VIR_FROM_THIS VIR_FROM_QEMU


static void
ferrySnapshotDiskFree(void *opaque)
{
    ferrySnapshotDisk *disk = opaque;

    g_free(disk->dst);
    g_free(disk->base);
    virObjectUnref(disk->overlay);
    virObjectUnref(disk->mirror);
    ferryFileFree(disk->file);
    if (disk->copy)
        ferryCopyFree(disk->copy);
    g_free(disk);
}


void
ferrySnapshotFree(void *data)
{
    ferrySnapshot *snapshot = data;

    g_free(snapshot->name);
    ferrySnapshotLooksUnref(snapshot->looks);
    if (snapshot->driven)
        g_ptr_array_unref(snapshot->driven);
    g_ptr_array_unref(snapshot->disks);
    g_free(snapshot);
}


/**
 * ferrySnapshotNew:
 *
 * Returns the data of a snapshot without disks. The caller frees it (ferrySnapshotFree()).
 */
ferrySnapshot *
ferrySnapshotNew(void)
{
    ferrySnapshot *snapshot = g_new0(ferrySnapshot, 1);

    snapshot->disks = g_ptr_array_new_with_free_func(ferrySnapshotDiskFree);
    return snapshot;
}


/* Returns a new disk of @snapshot, which owns it. */
ferrySnapshotDisk *
ferrySnapshotAddDisk(ferrySnapshot *snapshot)
{
    ferrySnapshotDisk *disk = g_new0(ferrySnapshotDisk, 1);

    disk->overlay = virStorageSourceNew();
    g_ptr_array_add(snapshot->disks, disk);
    return disk;
}


ferrySnapshotDisk *
ferrySnapshotDiskAt(ferrySnapshot *snapshot,
                    size_t i)
{
    return g_ptr_array_index(snapshot->disks, i);
}


/**
 * ferrySnapshotHasImage:
 *
 * Returns whether snapshot @moment, in a domain's list, has added @image to disk @dst.
 */
bool
ferrySnapshotHasImage(virDomainMomentObj *moment,
                      const char *dst,
                      virStorageSource *image)
{
    virDomainSnapshotDef *def = virDomainSnapshotObjGetDef(moment);
    size_t i;

    for (i = 0; i < def->ndisks; i++) {
        if (STREQ_NULLABLE(def->disks[i].name, dst) && def->disks[i].src &&
            virStorageSourceIsSameLocation(def->disks[i].src, image))
            return true;
    }

    return false;
}


/**
 * ferrySnapshotCopies:
 *
 * Returns the copies that @op has begun and that are not clients' yet, with a reference to each.
 * Domain locked. The caller frees the list.
 */
GPtrArray *
ferrySnapshotCopies(ferryOp *op)
{
    GPtrArray *copies = g_ptr_array_new_with_free_func((GDestroyNotify) ferryOpUnref);
    GPtrArray *ops = op->vm ? ferryOpList(op->vm) : NULL;
    size_t i;

    for (i = 0; ops && i < ops->len; i++) {
        ferryOp *other = g_ptr_array_index(ops, i);

        if (other->klass == &ferryCopyClass && !other->stopped && ferryCopyOf(other)->pending)
            g_ptr_array_add(copies, ferryOpRef(other));
    }

    return copies;
}


/**
 * ferrySnapshotFormat:
 *
 * Writes to @buf, for the journal, what undo and recovery need.
 */
int
ferrySnapshotFormat(ferryOp *op,
                    virBuffer *buf)
{
    ferrySnapshot *snapshot = ferrySnapshotOf(op);
    g_auto(virBuffer) attrs = VIR_BUFFER_INITIALIZER;
    size_t i;

    virBufferEscapeString(&attrs, " name='%s'", snapshot->name);
    virBufferAsprintf(&attrs, " metadata='%s'", snapshot->metadata ? "yes" : "no");
    virBufferAsprintf(&attrs, " complete='%s'", snapshot->complete ? "yes" : "no");
    virXMLFormatElement(buf, "snapshot", &attrs, /* childBuf= */ NULL);
    ferryQuiesceFormat(buf, &snapshot->quiesce);

    for (i = 0; i < snapshot->disks->len; i++) {
        ferrySnapshotDisk *disk = ferrySnapshotDiskAt(snapshot, i);
        g_auto(virBuffer) diskAttrs = VIR_BUFFER_INITIALIZER;

        virBufferEscapeString(&diskAttrs, " disk='%s'", disk->dst);
        virBufferEscapeString(&diskAttrs, " base='%s'", disk->base);
        virBufferEscapeString(&diskAttrs, " path='%s'", disk->overlay->path);
        virBufferAsprintf(&diskAttrs, " format='%s'",
                          virStorageFileFormatTypeToString(disk->overlay->format));
        virBufferAsprintf(&diskAttrs, " origin='%s'", ferryImageOriginTypeToString(disk->origin));
        ferryFileFormat(&diskAttrs, disk->file);
        if (disk->reverted)
            virBufferAddLit(&diskAttrs, " reverted='yes'");
        if (disk->paused)
            virBufferAddLit(&diskAttrs, " paused='yes'");
        virXMLFormatElement(buf, "overlay", &diskAttrs, /* childBuf= */ NULL);
    }

    return 0;
}


static int
ferrySnapshotParseDisk(xmlNodePtr node,
                       ferrySnapshotDisk *disk)
{
    unsigned int format;
    virTristateBool reverted;
    virTristateBool paused;

    disk->overlay->type = VIR_STORAGE_TYPE_FILE;
    disk->overlay->path = virXMLPropString(node, "path");

    if (!(disk->dst = virXMLPropStringRequired(node, "disk")) ||
        !(disk->base = virXMLPropStringRequired(node, "base")) ||
        virXMLPropEnum(node, "format", virStorageFileFormatTypeFromString,
                       VIR_XML_PROP_REQUIRED, &format) < 0 ||
        virXMLPropEnum(node, "origin", ferryImageOriginTypeFromString,
                       VIR_XML_PROP_REQUIRED, &disk->origin) < 0 ||
        virXMLPropTristateBool(node, "reverted", VIR_XML_PROP_NONE, &reverted) < 0 ||
        virXMLPropTristateBool(node, "paused", VIR_XML_PROP_NONE, &paused) < 0 ||
        ferryFileParse(node, &disk->file) < 0)
        return -1;

    disk->reverted = reverted == VIR_TRISTATE_BOOL_YES;
    disk->paused = paused == VIR_TRISTATE_BOOL_YES;

    disk->overlay->format = format;
    return 0;
}


/**
 * ferrySnapshotParse:
 *
 * Reads what ferrySnapshotFormat() wrote; the node of @ctxt is the operation. Returns a
 * ferrySnapshot (free: ferrySnapshotFree()), or NULL with an error reported.
 */
void *
ferrySnapshotParse(virQEMUDriver *driver G_GNUC_UNUSED,
                   xmlXPathContextPtr ctxt)
{
    g_autoptr(ferrySnapshot) snapshot = ferrySnapshotNew();
    xmlNodePtr node = virXPathNode("./snapshot", ctxt);
    g_autofree xmlNodePtr *nodes = NULL;
    virTristateBool metadata;
    virTristateBool complete;
    int n = virXPathNodeSet("./overlay", ctxt, &nodes);
    int i;

    if (!node || n <= 0) {
        virReportError(VIR_ERR_XML_DETAIL, "%s", _("the journal lacks the snapshot or its disks"));
        return NULL;
    }

    if (!(snapshot->name = virXMLPropStringRequired(node, "name")) ||
        virXMLPropTristateBool(node, "metadata", VIR_XML_PROP_REQUIRED, &metadata) < 0 ||
        virXMLPropTristateBool(node, "complete", VIR_XML_PROP_REQUIRED, &complete) < 0 ||
        ferryQuiesceParse(ctxt, &snapshot->quiesce) < 0)
        return NULL;

    /* the name becomes a part of a path */
    if (!*snapshot->name || strchr(snapshot->name, '/')) {
        virReportError(VIR_ERR_XML_DETAIL, _("bad snapshot name '%1$s'"), snapshot->name);
        return NULL;
    }

    snapshot->complete = complete == VIR_TRISTATE_BOOL_YES;
    snapshot->metadata = metadata == VIR_TRISTATE_BOOL_YES;

    for (i = 0; i < n; i++) {
        if (ferrySnapshotParseDisk(nodes[i], ferrySnapshotAddDisk(snapshot)) < 0)
            return NULL;
    }

    return g_steal_pointer(&snapshot);
}
