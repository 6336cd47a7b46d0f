/*
 * load.c: reads the checkpoints of an earlier driver
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * libvirt's own function compares a definition with the schema of checkpoints, which includes that of
 * domains, and reads these schemas again for each definition: 12 ms of processor time and more for each
 * checkpoint of the host whenever the driver starts. What clients send has to be compared. Files that a driver wrote need
 * not be: here one is read without the schema, and whatever is not as it should be is left to libvirt's.
 */

#include <config.h>

#include "ops/checkpoint/load.h"
#include "virerror.h"
#include "virxml.h"

#define VIR_FROM_THIS VIR_FROM_QEMU


/* Reads one child of <disks>. Returns false if it is not as a driver writes it. */
static bool
ferryCheckpointReadDisk(xmlNodePtr node,
                        virDomainCheckpointDiskDef *disk)
{
    g_autofree char *type = virXMLPropString(node, "checkpoint");

    disk->name = virXMLPropString(node, "name");
    disk->bitmap = virXMLPropString(node, "bitmap");
    disk->type = type ? virDomainCheckpointTypeFromString(type) : VIR_DOMAIN_CHECKPOINT_TYPE_BITMAP;

    return virXMLNodeNameEqual(node, "disk") && disk->name && *disk->name &&
           disk->type > VIR_DOMAIN_CHECKPOINT_TYPE_DEFAULT &&
           (disk->type == VIR_DOMAIN_CHECKPOINT_TYPE_BITMAP) == !!disk->bitmap;
}


static bool
ferryCheckpointReadDisks(xmlXPathContextPtr ctxt,
                         virDomainCheckpointDef *def)
{
    g_autofree xmlNodePtr *nodes = NULL;
    int count = virXPathNodeSet("./disks/*", ctxt, &nodes);
    bool read = true;
    int i;

    if (count <= 0)
        return false;

    def->disks = g_new0(virDomainCheckpointDiskDef, count);
    for (i = 0; i < count && read; i++) {
        read = ferryCheckpointReadDisk(nodes[i], &def->disks[i]);
        def->ndisks++;
    }

    return read;
}


/* Returns whether the disks of @def are those of the domain in it. */
static bool
ferryCheckpointHasDisks(virDomainCheckpointDef *def)
{
    size_t i;

    for (i = 0; i < def->ndisks; i++) {
        if (!virDomainDiskByTarget(def->parent.dom, def->disks[i].name))
            return false;
    }

    return true;
}


/**
 * ferryCheckpointRead:
 * @text: what is in the file of a checkpoint
 * @xmlopt, @parseOpaque: for the definition of the domain, which it contains
 *
 * Returns the definition, or NULL: then libvirt's own function has to read @text, and to say what is wrong.
 * Reports no error.
 */
virDomainCheckpointDef *
ferryCheckpointRead(const char *text,
                    virDomainXMLOption *xmlopt,
                    void *parseOpaque)
{
    g_autoptr(virDomainCheckpointDef) def = virDomainCheckpointDefNew();
    g_autoptr(xmlXPathContext) ctxt = NULL;
    g_autoptr(xmlDoc) doc = NULL;
    int keepBlanks = xmlKeepBlanksDefault(0); /* as libvirt's */
    bool known;

    doc = virXMLParse(/* filename= */ NULL, text, _("(domain_checkpoint)"), "domaincheckpoint", &ctxt,
                      /* schemafile= */ NULL, /* validate= */ false);
    xmlKeepBlanksDefault(keepBlanks);

    known = def && doc && (def->parent.name = virXPathString("string(./name)", ctxt)) &&
            virXPathLongLong("string(./creationTime)", ctxt, &def->parent.creationTime) == 0 &&
            ferryCheckpointReadDisks(ctxt, def);

    if (known) {
        def->parent.description = virXPathString("string(./description)", ctxt);
        def->parent.parent_name = virXPathString("string(./parent/name)", ctxt);

        known = (def->parent.parent_name || !virXPathNode("./parent", ctxt)) &&
                (ctxt->node = virXPathNode("./domain", ctxt)) &&
                (def->parent.dom = virDomainDefParseNode(ctxt, xmlopt, parseOpaque,
                                                         VIR_DOMAIN_DEF_PARSE_INACTIVE |
                                                             VIR_DOMAIN_DEF_PARSE_SKIP_VALIDATE)) &&
                ferryCheckpointHasDisks(def);
    }

    virResetLastError();
    return known ? g_steal_pointer(&def) : NULL;
}
