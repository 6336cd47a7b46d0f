/*
 * sourcetest.c: what becomes of an image's options on the way to configuration and journal
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 *     sourcetest FILE
 *
 * Gives each disk of FILE to a domain. Then the disk gets what a pivot would put into the
 * configuration, and what a driver would read from the journal; libvirt must write the
 * domain as before. That FILE has all options is options.py's to check.
 */

#include <config.h>

#include "block/source.h"
#include "testutilsqemu.h"
#include "viralloc.h"
#include "virerror.h"
#include "virlog.h"
#include "virxml.h"

#define VIR_FROM_THIS VIR_FROM_QEMU


static char *
sourceWritten(virDomainDef *def,
              virDomainXMLOption *xmlopt)
{
    return virDomainDefFormat(def, xmlopt, VIR_DOMAIN_DEF_FORMAT_INACTIVE | VIR_DOMAIN_DEF_FORMAT_SECURE);
}


static virStorageSource *
sourceFromJournal(virStorageSource *src,
                  virDomainXMLOption *xmlopt)
{
    g_auto(virBuffer) buf = VIR_BUFFER_INITIALIZER;
    g_autoptr(xmlDoc) doc = NULL;
    g_autoptr(xmlXPathContext) ctxt = NULL;

    if (ferrySourceFormat(&buf, src, xmlopt, /* runtime= */ true) < 0 ||
        !(doc = virXMLParseStringCtxt(virBufferCurrentContent(&buf), "(journal)", &ctxt)))
        return NULL;

    return ferrySourceParse(ctxt->node, xmlopt, /* runtime= */ true);
}


/* Puts @other, which is taken over, in place of the image of the disk of @def. */
static int
sourceCheck(virDomainDef *def,
            virDomainXMLOption *xmlopt,
            const char *what,
            virStorageSource *other)
{
    virDomainDiskDef *disk = def->disks[0];
    g_autofree char *before = sourceWritten(def, xmlopt);
    g_autofree char *after = NULL;
    virStorageSource *old = disk->src;

    if (!before || !other) {
        fprintf(stderr, "%s of '%s': %s\n", what, disk->dst, virGetLastErrorMessage());
        return -1;
    }

    disk->src = other;
    ignore_value(virStorageSourceInitChainElement(other, old, /* force= */ false));
    after = sourceWritten(def, xmlopt);
    disk->src = old;
    virObjectUnref(other);

    if (STREQ_NULLABLE(before, after))
        return 0;

    fprintf(stderr, "%s of '%s':\n%s\nunlike the image:\n%s\n", what, disk->dst, NULLSTR(after), before);
    return -1;
}


static int
sourceDisk(xmlNodePtr node,
           virDomainXMLOption *xmlopt)
{
    g_autofree char *disk = virXMLNodeToString(node->doc, node);
    g_autofree char *xml = g_strdup_printf("<domain type='qemu'><name>g</name><memory>65536</memory>"
                                           "<os><type arch='x86_64' machine='pc'>hvm</type></os>"
                                           "<devices>%s</devices></domain>",
                                           disk);
    g_autoptr(virDomainDef) def = NULL;
    int ret = 0;

    if (!(def = virDomainDefParseString(xml, xmlopt, /* parseOpaque= */ NULL,
                                        VIR_DOMAIN_DEF_PARSE_INACTIVE |
                                            VIR_DOMAIN_DEF_PARSE_SKIP_VALIDATE))) {
        fprintf(stderr, "%s\n%s\n", virGetLastErrorMessage(), disk);
        return -1;
    }

    if (sourceCheck(def, xmlopt, "configuration", ferrySourceAsConfig(def->disks[0]->src, xmlopt)) < 0)
        ret = -1;
    if (sourceCheck(def, xmlopt, "journal", sourceFromJournal(def->disks[0]->src, xmlopt)) < 0)
        ret = -1;

    return ret;
}


int
main(int argc,
     char **argv)
{
    virQEMUDriver driver;
    g_autoptr(xmlDoc) doc = NULL;
    g_autoptr(xmlXPathContext) ctxt = NULL;
    g_autofree xmlNodePtr *nodes = NULL;
    int failed = 0;
    int n;
    int i;

    if (argc != 2 || virInitialize() < 0 || qemuTestDriverInit(&driver) < 0)
        return EXIT_FAILURE;

    ignore_value(virLogSetOutputs("4:file:/dev/null"));

    if (!(doc = virXMLParseFileCtxt(argv[1], &ctxt)) ||
        (n = virXPathNodeSet("./disk", ctxt, &nodes)) <= 0)
        return EXIT_FAILURE;

    for (i = 0; i < n; i++) {
        if (sourceDisk(nodes[i], driver.xmlopt) < 0)
            failed++;
    }

    printf("sources: %d disks, %d differ\n", n, failed);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
