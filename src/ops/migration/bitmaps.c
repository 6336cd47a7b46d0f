/*
 * bitmaps.c: storage migration: checkpoints travel along
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * QEMU migrates bitmaps with the memory. <blockDirtyBitmaps> in the cookie tells both
 * hosts which ones, as between stock hosts. A checkpoint's definition says what its
 * bitmap is for; Ferry adds the definitions to the cookie:
 *
 *   <ferry><checkpoint>DOCUMENT</checkpoint>...</ferry>
 *
 * Parents come first. When the guest has arrived, the destination redefines the
 * checkpoints, as a client would with checkpoint-create --redefine. They have the domain in them as it was
 * then; if a newer source says there what an older destination does not know, they go along without it.
 */

#include <config.h>

#include "block/node.h"
#include "compat/caps.h"
#include "ops/migration/bitmaps.h"
#include "qemu/qemu_block.h"
#include "qemu/qemu_migration_cookie.h"
#include "virdomaincheckpointobjlist.h"
#include "virerror.h"
#include "virlog.h"
#include "virxml.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.migration");

/* What the stock driver parses here, but NBD. Mandatory features must be parsed. */
#define FERRY_COOKIE_FEATURES \
    (QEMU_MIGRATION_COOKIE_LOCKSTATE | QEMU_MIGRATION_COOKIE_MEMORY_HOTPLUG | \
     QEMU_MIGRATION_COOKIE_CPU_HOTPLUG | QEMU_MIGRATION_COOKIE_CPU | \
     QEMU_MIGRATION_COOKIE_CAPS | QEMU_MIGRATION_COOKIE_BLOCK_DIRTY_BITMAPS)

/* Bytes. The remote protocol limits a cookie to 4 MiB; its other parts are small. */
#define FERRY_CHECKPOINTS_MAX (3 * 1024 * 1024)


typedef struct {
    xmlNodePtr node;
    virDomainXMLOption *xmlopt;
    size_t size;
    int rc;
} ferryMigrationOfferCheckpoints;


static int
ferryMigrationOfferCheckpoint(void *payload,
                              const char *name G_GNUC_UNUSED,
                              void *opaque)
{
    virDomainMomentObj *chk = payload;
    ferryMigrationOfferCheckpoints *data = opaque;
    g_autofree char *xml = virDomainCheckpointDefFormat(virDomainCheckpointObjGetDef(chk),
                                                        data->xmlopt,
                                                        VIR_DOMAIN_CHECKPOINT_FORMAT_SECURE);

    if (!xml) {
        data->rc = -1;
    } else {
        data->size += strlen(xml);
        xmlNewTextChild(data->node, /* ns= */ NULL, BAD_CAST "checkpoint", BAD_CAST xml);
    }

    return 0;
}


/* Finds the metaroot: the ancestor of all checkpoints, which is no checkpoint itself. */
static int
ferryMigrationFindRoot(void *payload,
                       const char *name G_GNUC_UNUSED,
                       void *opaque)
{
    virDomainMomentObj **root = opaque;

    for (*root = payload; (*root)->parent;)
        *root = (*root)->parent;

    return 0;
}


/**
 * ferryMigrationCheckpointsOffer:
 * @root: root element of the source's cookie
 *
 * Adds the checkpoints of @vm, which is locked. Only warns on failure: a guest can do
 * without them.
 */
void
ferryMigrationCheckpointsOffer(virDomainObj *vm,
                               xmlNodePtr root)
{
    ferryMigrationOfferCheckpoints data = {
        .node = xmlNewChild(root, /* ns= */ NULL, BAD_CAST "ferry", /* content= */ NULL),
        .xmlopt = QEMU_DOMAIN_PRIVATE(vm)->driver->xmlopt,
    };
    virDomainMomentObj *top = NULL;

    virDomainCheckpointForEach(vm->checkpoints, ferryMigrationFindRoot, &top);
    if (top)
        virDomainMomentForEachDescendant(top, ferryMigrationOfferCheckpoint, &data);

    if (data.rc == 0 && data.size > FERRY_CHECKPOINTS_MAX) {
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("the definitions of the checkpoints of domain '%1$s' are too large for "
                         "the migration cookie"),
                       vm->def->name);
        data.rc = -1;
    }

    if (data.rc < 0) {
        VIR_WARN("the checkpoints of domain '%s' are not migrated: %s",
                 vm->def->name, virGetLastErrorMessage());
        virResetLastError();
    }

    if (data.rc < 0 || data.size == 0) {
        xmlUnlinkNode(data.node);
        xmlFreeNode(data.node);
    }
}


/**
 * ferryMigrationCheckpointsRead:
 *
 * Returns a new list of what ferryMigrationCheckpointsOffer() added, or NULL.
 */
char **
ferryMigrationCheckpointsRead(xmlXPathContextPtr ctxt)
{
    g_autoptr(GPtrArray) found = g_ptr_array_new_with_free_func(g_free);
    g_autofree xmlNodePtr *nodes = NULL;
    int n = virXPathNodeSet("./ferry/checkpoint", ctxt, &nodes);
    int i;

    for (i = 0; i < n; i++) {
        char *xml = virXMLNodeContentString(nodes[i]);

        if (xml)
            g_ptr_array_add(found, xml);
    }

    if (found->len == 0)
        return NULL;

    g_ptr_array_add(found, NULL);
    return (char **) g_ptr_array_free(g_steal_pointer(&found), /* free_seg= */ false);
}


/**
 * ferryMigrationCheckpointStrip:
 * @xml: of a checkpoint, as the source has sent it
 *
 * Returns @xml without the domain in it, which libvirt does not need to redefine a checkpoint; or NULL with an
 * error reported. The caller frees it.
 */
char *
ferryMigrationCheckpointStrip(const char *xml)
{
    g_autoptr(xmlDoc) doc = virXMLParseStringCtxt(xml, _("(domain_checkpoint)"), /* ctxt= */ NULL);
    xmlNodePtr root = doc ? xmlDocGetRootElement(doc) : NULL;
    xmlNodePtr node;

    if (!root)
        return NULL;

    if ((node = virXMLNodeGetSubelement(root, "domain"))) {
        xmlUnlinkNode(node);
        xmlFreeNode(node);
    }

    return virXMLNodeToString(doc, root);
}


/* Skips bitmaps that an image cannot hold (only qcow2 v3 can), or whose names it has. Such a
 * checkpoint has only the image's own bitmap here, which may be broken: the log says so. */
static void
ferryMigrationBitmapsFilter(virDomainObj *vm,
                            GSList *disks,
                            GHashTable *nodes)
{
    GSList *d;
    GSList *b;

    for (d = disks; d; d = d->next) {
        qemuMigrationBlockDirtyBitmapsDisk *disk = d->data;
        qemuBlockNamedNodeData *data = virHashLookup(nodes, disk->nodename);

        disk->skip = !data || data->qcow2v2 || disk->disk->src->format != VIR_STORAGE_FILE_QCOW2;

        for (b = disk->bitmaps; b; b = b->next) {
            qemuMigrationBlockDirtyBitmapsDiskBitmap *bitmap = b->data;

            bitmap->skip = disk->skip ||
                           qemuBlockNamedNodeDataGetBitmapByName(nodes, disk->disk->src,
                                                                 bitmap->bitmapname);

            if (bitmap->skip)
                VIR_WARN("bitmap '%s' of disk '%s' of domain '%s' does not come along: '%s' %s",
                         bitmap->bitmapname, disk->target, vm->def->name,
                         NULLSTR(disk->disk->src->path),
                         disk->skip ? "cannot hold bitmaps" : "has one of that name");
        }
    }
}


/* Returns the <blockDirtyBitmaps> that tells the source which bitmaps are accepted. */
static char *
ferryMigrationBitmapsFormat(GSList *disks)
{
    g_auto(virBuffer) buf = VIR_BUFFER_INITIALIZER;
    g_auto(virBuffer) all = VIR_BUFFER_INIT_CHILD(&buf);
    GSList *d;
    GSList *b;

    for (d = disks; d; d = d->next) {
        qemuMigrationBlockDirtyBitmapsDisk *disk = d->data;
        g_auto(virBuffer) attrs = VIR_BUFFER_INITIALIZER;
        g_auto(virBuffer) children = VIR_BUFFER_INIT_CHILD(&all);

        for (b = disk->bitmaps; b; b = b->next) {
            qemuMigrationBlockDirtyBitmapsDiskBitmap *bitmap = b->data;

            if (bitmap->skip)
                continue;

            virBufferEscapeString(&children, "<bitmap name='%s'", bitmap->bitmapname);
            virBufferEscapeString(&children, " alias='%s'/>\n", bitmap->alias);
        }

        virBufferEscapeString(&attrs, " target='%s'", disk->target);
        if (virBufferUse(&children) > 0)
            virXMLFormatElement(&all, "disk", &attrs, &children);
    }

    virXMLFormatElement(&buf, "blockDirtyBitmaps", /* attrBuf= */ NULL, &all);
    return virBufferContentAndReset(&buf);
}


/**
 * ferryMigrationBitmapsAccept:
 * @vm: the destination's domain, locked, with a job
 * @cookie: the source's cookie
 * @params: parameters of the incoming migration; the accepted bitmaps are added
 * @answer: set to a new element for the source; left as it is if no bitmap is accepted
 *
 * Returns 0, or -1 with an error reported.
 */
int
ferryMigrationBitmapsAccept(virDomainObj *vm,
                            const char *cookie,
                            qemuMigrationParams *params,
                            char **answer)
{
    qemuDomainObjPrivate *priv = vm->privateData;
    g_autoptr(qemuMigrationCookie) mig = NULL;
    g_autoptr(GHashTable) nodes = NULL;
    g_autoptr(virJSONValue) mapping = NULL;

    if (!ferryCapsAreRecent(priv->qemuCaps))
        return 0;

    if (!(mig = qemuMigrationCookieParse(priv->driver, vm, vm->def, priv->origname, priv->qemuCaps,
                                         cookie, strlen(cookie) + 1,
                                         FERRY_COOKIE_FEATURES)))
        return -1;

    if (!mig->blockDirtyBitmaps)
        return 0;

    if (qemuMigrationCookieBlockDirtyBitmapsMatchDisks(vm->def, mig->blockDirtyBitmaps) < 0 ||
        !(nodes = ferryNodeData(vm)))
        return -1;

    ferryMigrationBitmapsFilter(vm, mig->blockDirtyBitmaps, nodes);

    if (qemuMigrationCookieBlockDirtyBitmapsToParams(mig->blockDirtyBitmaps, &mapping) < 0)
        return -1;

    if (!mapping)
        return 0;

    qemuMigrationParamsSetBlockDirtyBitmapMapping(params, &mapping);
    *answer = ferryMigrationBitmapsFormat(mig->blockDirtyBitmaps);
    return 0;
}
