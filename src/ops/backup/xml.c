/*
 * xml.c: backup: the XML of the client's request and of the journal
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * libvirt's parser and schema know neither the elements of Ferry's namespace nor stores
 * on the network or named by pool and volume. Both are taken out of the document before libvirt checks the rest, so
 * errors in the rest are still found. A driver without Ferry refuses such documents.
 */

#include <config.h>

#include "block/source.h"
#include "compat/host.h"
#include "configmake.h"
#include "ops/backup/data.h"
#include "ops/backup/xml.h"
#include "virerror.h"
#include "virfile.h"
#include "virstring.h"
#include "virthread.h"
#include "virutil.h"
#include "virxml.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

#define FERRY_BACKUP_NAMESPACE "urn:ferry:domainbackup:1.0"


static int
ferryBackupParseNumber(xmlNodePtr node,
                       const char *attribute,
                       const char *text,
                       unsigned long long max,
                       unsigned long long *value)
{
    if (!text || virStrToLong_ullp(text, /* end_ptr= */ NULL, 10, value) < 0 ||
        *value == 0 || *value > max) {
        if (attribute)
            virReportError(VIR_ERR_XML_ERROR,
                           _("attribute '%1$s' of <%2$s> must be a number from 1 to %3$llu, not '%4$s'"),
                           attribute, node->name, max, text);
        else
            virReportError(VIR_ERR_XML_ERROR,
                           _("<%1$s> must hold a number from 1 to %2$llu, not '%3$s'"),
                           node->name, max, NULLSTR(text));
        return -1;
    }

    return 0;
}


static int
ferryBackupParseQuiesce(xmlNodePtr node,
                        ferryBackupExtras *extras)
{
    g_autofree char *timeout = virXMLPropString(node, "timeout");
    unsigned long long seconds = 0;

    if (timeout && ferryBackupParseNumber(node, "timeout", timeout, FERRY_QUIESCE_SECONDS_MAX, &seconds) < 0)
        return -1;

    extras->quiesce.wanted = true;
    extras->quiesce.timeout = seconds;
    return 0;
}


static int
ferryBackupParseBandwidth(xmlNodePtr node,
                          ferryBackupExtras *extras)
{
    g_autofree char *text = virXMLNodeContentString(node);
    g_autofree char *unit = virXMLPropString(node, "unit");

    if (ferryBackupParseNumber(node, /* attribute= */ NULL, text, LLONG_MAX, &extras->bandwidth) < 0)
        return -1;

    if (virScaleInteger(&extras->bandwidth, unit, 1, LLONG_MAX) == 0)
        return 0;

    if (virGetLastErrorCode() == VIR_ERR_INVALID_ARG)
        virReportError(VIR_ERR_INVALID_ARG,
                       _("unknown unit '%1$s' of <%2$s>; use 'bytes', 'KiB', 'MiB', 'GiB', 'TiB', 'KB', "
                         "'MB', 'GB' or 'TB', which are per second"),
                       unit, node->name);
    return -1;
}


static int
ferryBackupParseIdleTimeout(xmlNodePtr node,
                            ferryBackupExtras *extras)
{
    g_autofree char *text = virXMLNodeContentString(node);
    unsigned long long seconds;

    if (ferryBackupParseNumber(node, /* attribute= */ NULL, text, INT_MAX / 1000, &seconds) < 0)
        return -1;

    extras->idleTimeout = seconds;
    return 0;
}


static const struct {
    const char *name;
    const char *attribute; /* the only one, or NULL */
    int (*parse)(xmlNodePtr node, ferryBackupExtras *extras);
} ferryBackupElements[] = {
    { "quiesce", "timeout", ferryBackupParseQuiesce },
    { "bandwidth", "unit", ferryBackupParseBandwidth },
    { "idle-timeout", NULL, ferryBackupParseIdleTimeout },
};


/* A misspelt attribute, or a second element, must not be ignored: the client believes that
 * it does something. */
static int
ferryBackupCheckElement(xmlNodePtr node,
                        const char *attribute)
{
    xmlAttrPtr attr;
    xmlNodePtr other;

    for (attr = node->properties; attr; attr = attr->next) {
        if (!attr->ns && attribute && STREQ((const char *) attr->name, attribute))
            continue;

        if (attribute)
            virReportError(VIR_ERR_XML_ERROR,
                           _("unknown attribute '%1$s' of <%2$s>; its attribute is '%3$s', without a "
                             "namespace"),
                           attr->name, node->name, attribute);
        else
            virReportError(VIR_ERR_XML_ERROR,
                           _("unknown attribute '%1$s' of <%2$s>, which has none"),
                           attr->name, node->name);
        return -1;
    }

    for (other = node->next; other; other = other->next) {
        if (other->type == XML_ELEMENT_NODE && other->ns &&
            xmlStrEqual(other->ns->href, node->ns->href) && xmlStrEqual(other->name, node->name)) {
            virReportError(VIR_ERR_XML_ERROR, _("<%1$s> is there more than once"), node->name);
            return -1;
        }
    }

    if (xmlFirstElementChild(node)) {
        virReportError(VIR_ERR_XML_ERROR, _("<%1$s> cannot contain <%2$s>"),
                       node->name, xmlFirstElementChild(node)->name);
        return -1;
    }

    return 0;
}


static int
ferryBackupParseElement(xmlNodePtr node,
                        ferryBackupExtras *extras)
{
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(ferryBackupElements); i++) {
        if (!virXMLNodeNameEqual(node, ferryBackupElements[i].name))
            continue;

        if (ferryBackupCheckElement(node, ferryBackupElements[i].attribute) < 0)
            return -1;

        return ferryBackupElements[i].parse(node, extras);
    }

    virReportError(VIR_ERR_XML_ERROR,
                   _("unknown element <%1$s> in namespace %2$s; known: <quiesce>, <bandwidth> and "
                     "<idle-timeout>"),
                   node->name, FERRY_BACKUP_NAMESPACE);
    return -1;
}


/* Moves the elements of Ferry's namespace from the document into @extras. */
static int
ferryBackupParseExtras(xmlNodePtr root,
                       ferryBackupExtras *extras)
{
    xmlNodePtr node;
    xmlNodePtr next;

    for (node = root->children; node; node = next) {
        next = node->next;

        if (node->type != XML_ELEMENT_NODE || !node->ns || !node->ns->href)
            continue;

        /* libvirt's own elements are in none */
        if (STRNEQ((const char *) node->ns->href, FERRY_BACKUP_NAMESPACE)) {
            virReportError(VIR_ERR_XML_INVALID_SCHEMA,
                           _("<%1$s> is in unknown namespace '%2$s'; Ferry's elements are in '%3$s'"),
                           node->name, node->ns->href, FERRY_BACKUP_NAMESPACE);
            return -1;
        }

        if (ferryBackupParseElement(node, extras) < 0)
            return -1;

        xmlUnlinkNode(node);
        xmlFreeNode(node);
    }

    return 0;
}


/* Returns the store of a <disk> of a type that libvirt's schema and parser do not accept, and
 * replaces it in the document by a file, which they do; NULL with an error reported. */
static virStorageSource *
ferryBackupParseOtherStore(xmlXPathContextPtr ctxt,
                           xmlNodePtr disk,
                           virDomainXMLOption *xmlopt)
{
    VIR_XPATH_NODE_AUTORESTORE(ctxt)
    g_autoptr(virStorageSource) store = NULL;
    g_autofree char *format = NULL;
    g_autofree char *type = virXMLPropString(disk, "type");
    xmlNodePtr source;
    xmlNodePtr placeholder;

    ctxt->node = disk;
    format = virXPathString("string(./driver/@type)", ctxt);

    if (!(source = virXPathNode("./target|./scratch", ctxt))) {
        virReportError(VIR_ERR_XML_ERROR,
                       _("a disk of type '%1$s' needs a <target> or <scratch>"), type);
        return NULL;
    }

    if (!(store = virDomainStorageSourceParseBase(type, format, /* index= */ NULL)) ||
        virDomainStorageSourceParse(source, ctxt, store, /* flags= */ 0, xmlopt) < 0)
        return NULL;

    placeholder = xmlNewNode(/* ns= */ NULL, source->name);
    xmlNewProp(placeholder, BAD_CAST "file", BAD_CAST "/other");
    xmlReplaceNode(source, placeholder);
    xmlFreeNode(source);
    xmlSetProp(disk, BAD_CAST "type", BAD_CAST "file");

    return g_steal_pointer(&store);
}


/* Returns the stores of these types, keyed by disk name, or NULL with an error reported. */
static GHashTable *
ferryBackupParseOtherStores(xmlXPathContextPtr ctxt,
                            virDomainXMLOption *xmlopt)
{
    g_autoptr(GHashTable) stores = virHashNew(virObjectUnref);
    g_autofree xmlNodePtr *nodes = NULL;
    int n = virXPathNodeSet("./disks/disk[@type='network' or @type='volume']", ctxt, &nodes);
    int i;

    if (n < 0)
        return NULL;

    for (i = 0; i < n; i++) {
        g_autofree char *name = virXMLPropStringRequired(nodes[i], "name");
        virStorageSource *store;

        if (!name || !(store = ferryBackupParseOtherStore(ctxt, nodes[i], xmlopt)))
            return NULL;
        g_hash_table_replace(stores, g_steal_pointer(&name), store);
    }

    return g_steal_pointer(&stores);
}


/* Validates @doc against libvirt's schema of backups. The parsed schema is kept, as
 * parsing it takes longer than beginning the backup of a disk. */
static int
ferryBackupValidate(xmlDocPtr doc)
{
    static virMutex lock = VIR_MUTEX_INITIALIZER;
    static virXMLValidator *schema;
    VIR_LOCK_GUARD guard = virLockGuardLock(&lock);

    if (!schema) {
        g_autofree char *path = virFileFindResource("domainbackup.rng", PKGDATADIR "/schemas",
                                                    PKGDATADIR "/schemas");

        if (!(schema = virXMLValidatorInit(path)))
            return -1;
    }

    if (virXMLValidatorValidate(schema, doc) == 0)
        return 0;

    /* the validator keeps its error texts and would add them to the next document's */
    g_clear_pointer(&schema, virXMLValidatorFree);
    return -1;
}


/**
 * ferryBackupParseXML:
 * @extras: filled in with what the elements of Ferry's namespace ask for
 *
 * Returns the definition in the client's @xml, or NULL with an error reported.
 */
virDomainBackupDef *
ferryBackupParseXML(virQEMUDriver *driver,
                    const char *xml,
                    ferryBackupExtras *extras)
{
    g_autoptr(virDomainBackupDef) def = NULL;
    g_autoptr(xmlDoc) doc = NULL;
    g_autoptr(xmlXPathContext) ctxt = NULL;
    g_autoptr(GHashTable) stores = NULL;
    size_t i;

    if (!(doc = virXMLParse(/* filename= */ NULL, xml, _("(domain_backup)"), "domainbackup", &ctxt,
                            /* schemafile= */ NULL, /* validate= */ false)) ||
        ferryBackupParseExtras(ctxt->node, extras) < 0 ||
        !(stores = ferryBackupParseOtherStores(ctxt, driver->xmlopt)) ||
        ferryBackupValidate(doc) < 0 ||
        !(def = virDomainBackupDefParseXML(ctxt, driver->xmlopt, /* flags= */ 0)))
        return NULL;

    for (i = 0; i < def->ndisks; i++) {
        virStorageSource *store = g_hash_table_lookup(stores, def->disks[i].name);

        if (store && def->disks[i].store) {
            virObjectUnref(def->disks[i].store);
            def->disks[i].store = virObjectRef(store);
        }
    }

    return g_steal_pointer(&def);
}


static int
ferryBackupFormatDisk(virBuffer *buf,
                      virDomainBackupDiskDef *def,
                      ferryBackupDisk *disk,
                      virDomainXMLOption *xmlopt)
{
    g_auto(virBuffer) attrs = VIR_BUFFER_INITIALIZER;
    g_auto(virBuffer) children = VIR_BUFFER_INIT_CHILD(buf);

    virBufferEscapeString(&attrs, " name='%s'", def->name);
    virBufferAsprintf(&attrs, " mode='%d'", def->backupmode);
    virBufferEscapeString(&attrs, " incremental='%s'", def->incremental);
    virBufferEscapeString(&attrs, " exportname='%s'", def->exportname);
    virBufferEscapeString(&attrs, " exportbitmap='%s'", def->exportbitmap);

    if (disk) {
        virBufferAsprintf(&attrs, " index='%u'", def->store->id);
        virBufferAsprintf(&attrs, " origin='%s'", ferryImageOriginTypeToString(disk->origin));
        if (disk->volume)
            ferryVolumeFormat(&attrs, disk->volume);
        else
            ferryFileFormat(&attrs, disk->file);
        virBufferEscapeString(&attrs, " bitmap='%s'", disk->bitmap);

        if (ferrySourceFormat(&children, def->store, xmlopt, /* runtime= */ true) < 0)
            return -1;
    }

    virXMLFormatElement(buf, "backupdisk", &attrs, &children);
    return 0;
}


static void
ferryBackupFormatServer(virBuffer *buf,
                        ferryBackup *backup)
{
    virDomainBackupDef *def = backup->def;
    g_auto(virBuffer) attrs = VIR_BUFFER_INITIALIZER;

    if (!def->server)
        return;

    virBufferAsprintf(&attrs, " transport='%s'",
                      virStorageNetHostTransportTypeToString(def->server->transport));
    virBufferEscapeString(&attrs, " name='%s'", def->server->name);
    if (def->server->port)
        virBufferAsprintf(&attrs, " port='%u'", def->server->port);
    virBufferEscapeString(&attrs, " socket='%s'", def->server->socket);
    if (def->tls != VIR_TRISTATE_BOOL_ABSENT)
        virBufferAsprintf(&attrs, " tls='%s'", virTristateBoolTypeToString(def->tls));

    ferryFileFormat(&attrs, backup->server.file);

    virXMLFormatElement(buf, "server", &attrs, /* childBuf= */ NULL);
}


/**
 * ferryBackupFormat:
 *
 * Writes what undo and recovery need into @buf, for the journal.
 */
int
ferryBackupFormat(ferryOp *op,
                  virBuffer *buf)
{
    ferryBackup *backup = ferryBackupOf(op);
    g_auto(virBuffer) attrs = VIR_BUFFER_INITIALIZER;
    size_t next = 0;
    size_t i;

    virBufferAsprintf(&attrs, " mode='%s'",
                      ferryBackupIsPull(backup) ? "pull" : "push");
    virBufferEscapeString(&attrs, " incremental='%s'", backup->def->incremental);
    virBufferEscapeString(&attrs, " checkpoint='%s'", backup->checkpoint);
    virBufferAsprintf(&attrs, " reuse='%s'", backup->reuse ? "yes" : "no");
    virBufferAsprintf(&attrs, " result='%s'", ferryBackupResultTypeToString(backup->result));
    virBufferAsprintf(&attrs, " idle='%u'", backup->extras.idleTimeout);
    if (backup->begun > 0)
        virBufferAsprintf(&attrs, " begun='%llu'", backup->begun);
    virXMLFormatElement(buf, "backup", &attrs, /* childBuf= */ NULL);

    ferryBackupFormatServer(buf, backup);
    ferryQuiesceFormat(buf, &backup->extras.quiesce);

    for (i = 0; i < backup->def->ndisks; i++) {
        ferryBackupDisk *disk = backup->def->disks[i].store ? &backup->disks[next++] : NULL;

        if (ferryBackupFormatDisk(buf, &backup->def->disks[i], disk, op->driver->xmlopt) < 0)
            return -1;
    }

    return 0;
}


static int
ferryBackupParseServer(xmlXPathContextPtr ctxt,
                       ferryBackup *backup)
{
    virDomainBackupDef *def = backup->def;
    xmlNodePtr node = virXPathNode("./server", ctxt);

    if (!node)
        return 0;

    def->server = g_new0(virStorageNetHostDef, 1);
    if (ferryHostParse(node, def->server) < 0 ||
        virXMLPropTristateBool(node, "tls", VIR_XML_PROP_NONE, &def->tls) < 0 ||
        ferryFileParse(node, &backup->server.file) < 0)
        return -1;

    return 0;
}


static int
ferryBackupParseDisk(xmlXPathContextPtr ctxt,
                     xmlNodePtr node,
                     virDomainXMLOption *xmlopt,
                     virDomainBackupDiskDef *def)
{
    VIR_XPATH_NODE_AUTORESTORE(ctxt)
    xmlNodePtr store;
    int mode;

    ctxt->node = node;
    store = virXPathNode("./disk", ctxt);

    if (!(def->name = virXMLPropStringRequired(node, "name")) ||
        virXMLPropInt(node, "mode", 10, VIR_XML_PROP_REQUIRED | VIR_XML_PROP_NONNEGATIVE,
                      &mode, /* defaultResult= */ 0) < 0)
        return -1;

    if (mode >= VIR_DOMAIN_BACKUP_DISK_BACKUP_MODE_LAST) {
        virReportError(VIR_ERR_XML_DETAIL, _("unknown backup mode %1$d"), mode);
        return -1;
    }

    def->backup = store ? VIR_TRISTATE_BOOL_YES : VIR_TRISTATE_BOOL_NO;
    def->backupmode = mode;
    def->incremental = virXMLPropString(node, "incremental");
    def->exportname = virXMLPropString(node, "exportname");
    def->exportbitmap = virXMLPropString(node, "exportbitmap");

    if (!store)
        return 0;

    if (!(def->store = ferrySourceParse(store, xmlopt, /* runtime= */ true)))
        return -1;

    return virXMLPropUInt(node, "index", 10, VIR_XML_PROP_REQUIRED, &def->store->id);
}


/* Reads what the journal says of a disk beyond libvirt's definition. */
static int
ferryBackupParseDiskState(xmlNodePtr node,
                          ferryBackupDisk *disk)
{
    disk->bitmap = virXMLPropString(node, "bitmap");

    if (ferryVolumeParse(node, &disk->volume) < 0 ||
        (!disk->volume && ferryFileParse(node, &disk->file) < 0))
        return -1;

    return virXMLPropEnum(node, "origin", ferryImageOriginTypeFromString,
                          VIR_XML_PROP_REQUIRED, &disk->origin);
}


static int
ferryBackupParseDisks(ferryBackup *backup,
                      virDomainXMLOption *xmlopt,
                      xmlXPathContextPtr ctxt)
{
    g_autofree xmlNodePtr *nodes = NULL;
    int n = virXPathNodeSet("./backupdisk", ctxt, &nodes);
    size_t next = 0;
    int i;

    if (n < 0)
        return -1;

    backup->def->disks = g_new0(virDomainBackupDiskDef, n);
    backup->def->ndisks = n;

    for (i = 0; i < n; i++) {
        if (ferryBackupParseDisk(ctxt, nodes[i], xmlopt, &backup->def->disks[i]) < 0)
            return -1;
    }

    ferryBackupListDisks(backup);

    for (i = 0; i < n; i++) {
        if (backup->def->disks[i].store &&
            ferryBackupParseDiskState(nodes[i], &backup->disks[next++]) < 0)
            return -1;
    }

    return 0;
}


/**
 * ferryBackupParse:
 *
 * Reads what ferryBackupFormat() wrote; the context node of @ctxt is the operation's
 * element. Returns the ferryBackup, or NULL with an error reported.
 */
void *
ferryBackupParse(virQEMUDriver *driver,
                 xmlXPathContextPtr ctxt)
{
    ferryBackup *backup = ferryBackupNew();
    xmlNodePtr node = virXPathNode("./backup", ctxt);
    g_autofree char *mode = NULL;
    virTristateBool reuse;

    backup->def = g_new0(virDomainBackupDef, 1);

    if (!node) {
        virReportError(VIR_ERR_XML_DETAIL, "%s", _("backup is missing"));
        goto error;
    }

    if (!(mode = virXMLPropStringRequired(node, "mode")) ||
        virXMLPropTristateBool(node, "reuse", VIR_XML_PROP_REQUIRED, &reuse) < 0 ||
        virXMLPropEnum(node, "result", ferryBackupResultTypeFromString,
                       VIR_XML_PROP_REQUIRED, &backup->result) < 0 ||
        virXMLPropUInt(node, "idle", 10, VIR_XML_PROP_REQUIRED, &backup->extras.idleTimeout) < 0 ||
        virXMLPropULongLong(node, "begun", 10, VIR_XML_PROP_NONE, &backup->begun) < 0 ||
        ferryQuiesceParse(ctxt, &backup->extras.quiesce) < 0 ||
        ferryBackupParseServer(ctxt, backup) < 0 ||
        ferryBackupParseDisks(backup, driver->xmlopt, ctxt) < 0)
        goto error;

    backup->def->type = STREQ(mode, "pull") ? VIR_DOMAIN_BACKUP_TYPE_PULL :
                                              VIR_DOMAIN_BACKUP_TYPE_PUSH;
    backup->def->incremental = virXMLPropString(node, "incremental");
    backup->checkpoint = virXMLPropString(node, "checkpoint");
    backup->reuse = reuse == VIR_TRISTATE_BOOL_YES;

    if (ferryBackupIsPull(backup) && !backup->def->server) {
        virReportError(VIR_ERR_XML_DETAIL, "%s", _("server is missing"));
        goto error;
    }

    return backup;

error:
    ferryBackupFree(backup);
    return NULL;
}
