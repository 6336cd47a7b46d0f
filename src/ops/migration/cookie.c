/*
 * cookie.c: storage migration: our part of the cookie
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The cookie is an XML document of the stock driver, which each phase hands to the next
 * phase on the other host. A stock host understands or ignores what Ferry writes:
 *
 *   source to destination, made by Begin
 *     <nbd><disk target='vda' capacity='BYTES' clusterSize='BYTES'
 *                subclusters='yes' old='yes' lazy='yes'
 *                backing='PATH' backingFormat='qcow2'/></nbd>
 *   destination to source, made by Prepare
 *     <nbd port='49153' nodelay='yes'/>
 *   source to destination, made by Perform, so that the server is stopped
 *     <nbd/>
 *
 * The attributes after capacity, and nodelay, are our additions and optional. The cookie
 * comes from another host, so every value is checked.
 */

#include <config.h>

#include "ops/migration/bitmaps.h"
#include "ops/migration/cookie.h"
#include "virerror.h"
#include "virxml.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

/* bytes: the limits of qcow2 */
#define FERRY_CLUSTER_SIZE_MIN 512
#define FERRY_CLUSTER_SIZE_MAX (2 * 1024 * 1024)
#define FERRY_CLUSTER_SIZE_SPLIT (16 * 1024) /* the least with subclusters */


static xmlDocPtr
ferryMigrationCookieParse(const char *cookie,
                          int len,
                          xmlXPathContextPtr *ctxt)
{
    if (len <= 0 || !cookie || cookie[len - 1] != '\0') {
        virReportError(VIR_ERR_INTERNAL_ERROR, "%s",
                       _("Migration cookie was not NULL terminated"));
        return NULL;
    }

    return virXMLParseStringCtxt(cookie, _("(qemu_migration_cookie)"), ctxt);
}


static void
ferryMigrationOfferFree(void *opaque)
{
    ferryMigrationOffer *offer = opaque;

    g_free(offer->backing);
    g_free(offer);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC(ferryMigrationOffer, ferryMigrationOfferFree);


static int
ferryMigrationCookieReadDisk(xmlNodePtr node,
                             GHashTable *disks)
{
    g_autoptr(ferryMigrationOffer) offer = g_new0(ferryMigrationOffer, 1);
    g_autofree char *target = virXMLPropStringRequired(node, "target");
    g_autofree char *backing = virXMLPropString(node, "backing");
    g_autofree char *format = virXMLPropString(node, "backingFormat");
    virTristateBool subclusters;
    virTristateBool old;
    virTristateBool lazy;

    if (!target ||
        virXMLPropULongLong(node, "capacity", 10, VIR_XML_PROP_REQUIRED, &offer->capacity) < 0 ||
        virXMLPropULongLong(node, "clusterSize", 10, VIR_XML_PROP_NONE, &offer->props.clusterSize) < 0 ||
        virXMLPropTristateBool(node, "subclusters", VIR_XML_PROP_NONE, &subclusters) < 0 ||
        virXMLPropTristateBool(node, "old", VIR_XML_PROP_NONE, &old) < 0 ||
        virXMLPropTristateBool(node, "lazy", VIR_XML_PROP_NONE, &lazy) < 0)
        return -1;

    offer->props.subclusters = subclusters == VIR_TRISTATE_BOOL_YES;
    offer->props.old = old == VIR_TRISTATE_BOOL_YES;
    offer->props.lazy = lazy == VIR_TRISTATE_BOOL_YES;

    if (offer->props.old && (offer->props.subclusters || offer->props.lazy)) {
        virReportError(VIR_ERR_XML_DETAIL, _("disk '%1$s' has properties that exclude each other"),
                       target);
        return -1;
    }

    if (backing) {
        int type = format ? virStorageFileFormatTypeFromString(format) : -1;

        /* qemu-img needs the format to create an image on top of this one */
        if (*backing != '/' || type <= VIR_STORAGE_FILE_NONE) {
            virReportError(VIR_ERR_XML_DETAIL,
                           _("backing image '%1$s' of format '%2$s' of disk '%3$s' cannot be used"),
                           backing, NULLSTR(format), target);
            return -1;
        }

        offer->backing = g_steal_pointer(&backing);
        offer->backingFormat = type;
    }

    if (offer->props.clusterSize != 0 &&
        (offer->props.clusterSize < FERRY_CLUSTER_SIZE_MIN ||
         offer->props.clusterSize > FERRY_CLUSTER_SIZE_MAX ||
         (offer->props.clusterSize & (offer->props.clusterSize - 1)) != 0 ||
         (offer->props.subclusters && offer->props.clusterSize < FERRY_CLUSTER_SIZE_SPLIT))) {
        virReportError(VIR_ERR_XML_DETAIL, _("disk '%1$s' cannot have clusters of %2$llu bytes"),
                       target, offer->props.clusterSize);
        return -1;
    }

    g_hash_table_insert(disks, g_steal_pointer(&target), g_steal_pointer(&offer));
    return 0;
}


/**
 * ferryMigrationCookieRead:
 * @req: disks, checkpoints, nodelay and the cookie's text are set, as is the port if the
 *       client gave none; all are left as they are if the cookie has no <nbd>
 *
 * Returns 0, or -1 with an error reported.
 */
int
ferryMigrationCookieRead(const char *cookie,
                         int len,
                         ferryMigrationRequest *req)
{
    g_autoptr(xmlDoc) doc = NULL;
    g_autoptr(xmlXPathContext) ctxt = NULL;
    g_autofree xmlNodePtr *nodes = NULL;
    g_autofree char *nodelay = NULL;
    xmlNodePtr nbd;
    unsigned int port = 0;
    int n;
    int i;

    if (!(doc = ferryMigrationCookieParse(cookie, len, &ctxt)))
        return -1;

    if (!(nbd = virXPathNode("./nbd", ctxt)))
        return 0;

    if (virXMLPropUInt(nbd, "port", 10, VIR_XML_PROP_NONE, &port) < 0 ||
        (n = virXPathNodeSet("./nbd/disk", ctxt, &nodes)) < 0)
        return -1;

    if (port > USHRT_MAX) {
        virReportError(VIR_ERR_XML_DETAIL, _("port %1$u of the NBD server is out of range"), port);
        return -1;
    }

    req->cookie = g_strdup(cookie);
    req->checkpoints = ferryMigrationCheckpointsRead(ctxt);
    req->disks = virHashNew(ferryMigrationOfferFree);

    for (i = 0; i < n; i++) {
        if (ferryMigrationCookieReadDisk(nodes[i], req->disks) < 0)
            return -1;
    }

    nodelay = virXMLPropString(nbd, "nodelay");
    req->nodelay = STREQ_NULLABLE(nodelay, "yes");

    if (req->address.port == 0)
        req->address.port = port;
    return 0;
}


static int
ferryMigrationCookieStore(xmlDocPtr doc,
                          char **cookie,
                          int *len)
{
    g_autofree char *text = virXMLNodeToString(doc, xmlDocGetRootElement(doc));

    if (!text)
        return -1;

    g_free(*cookie);
    *cookie = g_steal_pointer(&text);
    *len = strlen(*cookie) + 1;
    return 0;
}


static void
ferryMigrationCookieOfferDisk(xmlNodePtr node,
                              virStorageSource *src,
                              ferryLike *like)
{
    virStorageSource *backing = src->backingStore;
    ferryLikeProps props;

    ferryLikeGet(like, src, &props);

    if (props.clusterSize > 0) {
        g_autofree char *size = g_strdup_printf("%llu", props.clusterSize);

        xmlNewProp(node, BAD_CAST "clusterSize", BAD_CAST size);
    }
    if (props.subclusters)
        xmlNewProp(node, BAD_CAST "subclusters", BAD_CAST "yes");
    if (props.old)
        xmlNewProp(node, BAD_CAST "old", BAD_CAST "yes");
    if (props.lazy)
        xmlNewProp(node, BAD_CAST "lazy", BAD_CAST "yes");

    if (virStorageSourceIsBacking(backing) && virStorageSourceIsLocalStorage(backing) &&
        backing->path) {
        xmlNewProp(node, BAD_CAST "backing", BAD_CAST backing->path);
        xmlNewProp(node, BAD_CAST "backingFormat",
                   BAD_CAST virStorageFileFormatTypeToString(backing->format));
    }
}


/**
 * ferryMigrationCookieOffer:
 * @vm: domain, locked, with a job
 *
 * Adds cluster sizes, backing images and checkpoints to the source's cookie, unless it
 * has no disks. Returns 0, or -1 with an error reported.
 */
int
ferryMigrationCookieOffer(virDomainObj *vm,
                          char **cookie,
                          int *len)
{
    g_autoptr(xmlDoc) doc = NULL;
    g_autoptr(xmlXPathContext) ctxt = NULL;
    g_autoptr(ferryLike) like = NULL;
    g_autofree xmlNodePtr *disks = NULL;
    int n;
    int i;

    if (!(doc = ferryMigrationCookieParse(*cookie, *len, &ctxt)) ||
        (n = virXPathNodeSet("./nbd/disk", ctxt, &disks)) < 0)
        return -1;

    if (n == 0)
        return 0;

    if (!(like = ferryLikeAsk(vm)))
        return -1;

    for (i = 0; i < n; i++) {
        g_autofree char *target = virXMLPropString(disks[i], "target");
        virDomainDiskDef *disk = target ? virDomainDiskByTarget(vm->def, target) : NULL;

        if (disk)
            ferryMigrationCookieOfferDisk(disks[i], disk->src, like);
    }

    ferryMigrationCheckpointsOffer(vm, xmlDocGetRootElement(doc));

    return ferryMigrationCookieStore(doc, cookie, len);
}


/**
 * ferryMigrationCookieWithout:
 *
 * Returns a copy of @cookie without <nbd>, so that a stock function which is given the
 * copy leaves storage alone; or NULL with an error reported.
 */
char *
ferryMigrationCookieWithout(const char *cookie,
                            int len)
{
    g_autoptr(xmlDoc) doc = NULL;
    g_autoptr(xmlXPathContext) ctxt = NULL;
    xmlNodePtr nbd;

    if (!(doc = ferryMigrationCookieParse(cookie, len, &ctxt)))
        return NULL;

    while ((nbd = virXPathNode("./nbd", ctxt))) {
        xmlUnlinkNode(nbd);
        xmlFreeNode(nbd);
    }

    return virXMLNodeToString(doc, xmlDocGetRootElement(doc));
}


/**
 * ferryMigrationCookieAnswer:
 * @port: TCP port of the NBD server; 0: it has a UNIX socket, or is to be stopped
 * @extra: XML elements to add, or NULL
 *
 * Adds <nbd> to a cookie for the other host. Returns 0, or -1 with an error reported.
 */
int
ferryMigrationCookieAnswer(char **cookie,
                           int *len,
                           unsigned int port,
                           const char *extra)
{
    g_autoptr(xmlDoc) doc = NULL;
    g_autoptr(xmlXPathContext) ctxt = NULL;
    xmlNodePtr nbd;
    xmlNodePtr more = NULL;

    if (!(doc = ferryMigrationCookieParse(*cookie, *len, &ctxt)))
        return -1;

    if (!(nbd = virXPathNode("./nbd", ctxt)))
        nbd = xmlNewChild(xmlDocGetRootElement(doc), /* ns= */ NULL, BAD_CAST "nbd",
                          /* content= */ NULL);

    if (port > 0) {
        g_autofree char *text = g_strdup_printf("%u", port);

        xmlSetProp(nbd, BAD_CAST "port", BAD_CAST text);
        xmlSetProp(nbd, BAD_CAST "nodelay", BAD_CAST "yes");
    }

    if (extra) {
        if (xmlParseInNodeContext(xmlDocGetRootElement(doc), extra, strlen(extra),
                                  /* options= */ 0, &more) != XML_ERR_OK) {
            virReportError(VIR_ERR_INTERNAL_ERROR, "%s", _("cannot add to the migration cookie"));
            return -1;
        }
        xmlAddChildList(xmlDocGetRootElement(doc), more);
    }

    return ferryMigrationCookieStore(doc, cookie, len);
}
