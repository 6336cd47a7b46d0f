/*
 * format.c: block copy: what the journal says of it
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "block/source.h"
#include "ops/copy/data.h"
#include "ops/copy/format.h"
#include "virerror.h"
#include "virxml.h"

#define VIR_FROM_THIS VIR_FROM_QEMU


static int
ferryCopyFormatSource(virBuffer *buf,
                      const char *name,
                      virStorageSource *src,
                      virDomainXMLOption *xmlopt)
{
    g_auto(virBuffer) children = VIR_BUFFER_INIT_CHILD(buf);

    if (!src)
        return 0;

    if (ferrySourceFormat(&children, src, xmlopt, /* runtime= */ true) < 0)
        return -1;

    virXMLFormatElement(buf, name, /* attrBuf= */ NULL, &children);
    return 0;
}


/* A copy of several images may have its mirror job started by a later driver. */
static void
ferryCopyFormatLayers(virBuffer *attrs,
                      const ferryCopy *copy)
{
    if (!copy->base)
        return;

    virBufferEscapeString(attrs, " base='%s'", copy->base);
    virBufferEscapeString(attrs, " layer='%s'", copy->layer);
    virBufferAsprintf(attrs, " synchronous='%s'", copy->synchronous ? "yes" : "no");
    virBufferAsprintf(attrs, " bandwidth='%llu'", copy->bandwidth);
    virBufferAsprintf(attrs, " granularity='%llu'", copy->granularity);
    virBufferAsprintf(attrs, " bufSize='%llu'", copy->bufSize);
}


/* @flags: without VIR_XML_PROP_REQUIRED an attribute that is not there is a "no" */
static int
ferryCopyParseBool(xmlNodePtr node,
                   const char *name,
                   virXMLPropFlags flags,
                   bool *result)
{
    virTristateBool value;

    if (virXMLPropTristateBool(node, name, flags, &value) < 0)
        return -1;

    *result = value == VIR_TRISTATE_BOOL_YES;
    return 0;
}


static int
ferryCopyParseLayers(xmlNodePtr node,
                     ferryCopy *copy)
{
    if (!(copy->base = virXMLPropString(node, "base")))
        return 0;

    copy->layer = virXMLPropString(node, "layer");

    if (ferryCopyParseBool(node, "synchronous", VIR_XML_PROP_REQUIRED, &copy->synchronous) < 0 ||
        virXMLPropULongLong(node, "bandwidth", 10, VIR_XML_PROP_REQUIRED, &copy->bandwidth) < 0 ||
        virXMLPropULongLong(node, "granularity", 10, VIR_XML_PROP_REQUIRED, &copy->granularity) < 0 ||
        virXMLPropULongLong(node, "bufSize", 10, VIR_XML_PROP_REQUIRED, &copy->bufSize) < 0)
        return -1;

    return 0;
}


/**
 * ferryCopyFormat:
 *
 * Writes to @buf, for the journal, what undo and recovery need.
 */
int
ferryCopyFormat(ferryOp *op,
                virBuffer *buf)
{
    ferryCopy *copy = ferryCopyOf(op);
    g_auto(virBuffer) attrs = VIR_BUFFER_INITIALIZER;

    virBufferEscapeString(&attrs, " disk='%s'", copy->dst);
    virBufferAsprintf(&attrs, " goal='%s'", ferryCopyGoalTypeToString(copy->goal));
    virBufferAsprintf(&attrs, " origin='%s'", ferryImageOriginTypeToString(copy->origin));
    if (copy->volume)
        ferryVolumeFormat(&attrs, copy->volume);
    else
        ferryFileFormat(&attrs, copy->file);
    virBufferAsprintf(&attrs, " shallow='%s'", copy->shallow ? "yes" : "no");
    virBufferAsprintf(&attrs, " reuse='%s'", copy->reuse ? "yes" : "no");
    if (copy->own)
        virBufferAddLit(&attrs, " own='yes'");
    if (copy->overlay)
        virBufferAddLit(&attrs, " overlay='yes'");
    if (copy->pending)
        virBufferAddLit(&attrs, " pending='yes'");
    ferryCopyFormatLayers(&attrs, copy);
    virBufferAsprintf(&attrs, " keep='%s'", copy->keep ? "yes" : "no");
    virBufferAsprintf(&attrs, " pause='%s'", copy->pause ? "yes" : "no");
    virBufferAsprintf(&attrs, " detected='%s'", ferryCopyIsDetected(copy->target) ? "yes" : "no");
    virXMLFormatElement(buf, "copy", &attrs, /* childBuf= */ NULL);
    ferryQuiesceFormat(buf, &copy->quiesce);

    if (ferryCopyFormatSource(buf, "target", copy->target, op->driver->xmlopt) < 0 ||
        ferryCopyFormatSource(buf, "old", copy->old, op->driver->xmlopt) < 0)
        return -1;

    return 0;
}


/**
 * ferryCopyParse:
 *
 * Reads what ferryCopyFormat() wrote; the node of @ctxt is the operation. Returns a
 * ferryCopy (free: ferryCopyFree()), or NULL with an error reported.
 */
void *
ferryCopyParse(virQEMUDriver *driver,
               xmlXPathContextPtr ctxt)
{
    ferryCopy *copy = g_new0(ferryCopy, 1);
    xmlNodePtr node = virXPathNode("./copy", ctxt);
    xmlNodePtr target = virXPathNode("./target/disk", ctxt);
    xmlNodePtr old = virXPathNode("./old/disk", ctxt);
    bool detected;

    if (!node || !target) {
        virReportError(VIR_ERR_XML_DETAIL, "%s", _("the journal lacks the copy or its target"));
        goto error;
    }

    if (!(copy->dst = virXMLPropStringRequired(node, "disk")) ||
        virXMLPropEnum(node, "goal", ferryCopyGoalTypeFromString,
                       VIR_XML_PROP_REQUIRED, &copy->goal) < 0 ||
        virXMLPropEnum(node, "origin", ferryImageOriginTypeFromString,
                       VIR_XML_PROP_REQUIRED, &copy->origin) < 0 ||
        ferryVolumeParse(node, &copy->volume) < 0 ||
        (!copy->volume && ferryFileParse(node, &copy->file) < 0) ||
        ferryCopyParseBool(node, "shallow", VIR_XML_PROP_REQUIRED, &copy->shallow) < 0 ||
        ferryCopyParseBool(node, "reuse", VIR_XML_PROP_REQUIRED, &copy->reuse) < 0 ||
        ferryCopyParseBool(node, "keep", VIR_XML_PROP_REQUIRED, &copy->keep) < 0 ||
        ferryCopyParseLayers(node, copy) < 0 ||
        ferryCopyParseBool(node, "own", VIR_XML_PROP_NONE, &copy->own) < 0 ||
        ferryCopyParseBool(node, "overlay", VIR_XML_PROP_NONE, &copy->overlay) < 0 ||
        ferryCopyParseBool(node, "pending", VIR_XML_PROP_NONE, &copy->pending) < 0 ||
        ferryCopyParseBool(node, "detected", VIR_XML_PROP_NONE, &detected) < 0 ||
        ferryCopyParseBool(node, "pause", VIR_XML_PROP_NONE, &copy->pause) < 0 ||
        ferryQuiesceParse(ctxt, &copy->quiesce) < 0 ||
        !(copy->target = ferrySourceParse(target, driver->xmlopt, /* runtime= */ true)) ||
        (old && !(copy->old = ferrySourceParse(old, driver->xmlopt, /* runtime= */ true))))
        goto error;

    copy->refused = copy->pending;
    if (detected)
        ferryCopySetDetected(copy->target);

    return copy;

error:
    ferryCopyFree(copy);
    return NULL;
}
