/*
 * source.c: storage sources: to and from XML, as configuration, compared
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "block/source.h"
#include "compat/block.h"
#include "virerror.h"
#include "virxml.h"

#define VIR_FROM_THIS VIR_FROM_QEMU


/* Writes the options that the image has in <driver>. The others there are the disk's. */
static void
ferrySourceFormatDriver(virBuffer *buf,
                        virStorageSource *src)
{
    g_auto(virBuffer) attrs = VIR_BUFFER_INITIALIZER;
    g_auto(virBuffer) children = VIR_BUFFER_INIT_CHILD(buf);
    g_auto(virBuffer) cache = VIR_BUFFER_INIT_CHILD(&children);

    if (src->format > VIR_STORAGE_FILE_NONE)
        virBufferAsprintf(&attrs, " type='%s'", virStorageFileFormatTypeToString(src->format));

    if (src->metadataCacheMaxSize > 0)
        virBufferAsprintf(&cache, "<max_size unit='bytes'>%llu</max_size>\n",
                          src->metadataCacheMaxSize);

    virXMLFormatElement(&children, "metadata_cache", /* attrBuf= */ NULL, &cache);
    virXMLFormatElement(buf, "driver", &attrs, &children);
}


/**
 * ferrySourceFormat:
 * @runtime: include node names, secret aliases and other state of a running QEMU
 *
 * Writes @src and its backing chain as a <disk> element. Returns 0, or -1 and an error.
 */
int
ferrySourceFormat(virBuffer *buf,
                  virStorageSource *src,
                  virDomainXMLOption *xmlopt,
                  bool runtime)
{
    g_auto(virBuffer) attrs = VIR_BUFFER_INITIALIZER;
    g_auto(virBuffer) children = VIR_BUFFER_INIT_CHILD(buf);
    unsigned int flags = VIR_DOMAIN_DEF_FORMAT_SECURE;

    flags |= runtime ? VIR_DOMAIN_DEF_FORMAT_STATUS : VIR_DOMAIN_DEF_FORMAT_INACTIVE;

    virBufferAsprintf(&attrs, " type='%s'", virStorageTypeToString(src->type));
    ferrySourceFormatDriver(&children, src);

    if (virDomainDiskSourceFormat(&children, src, "source", /* policy= */ 0, runtime, flags,
                                  /* skipAuth= */ false, /* skipEnc= */ false, xmlopt) < 0 ||
        virDomainDiskBackingStoreFormat(&children, src, xmlopt, flags) < 0)
        return -1;

    virXMLFormatElement(buf, "disk", &attrs, &children);
    return 0;
}


/**
 * ferrySourceParse:
 *
 * Reads what ferrySourceFormat() wrote. Returns NULL with an error reported on failure.
 */
virStorageSource *
ferrySourceParse(xmlNodePtr node,
                 virDomainXMLOption *xmlopt,
                 bool runtime)
{
    g_autofree char *xml = virXMLNodeToString(node->doc, node);

    if (!xml)
        return NULL;

    return virDomainDiskDefParseSource(xml, xmlopt,
                                       runtime ? VIR_DOMAIN_DEF_PARSE_STATUS : VIR_DOMAIN_DEF_PARSE_INACTIVE);
}


/**
 * ferrySourceAsConfig:
 *
 * Returns a copy of @src for a persistent definition: without runtime state and without
 * backing images that were only detected. Returns NULL with an error reported on failure.
 */
virStorageSource *
ferrySourceAsConfig(virStorageSource *src,
                    virDomainXMLOption *xmlopt)
{
    g_auto(virBuffer) buf = VIR_BUFFER_INITIALIZER;
    g_autoptr(xmlDoc) xml = NULL;
    g_autoptr(xmlXPathContext) ctxt = NULL;

    if (ferrySourceFormat(&buf, src, xmlopt, /* runtime= */ false) < 0 ||
        !(xml = virXMLParse(/* filename= */ NULL, virBufferCurrentContent(&buf),
                            _("(disk_definition)"), "disk", &ctxt, /* schemafile= */ NULL,
                            /* validate= */ false)))
        return NULL;

    return ferrySourceParse(ctxt->node, xmlopt, /* runtime= */ false);
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
 * @except: chain that is about to be removed and does not count; may be NULL
 *
 * Returns whether a disk of @def uses the storage of @elem, in its chain or as the target
 * of a copy. @elem itself does not count.
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
 * Returns whether @src is a file on this host, which can be created, synced and removed.
 */
bool
ferrySourceIsFile(virStorageSource *src)
{
    return virStorageSourceGetActualType(src) == VIR_STORAGE_TYPE_FILE && src->path;
}


/**
 * ferrySourceIsOneRawLayer:
 *
 * Returns whether a mirror of the top layer of @src copies all its data. It does if @src
 * is raw without a backing file: no range of a raw image is unallocated, holes are
 * zeroes. A full mirror would first zero the whole target, if zeroes may become holes
 * there, and in a raw target that can cost as much as writing it.
 */
bool
ferrySourceIsOneRawLayer(virStorageSource *src)
{
    return src->format == VIR_STORAGE_FILE_RAW && !virStorageSourceHasBacking(src);
}


/**
 * ferrySourceIsSamePlace:
 *
 * Returns whether both name the same place, one of them perhaps as a volume and the other one by its path.
 * Asks no storage: links are not followed.
 */
bool
ferrySourceIsSamePlace(virStorageSource *a,
                       virStorageSource *b)
{
    return virStorageSourceIsSameLocation(a, b) ||
           (a->path && virStorageSourceIsLocalStorage(a) && virStorageSourceIsLocalStorage(b) &&
            STREQ_NULLABLE(a->path, b->path));
}


/**
 * ferrySourceRefuseDataFile:
 * @image: what is to be written for disk @dst
 *
 * Ferry creates no data files, and gives QEMU none: such an image would be opened without its data.
 * Returns 0, or -1 with an error reported if @image has one.
 */
int
ferrySourceRefuseDataFile(virDomainObj *vm,
                          const char *dst,
                          virStorageSource *image)
{
    if (!ferryBlockDataFile(image))
        return 0;

    virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                   _("image '%1$s' for disk '%2$s' of domain '%3$s' has a data file (<dataStore>): name an "
                     "image that has none"),
                   NULLSTR(image->path), dst, vm->def->name);
    return -1;
}
