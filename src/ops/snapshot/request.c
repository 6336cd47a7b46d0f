/*
 * request.c: mirrored snapshots: the XML and its checks
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A <mirror> in a disk of a snapshot is ours: it is taken out of the XML, which the stock driver
 * then gets. What the stock driver makes of the rest is asked of libvirt's own parser.
 */

#include <config.h>

#include "block/nodename.h"
#include "compat/snapshot.h"
#include "ops/snapshot/request.h"
#include "snapshot_conf.h"
#include "virdomainsnapshotobjlist.h"
#include "virerror.h"
#include "virtime.h"
#include "virxml.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

/* What the checks read and fill in. */
typedef struct {
    virDomainObj *vm;
    qemuDomainObjPrivate *priv;
    unsigned int flags;
    xmlDocPtr doc;
    xmlXPathContextPtr ctxt;
    GHashTable *mirrors; /* name of a disk in the XML -> virStorageSource */
    ferrySnapshot *snapshot;
} ferrySnapshotRequestData;


static int
ferrySnapshotCheckFlags(ferrySnapshotRequestData *r)
{
    const char *why = NULL;

    if (r->flags & VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE)
        why = _("it cannot be redefined (--redefine)");
    else if (!(r->flags & VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY))
        why = _("it must be one of disks only (--disk-only)");
    else if (r->flags & VIR_DOMAIN_SNAPSHOT_CREATE_HALT)
        why = _("its mirrors would end with the guest (--halt)");

    if (!why)
        return virDomainObjCheckActive(r->vm);

    virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                   _("a snapshot of domain '%1$s' has <mirror>: %2$s"), r->vm->def->name, why);
    return -1;
}


static bool
ferrySnapshotIsOneOf(const xmlChar *name,
                     const char *const *known)
{
    return g_strv_contains(known, (const char *) name);
}


/* Returns 0 if @mirror, of disk @name, has only what is known, or -1 with an error reported. */
static int
ferrySnapshotCheckMirrorXML(ferrySnapshotRequestData *r,
                            xmlNodePtr mirror,
                            const char *name)
{
    static const char *const attrs[] = { "type", "file", "format", NULL };
    static const char *const elements[] = { "format", "source", "backingStore", NULL };
    const xmlChar *unknown = NULL;
    xmlAttrPtr attr;
    xmlNodePtr node;

    for (attr = mirror->properties; attr && !unknown; attr = attr->next)
        unknown = ferrySnapshotIsOneOf(attr->name, attrs) ? NULL : attr->name;

    for (node = mirror->children; node && !unknown; node = node->next) {
        if (node->type == XML_ELEMENT_NODE && !ferrySnapshotIsOneOf(node->name, elements))
            unknown = node->name;
    }

    if (!unknown)
        return 0;

    virReportError(VIR_ERR_XML_ERROR,
                   _("<mirror> of disk '%1$s' of a snapshot of domain '%2$s' has unknown '%3$s'; it has the "
                     "attributes type, file and format, and the elements <format>, <source> and "
                     "<backingStore>"),
                   name, r->vm->def->name, unknown);
    return -1;
}


static void
ferrySnapshotCopyChild(xmlNodePtr from,
                       const char *name,
                       xmlNodePtr to)
{
    xmlNodePtr node;

    for (node = from->children; node; node = node->next) {
        if (node->type == XML_ELEMENT_NODE && virXMLNodeNameEqual(node, name))
            xmlAddChild(to, xmlDocCopyNode(node, to->doc, /* recursive= */ 1));
    }
}


/* Returns what @mirror describes, or NULL with an error reported. It is written as the <disk> that
 * virDomainBlockCopy() takes, so that both understand the same. */
static virStorageSource *
ferrySnapshotParseMirror(ferrySnapshotRequestData *r,
                         xmlNodePtr mirror,
                         const char *name)
{
    g_autofree char *type = virXMLPropString(mirror, "type");
    g_autofree char *file = virXMLPropString(mirror, "file");
    g_autofree char *format = virXMLPropString(mirror, "format");
    g_autofree char *inner = NULL;
    g_autofree char *text = NULL;
    g_autoptr(xmlDoc) doc = xmlNewDoc(BAD_CAST "1.0");
    xmlNodePtr disk = xmlNewNode(/* ns= */ NULL, BAD_CAST "disk");
    xmlNodePtr node;

    xmlDocSetRootElement(doc, disk);
    xmlNewProp(disk, BAD_CAST "type", BAD_CAST(type ? type : "file"));

    for (node = mirror->children; node && !inner; node = node->next) {
        if (node->type == XML_ELEMENT_NODE && virXMLNodeNameEqual(node, "format"))
            inner = virXMLPropString(node, "type");
    }

    if (inner || format) {
        node = xmlNewChild(disk, /* ns= */ NULL, BAD_CAST "driver", /* content= */ NULL);
        xmlNewProp(node, BAD_CAST "type", BAD_CAST(inner ? inner : format));
    }

    ferrySnapshotCopyChild(mirror, "source", disk);
    ferrySnapshotCopyChild(mirror, "backingStore", disk);

    for (node = disk->children; node && !virXMLNodeNameEqual(node, "source"); node = node->next)
        ;

    if (!node && file) {
        node = xmlNewChild(disk, /* ns= */ NULL, BAD_CAST "source", /* content= */ NULL);
        xmlNewProp(node, BAD_CAST "file", BAD_CAST file);
    } else if (!node) {
        virReportError(VIR_ERR_XML_ERROR,
                       _("<mirror> of disk '%1$s' of a snapshot of domain '%2$s' names no image: give it "
                         "file='…' or <source>"),
                       name, r->vm->def->name);
        return NULL;
    }

    if (!(text = virXMLNodeToString(doc, disk)))
        return NULL;

    return virDomainDiskDefParseSource(text, r->priv->driver->xmlopt, VIR_DOMAIN_DEF_PARSE_INACTIVE);
}


/* Takes the mirrors out of the XML. */
static int
ferrySnapshotTakeMirrors(ferrySnapshotRequestData *r,
                         xmlNodePtr *nodes,
                         int n)
{
    int i;

    for (i = 0; i < n; i++) {
        g_autofree char *name = virXMLPropString(nodes[i]->parent, "name");
        virDomainDiskDef *disk = name ? virDomainDiskByName(r->vm->def, name, /* allow_ambiguous= */ false) : NULL;
        virStorageSource *mirror;

        if (!disk) {
            virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                           _("a snapshot of domain '%1$s' has <mirror> for disk '%2$s', which the domain "
                             "does not have"),
                           r->vm->def->name, NULLSTR(name));
            return -1;
        }

        if (g_hash_table_contains(r->mirrors, disk->dst)) {
            virReportError(VIR_ERR_XML_ERROR,
                           _("disk '%1$s' of a snapshot of domain '%2$s' has more than one <mirror>"),
                           disk->dst, r->vm->def->name);
            return -1;
        }

        if (ferrySnapshotCheckMirrorXML(r, nodes[i], disk->dst) < 0 ||
            !(mirror = ferrySnapshotParseMirror(r, nodes[i], disk->dst)))
            return -1;

        g_hash_table_insert(r->mirrors, g_strdup(disk->dst), mirror);
        xmlUnlinkNode(nodes[i]);
        xmlFreeNode(nodes[i]);
    }

    return 0;
}


/* Gives the snapshot its name, which the stock driver would make of the time, too: the journal must
 * know it before. */
static int
ferrySnapshotSetName(ferrySnapshotRequestData *r)
{
    g_autofree char *name = virXPathString("string(./name)", r->ctxt);
    unsigned long long now;
    xmlNodePtr node;

    if (!name || !*name) {
        if (virTimeMillisNow(&now) < 0)
            return -1;
        g_free(name);
        name = g_strdup_printf("%llu", now / 1000);
        if ((node = virXPathNode("./name", r->ctxt)))
            xmlNodeSetContent(node, BAD_CAST name);
        else
            xmlNewTextChild(xmlDocGetRootElement(r->doc), /* ns= */ NULL, BAD_CAST "name", BAD_CAST name);
    }

    if (strchr(name, '/') || *name == '.') {
        virReportError(VIR_ERR_XML_DETAIL,
                       _("invalid snapshot name '%1$s': it must not begin with '.' or contain '/'"), name);
        return -1;
    }

    if (r->snapshot->metadata && virDomainSnapshotFindByName(r->vm->snapshots, name)) {
        virReportError(VIR_ERR_OPERATION_INVALID,
                       _("domain '%1$s' has a snapshot '%2$s' already; name another one"),
                       r->vm->def->name, name);
        return -1;
    }

    r->snapshot->name = g_steal_pointer(&name);
    return 0;
}


/* Returns 0 if the new images are all different, or -1 with an error reported. */
static int
ferrySnapshotCheckDistinct(ferrySnapshotRequestData *r)
{
    g_autoptr(GPtrArray) images = g_ptr_array_new();
    size_t i;
    size_t k;

    for (i = 0; i < r->snapshot->disks->len; i++) {
        ferrySnapshotDisk *disk = ferrySnapshotDiskAt(r->snapshot, i);

        g_ptr_array_add(images, disk->overlay);
        if (disk->mirror)
            g_ptr_array_add(images, disk->mirror);
    }

    for (i = 0; i < images->len; i++) {
        virStorageSource *image = g_ptr_array_index(images, i);

        for (k = 0; k < i; k++) {
            if (!virStorageSourceIsSameLocation(image, g_ptr_array_index(images, k)))
                continue;

            virReportError(VIR_ERR_INVALID_ARG,
                           _("'%1$s' is named twice in a snapshot of domain '%2$s'; name another image"),
                           NULLSTR(image->path), r->vm->def->name);
            return -1;
        }
    }

    return 0;
}


/* Fills in the disks that the snapshot is of. */
static int
ferrySnapshotTakeDisks(ferrySnapshotRequestData *r,
                       virDomainSnapshotDef *def)
{
    size_t found = 0;
    size_t i;

    for (i = 0; i < def->ndisks; i++) {
        virDomainDiskDef *disk = virDomainDiskByTarget(r->vm->def, def->disks[i].name);
        ferrySnapshotDisk *sdisk;

        if (!disk || def->disks[i].snapshot != VIR_DOMAIN_SNAPSHOT_LOCATION_EXTERNAL)
            continue;

        sdisk = ferrySnapshotAddDisk(r->snapshot);
        sdisk->dst = g_strdup(disk->dst);
        sdisk->base = g_strdup(ferryNodeName(disk->src));
        virObjectUnref(sdisk->overlay);
        sdisk->overlay = virStorageSourceCopy(def->disks[i].src, /* backingChain= */ false);
        sdisk->mirror = virObjectRef(g_hash_table_lookup(r->mirrors, disk->dst));
        if (sdisk->mirror)
            found++;
    }

    if (found < g_hash_table_size(r->mirrors)) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("a snapshot of domain '%1$s' has <mirror> for a disk that it does not add an image "
                         "to: give the disk snapshot='external'"),
                       r->vm->def->name);
        return -1;
    }

    return ferrySnapshotCheckDistinct(r);
}


/* libvirt would make up the names of images that are not named, and look at their storage for that
 * with the domain locked. Returns 0 if all are, or -1 with an error reported. */
static int
ferrySnapshotCheckSources(ferrySnapshotRequestData *r,
                          virDomainSnapshotDef *def)
{
    size_t i;
    size_t k;

    for (i = 0; i < r->vm->def->ndisks; i++) {
        virDomainDiskDef *disk = r->vm->def->disks[i];
        virDomainSnapshotDiskDef *found = NULL;

        for (k = 0; k < def->ndisks; k++) {
            if (virDomainDiskByName(r->vm->def, def->disks[k].name, /* allow_ambiguous= */ false) == disk)
                found = &def->disks[k];
        }

        if (found ? found->snapshot == VIR_DOMAIN_SNAPSHOT_LOCATION_NO || found->src->path ||
                        found->src->srcpool || virStorageSourceGetActualType(found->src) == VIR_STORAGE_TYPE_NETWORK :
                    virStorageSourceIsEmpty(disk->src) || disk->src->readonly ||
                        disk->snapshot == VIR_DOMAIN_SNAPSHOT_LOCATION_NO)
            continue;

        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("a snapshot of domain '%1$s' with <mirror> must name the new image of disk '%2$s': give "
                         "the disk a <source>, or snapshot='no'"),
                       r->vm->def->name, disk->dst);
        return -1;
    }

    return 0;
}


static int
ferrySnapshotReadRequest(ferrySnapshotRequestData *r,
                         xmlNodePtr *nodes,
                         int n,
                         char **stockXML)
{
    g_autoptr(virDomainSnapshotDef) def = NULL;
    g_autofree char *text = NULL;
    unsigned int parse = VIR_DOMAIN_SNAPSHOT_PARSE_OFFLINE;
    int rc;

    if (r->flags & VIR_DOMAIN_SNAPSHOT_CREATE_VALIDATE)
        parse |= VIR_DOMAIN_SNAPSHOT_PARSE_VALIDATE;

    if (ferrySnapshotCheckFlags(r) < 0 || ferrySnapshotTakeMirrors(r, nodes, n) < 0 ||
        ferrySnapshotSetName(r) < 0 ||
        !(text = virXMLNodeToString(r->doc, xmlDocGetRootElement(r->doc))) ||
        !(def = virDomainSnapshotDefParseString(text, r->priv->driver->xmlopt, r->priv->qemuCaps,
                                                /* current= */ NULL, parse)) ||
        ferrySnapshotCheckSources(r, def) < 0)
        return -1;

    /* borrowed for the moment */
    def->parent.dom = r->vm->def;
    rc = ferrySnapshotAlign(def, VIR_DOMAIN_SNAPSHOT_LOCATION_EXTERNAL);
    def->parent.dom = NULL;

    if (rc < 0 || ferrySnapshotTakeDisks(r, def) < 0)
        return -1;

    r->snapshot->quiesce.wanted = r->flags & VIR_DOMAIN_SNAPSHOT_CREATE_QUIESCE;
    if (ferryQuiesceCheck(r->vm, &r->snapshot->quiesce) < 0)
        return -1;

    *stockXML = g_steal_pointer(&text);
    return 0;
}


/**
 * ferrySnapshotRequest:
 * @vm: domain, locked
 * @flags: virDomainSnapshotCreateFlags
 * @snapshot: set to what is to be done, which the caller frees; NULL: no disk has a <mirror>, and the
 *            request is the stock driver's
 * @stockXML: set to what the stock driver is to be told; the caller frees it
 *
 * Reads the XML of a snapshot. Returns 0, or -1 with an error reported.
 */
int
ferrySnapshotRequest(virDomainObj *vm,
                     const char *xml,
                     unsigned int flags,
                     ferrySnapshot **snapshot,
                     char **stockXML)
{
    g_autoptr(ferrySnapshot) made = ferrySnapshotNew();
    g_autoptr(xmlXPathContext) ctxt = NULL;
    g_autoptr(xmlDoc) doc = virXMLParseStringCtxt(xml, _("(domain_snapshot)"), &ctxt);
    g_autoptr(GHashTable) mirrors = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, virObjectUnref);
    g_autofree xmlNodePtr *nodes = NULL;
    ferrySnapshotRequestData data = {
        .vm = vm,
        .priv = vm->privateData,
        .flags = flags,
        .doc = doc,
        .ctxt = ctxt,
        .mirrors = mirrors,
        .snapshot = made,
    };
    int n;

    *snapshot = NULL;
    *stockXML = NULL;

    if (!doc || (n = virXPathNodeSet("./disks/disk/mirror", ctxt, &nodes)) <= 0) {
        /* what is wrong with it, the stock driver says */
        virResetLastError();
        return 0;
    }

    made->reuse = flags & VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT;
    made->metadata = !(flags & VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA);

    if (ferrySnapshotReadRequest(&data, nodes, n, stockXML) < 0)
        return -1;

    *snapshot = g_steal_pointer(&made);
    return 0;
}
