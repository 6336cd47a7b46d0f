/*
 * source.c: storage sources as text, as configuration, and compared
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "block/source.h"
#include "virxml.h"

#define VIR_FROM_THIS VIR_FROM_QEMU


/**
 * ferrySourceFormat:
 * @runtime: with node names, secret aliases and what else a running QEMU needs
 *
 * Writes @src and its backing chain as a <disk> element.
 */
int
ferrySourceFormat(virBuffer *buf,
                  virStorageSource *src,
                  virDomainXMLOption *xmlopt,
                  bool runtime)
{
    g_auto(virBuffer) attrs = VIR_BUFFER_INITIALIZER;
    g_auto(virBuffer) driver = VIR_BUFFER_INITIALIZER;
    g_auto(virBuffer) children = VIR_BUFFER_INIT_CHILD(buf);
    unsigned int flags = VIR_DOMAIN_DEF_FORMAT_SECURE;

    flags |= runtime ? VIR_DOMAIN_DEF_FORMAT_STATUS : VIR_DOMAIN_DEF_FORMAT_INACTIVE;

    virBufferAsprintf(&attrs, " type='%s'", virStorageTypeToString(src->type));
    if (src->format > VIR_STORAGE_FILE_NONE)
        virBufferAsprintf(&driver, " type='%s'", virStorageFileFormatTypeToString(src->format));

    virXMLFormatElement(&children, "driver", &driver, NULL);

    if (virDomainDiskSourceFormat(&children, src, "source", 0, runtime, flags,
                                  false, false, xmlopt) < 0 ||
        virDomainDiskBackingStoreFormat(&children, src, xmlopt, flags) < 0)
        return -1;

    virXMLFormatElement(buf, "disk", &attrs, &children);
    return 0;
}


/**
 * ferrySourceParse:
 *
 * Reads what ferrySourceFormat() wrote. Returns NULL with an error reported.
 */
virStorageSource *
ferrySourceParse(xmlNodePtr node,
                 virDomainXMLOption *xmlopt,
                 bool runtime)
{
    g_autofree char *xml = virXMLNodeToString(node->doc, node);

    if (!xml)
        return NULL;

    return virDomainDiskDefParseSource(xml, xmlopt, runtime ? VIR_DOMAIN_DEF_PARSE_STATUS :
                                                              VIR_DOMAIN_DEF_PARSE_INACTIVE);
}


/**
 * ferrySourceAsConfig:
 *
 * Returns a copy of @src as it stands in a persistent definition: without
 * runtime state, and without backing images that were only detected.
 */
virStorageSource *
ferrySourceAsConfig(virStorageSource *src,
                    virDomainXMLOption *xmlopt)
{
    g_auto(virBuffer) buf = VIR_BUFFER_INITIALIZER;
    g_autoptr(xmlDoc) xml = NULL;
    g_autoptr(xmlXPathContext) ctxt = NULL;

    if (ferrySourceFormat(&buf, src, xmlopt, false) < 0 ||
        !(xml = virXMLParse(NULL, virBufferCurrentContent(&buf), _("(disk_definition)"),
                            "disk", &ctxt, NULL, false)))
        return NULL;

    return ferrySourceParse(ctxt->node, xmlopt, false);
}


static bool
ferrySourceInChain(virStorageSource *chain,
                   virStorageSource *elem,
                   virStorageSource *except)
{
    virStorageSource *n;

    for (n = chain; virStorageSourceIsBacking(n) && n != except; n = n->backingStore) {
        if (n != elem && virStorageSourceIsSameLocation(n, elem))
            return true;
    }

    return false;
}


/**
 * ferrySourceInUse:
 * @except: chain that is about to go away and does not count
 *
 * Returns true when a disk of @def uses the storage that @elem names, be it
 * in its chain or as the target of a copy.
 */
bool
ferrySourceInUse(virDomainDef *def,
                 virStorageSource *elem,
                 virStorageSource *except)
{
    size_t i;

    for (i = 0; i < def->ndisks; i++) {
        if (ferrySourceInChain(def->disks[i]->src, elem, except) ||
            ferrySourceInChain(def->disks[i]->mirror, elem, except))
            return true;
    }

    return false;
}


/**
 * ferrySourceIsFile:
 *
 * Returns true when @src is a file of a file system here, which can be
 * created, synced and removed.
 */
bool
ferrySourceIsFile(virStorageSource *src)
{
    return virStorageSourceGetActualType(src) == VIR_STORAGE_TYPE_FILE && src->path;
}


/**
 * ferrySourceIsOneRawLayer:
 *
 * Returns whether a mirror of the top layer of @src copies all of it: no range of
 * a raw image counts as unallocated, holes are zeroes. A full mirror to a target
 * where zeroes may become holes begins with zeroing all of it, which in a raw
 * image costs as much as writing it; such a source does not need that.
 */
bool
ferrySourceIsOneRawLayer(virStorageSource *src)
{
    return src->format == VIR_STORAGE_FILE_RAW && !virStorageSourceHasBacking(src);
}
