/*
 * destination.c: storage migration: the destination's steps
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Theory of operation
 *
 * The stock driver starts a QEMU that waits for the memory. Before that it calls us to
 * create missing volumes of storage pools (plan "volumes"), of which it then finds out the
 * paths, and missing images (plan "images"), after that to export all images (plan "serve").
 * "serve" ends in the finish phase. Most of it runs before, as the guest is paused then.
 *
 * The step "keep" is the point of no return. From then on the images belong to the guest,
 * and are removed only if the guest certainly did not start here. Until then the images
 * that we created are removed when QEMU ends for any reason; existing images never are.
 *
 * This file has the steps of "serve", images.c those of "images", volumes.c that of "volumes". prepare.c has the
 * functions that the prepare phase calls.
 */

#include <config.h>

#include "block/cache.h"
#include "block/durable.h"
#include "block/node.h"
#include "block/nodename.h"
#include "block/socket.h"
#include "block/source.h"
#include "engine/engine.h"
#include "engine/plan.h"
#include "ops/migration/destination.h"
#include "ops/migration/images.h"
#include "ops/migration/incoming.h"
#include "ops/migration/volumes.h"
#include "ops/opfile.h"
#include "qemu/qemu_alias.h"
#include "virerror.h"
#include "virfile.h"
#include "virlog.h"
#include "virportallocator.h"
#include "virxml.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.migration");


/* Where a raw image has only a storage node, QEMU makes holes of zeroes that come from outside only if the
 * disk's discards make holes, too. Changes that to what @src says now. */
static void
ferryIncomingSetDiscard(ferryOp *op,
                        virStorageSource *src)
{
    /* tried twice, as ferryNodeBypassCache() does */
    if (ferryNodeReopenStorage(op->vm, src, /* autoreadonly= */ true) < 0 &&
        ferryNodeReopenStorage(op->vm, src, /* autoreadonly= */ true) < 0)
        VIR_INFO("'%s' keeps its discard mode: %s", NULLSTR(src->path), virGetLastErrorMessage());
    virResetLastError();
}


/* cache, restore: Writes that bypass the page cache cost less CPU time, evict nothing
 * from the cache, and leave nothing to be written out while the guest is paused. There is
 * no undo, because the stock driver ends QEMU when its exports fail. */
static void
ferryIncomingSetCache(ferryOp *op,
                      bool direct)
{
    ferryIncoming *incoming = ferryIncomingOf(op);
    size_t i;

    for (i = 0; i < incoming->ndisks; i++) {
        ferryIncomingDisk *one = &incoming->disks[i];
        virDomainDiskDef *disk = virDomainDiskByTarget(op->vm->def, one->dst);

        if (!disk)
            continue;

        if (direct && !ferryNodeHasFormat(disk->src) && !disk->src->sliceStorage &&
            disk->src->discard != VIR_DOMAIN_DISK_DISCARD_UNMAP) {
            one->holes = true;
            disk->src->discard = VIR_DOMAIN_DISK_DISCARD_UNMAP;
            ferryIncomingSetDiscard(op, disk->src);
        }

        if (!direct && one->holes) {
            /* with the cache mode */
            disk->src->discard = disk->discard;
            ferryIncomingSetDiscard(op, disk->src);
        } else if (direct || one->direct) {
            one->direct = ferryNodeBypassCache(op->vm, disk, disk->src, direct);
        }
    }
}


static int
ferryIncomingCacheOff(ferryOp *op)
{
    ferryIncomingSetCache(op, /* direct= */ true);
    return 0;
}


static int
ferryIncomingRestoreCache(ferryOp *op)
{
    ferryIncomingSetCache(op, /* direct= */ false);
    return 0;
}


static int
ferryIncomingReservePort(ferryOp *op)
{
    ferryIncoming *incoming = ferryIncomingOf(op);
    unsigned short port = 0;

    if (incoming->address.transport != VIR_STORAGE_NET_HOST_TRANS_TCP)
        return 0;

    if (incoming->address.port > 0)
        return virPortAllocatorSetUsed(incoming->address.port);

    if (virPortAllocatorAcquire(op->driver->migrationPorts, &port) < 0)
        return -1;

    incoming->address.port = port;
    return 0;
}


static char **
ferryIncomingFiles(ferryIncoming *incoming)
{
    g_autoptr(GPtrArray) paths = g_ptr_array_new();
    size_t i;

    for (i = 0; i < incoming->ndisks; i++) {
        virStorageSource *image = incoming->disks[i].image;

        if (!incoming->disks[i].direct && virStorageSourceIsLocalStorage(image) && image->path)
            g_ptr_array_add(paths, g_strdup(image->path));
    }

    g_ptr_array_add(paths, NULL);
    return (char **) g_ptr_array_free(g_steal_pointer(&paths), /* free_seg= */ false);
}


/* server: export all images; only then can clients connect */
static int
ferryIncomingRunServer(ferryOp *op)
{
    ferryIncoming *incoming = ferryIncomingOf(op);
    size_t i;

    if (ferryIncomingReservePort(op) < 0)
        return -1;
    incoming->reserved = true;

    if (ferryExportServerStart(op->vm, &incoming->address, incoming->tlsAlias,
                               &incoming->server) < 0)
        return -1;
    incoming->serving = true;

    for (i = 0; i < incoming->ndisks; i++) {
        virDomainDiskDef *disk = virDomainDiskByTarget(op->vm->def, incoming->disks[i].dst);
        g_autofree char *name = qemuAliasDiskDriveFromDisk(disk);

        if (!name || ferryExportAdd(op->vm, disk->src, name, /* writable= */ true,
                                    /* bitmap= */ NULL) < 0)
            return -1;
    }

    if (ferryExportServerPublish(op->vm, &incoming->address, &incoming->server) < 0)
        return -1;

    incoming->sync = ferrySyncStart(ferryIncomingFiles(incoming));
    return 0;
}


static void
ferryIncomingRelease(ferryIncoming *incoming)
{
    g_clear_pointer(&incoming->sync, ferrySyncStop);
    ferryExportServerForget(&incoming->server);
    ferryExportSocketRemove(&incoming->address, incoming->server.file);

    if (incoming->reserved && incoming->address.transport == VIR_STORAGE_NET_HOST_TRANS_TCP)
        virPortAllocatorRelease(incoming->address.port);
    incoming->reserved = false;
}


/* keep: does nothing; if recovery finds this step in the journal, it keeps the images. */
static int
ferryIncomingKeep(ferryOp *op G_GNUC_UNUSED)
{
    return 0;
}


/* close: the source has written everything. End the exports before the guest starts, so
 * that no NBD client can write to the images of a running guest. */
static int
ferryIncomingCloseServer(ferryOp *op)
{
    ferryIncoming *incoming = ferryIncomingOf(op);

    if (incoming->serving && ferryExportServerStop(op->vm) < 0)
        return -1;
    incoming->serving = false;

    ferryIncomingRelease(incoming);
    return 0;
}


static void
ferryIncomingUnserve(ferryOp *op)
{
    ignore_value(ferryIncomingCloseServer(op));
}


const ferryPlan ferryIncomingServePlan = {
    .name = "serve",
    .steps = (const ferryStep[]) {
        { .name = "cache", .run = ferryIncomingCacheOff },
        { .name = "server", .run = ferryIncomingRunServer, .undo = ferryIncomingUnserve },
        { .name = "restore", .run = ferryIncomingRestoreCache, .unrecorded = true },
        { .name = "keep", .run = ferryIncomingKeep, .durable = true },
        { .name = "close", .run = ferryIncomingCloseServer },
        { 0 },
    },
};


static int
ferryIncomingFormat(ferryOp *op,
                    virBuffer *buf)
{
    ferryIncoming *incoming = ferryIncomingOf(op);
    size_t i;

    for (i = 0; i < incoming->ndisks; i++) {
        ferryIncomingDisk *disk = &incoming->disks[i];
        g_auto(virBuffer) attrs = VIR_BUFFER_INITIALIZER;
        g_auto(virBuffer) children = VIR_BUFFER_INIT_CHILD(buf);

        virBufferEscapeString(&attrs, " name='%s'", disk->dst);
        virBufferAsprintf(&attrs, " origin='%s'", ferryImageOriginTypeToString(disk->origin));
        if (disk->volume)
            ferryVolumeFormat(&attrs, disk->volume);
        else
            ferryFileFormat(&attrs, disk->file);

        if (ferrySourceFormat(&children, disk->image, op->driver->xmlopt, /* runtime= */ false) < 0)
            return -1;

        virXMLFormatElement(buf, "image", &attrs, &children);
    }

    if (incoming->address.socket) {
        g_auto(virBuffer) attrs = VIR_BUFFER_INITIALIZER;

        virBufferEscapeString(&attrs, " path='%s'", incoming->address.socket);
        ferryFileFormat(&attrs, incoming->server.file);
        virXMLFormatElement(buf, "socket", &attrs, /* childBuf= */ NULL);
    }

    return 0;
}


static int
ferryIncomingParseDisk(xmlNodePtr node,
                       xmlXPathContextPtr ctxt,
                       virDomainXMLOption *xmlopt,
                       ferryIncomingDisk *disk)
{
    VIR_XPATH_NODE_AUTORESTORE(ctxt)
    xmlNodePtr image;

    ctxt->node = node;

    if (!(disk->dst = virXMLPropStringRequired(node, "name")) ||
        virXMLPropEnum(node, "origin", ferryImageOriginTypeFromString,
                       VIR_XML_PROP_REQUIRED, &disk->origin) < 0 ||
        ferryVolumeParse(node, &disk->volume) < 0 ||
        (!disk->volume && ferryFileParse(node, &disk->file) < 0))
        return -1;

    if (!(image = virXPathNode("./disk", ctxt))) {
        virReportError(VIR_ERR_XML_DETAIL, _("image of disk '%1$s' is missing"), disk->dst);
        return -1;
    }

    return (disk->image = ferrySourceParse(image, xmlopt, /* runtime= */ false)) ? 0 : -1;
}


static void *
ferryIncomingParse(virQEMUDriver *driver,
                   xmlXPathContextPtr ctxt)
{
    ferryIncoming *incoming = g_new0(ferryIncoming, 1);
    g_autofree xmlNodePtr *nodes = NULL;
    int n = virXPathNodeSet("./image", ctxt, &nodes);
    int i;

    incoming->server.fd = -1;
    incoming->recovered = true;

    if (n <= 0) {
        virReportError(VIR_ERR_XML_DETAIL, "%s", _("images are missing"));
        goto error;
    }

    incoming->disks = g_new0(ferryIncomingDisk, n);

    for (i = 0; i < n; i++) {
        incoming->ndisks++;
        if (ferryIncomingParseDisk(nodes[i], ctxt, driver->xmlopt, &incoming->disks[i]) < 0)
            goto error;
    }

    if ((incoming->address.socket = virXPathString("string(./socket/@path)", ctxt))) {
        incoming->address.transport = VIR_STORAGE_NET_HOST_TRANS_UNIX;
        if (ferryFileParse(virXPathNode("./socket", ctxt), &incoming->server.file) < 0)
            goto error;
    }

    return incoming;

error:
    ferryIncomingFree(incoming);
    return NULL;
}


/* The memory has arrived. Restores the cache modes ahead of the finish phase. */
static void
ferryIncomingMemoryArrived(ferryOp *op)
{
    ferryIncoming *incoming = ferryIncomingOf(op);

    if (ferryPlanReached(op, &ferryIncomingServePlan, "server") &&
        ferryPlanRunTo(op, &ferryIncomingServePlan, "restore") < 0 && !incoming->error)
        incoming->error = virSaveLastError();
}


/* Ends the operation. @arrived: the guest runs here, or may have: keep its images. */
static void
ferryIncomingSettle(ferryOp *op,
                    bool arrived)
{
    if (!arrived)
        ferryIncomingDiscard(op, op->vm);

    ferryIncomingRelease(ferryIncomingOf(op));
    ferryOpEnd(op);
}


/* The reconnecting driver has already ended a QEMU that still waited for its migration. So
 * the guest has arrived, or this QEMU was started on the images later: they stay. */
static void
ferryIncomingRecover(ferryOp *op)
{
    ferryOpEnd(op);
}


/* QEMU is gone. After the point of no return the guest may have run here. */
static void
ferryIncomingStopped(ferryOp *op)
{
    ferryIncoming *incoming = ferryIncomingOf(op);
    bool arrived = ferryPlanPastReturn(op, &ferryIncomingServePlan);
    GPtrArray *paths;
    size_t i;

    if (!arrived && ferryIncomingDeleteVolumes(op) < 0)
        goto later;

    paths = g_ptr_array_new_with_free_func(g_free);
    for (i = 0; !arrived && i < incoming->ndisks; i++)
        ferryOpFileList(paths, incoming->disks[i].image, incoming->disks[i].origin);
    if (incoming->address.socket)
        g_ptr_array_add(paths, g_strdup(incoming->address.socket));

    if (ferryOpFileAwait(op, paths) == 0) {
        ferryIncomingSettle(op, arrived);
        return;
    }

later:
    VIR_WARN("domain '%s': what a migration has left cannot be removed yet: %s",
             op->vm ? op->vm->def->name : "", virGetLastErrorMessage());
}


static char *
ferryIncomingDescribe(ferryOp *op G_GNUC_UNUSED,
                      const char *name)
{
    return g_strdup_printf(_("incoming migration of domain '%1$s'"), name);
}


const ferryOpClass ferryIncomingClass = {
    .name = "incoming",
    .job = VIR_JOB_MODIFY_MIGRATION_SAFE,
    .plans = (const ferryPlan *const[]) {
        &ferryIncomingVolumesPlan, &ferryIncomingImagesPlan, &ferryIncomingServePlan, NULL },
    .describe = ferryIncomingDescribe,
    .format = ferryIncomingFormat,
    .parse = ferryIncomingParse,
    .dataFree = ferryIncomingFree,
    .jobChanged = ferryIncomingMemoryArrived,
    .recover = ferryIncomingRecover,
    .stopped = ferryIncomingStopped,
};


/**
 * ferryIncomingClose:
 *
 * Ends the exports and gives the images to the guest, which is about to start. Domain
 * locked, job held. Returns 0, or -1 with an error reported if the guest must not start.
 */
int
ferryIncomingClose(ferryOp *op)
{
    ferryIncoming *incoming = ferryIncomingOf(op);
    int rc;

    if (incoming->error) {
        virSetError(incoming->error);
        return -1;
    }

    ferryOpDrive(op);
    if ((rc = ferryPlanRunTo(op, &ferryIncomingServePlan, "close")) < 0)
        incoming->error = virSaveLastError();
    ferryOpRelease(op);

    return rc;
}


/* Copies to @config the slices that only @live has. Returns true if there were any. */
static bool
ferryIncomingCopySlices(virDomainDef *live,
                        virDomainDef *config)
{
    bool changed = false;
    size_t i;

    for (i = 0; i < live->ndisks; i++) {
        virStorageSource *src = live->disks[i]->src;
        virDomainDiskDef *disk = virDomainDiskByTarget(config, live->disks[i]->dst);

        if (!src->sliceStorage || !disk || disk->src->sliceStorage ||
            !virStorageSourceIsSameLocation(disk->src, src))
            continue;

        disk->src->sliceStorage = g_new0(virStorageSourceSlice, 1);
        disk->src->sliceStorage->offset = src->sliceStorage->offset;
        disk->src->sliceStorage->size = src->sliceStorage->size;
        changed = true;
    }

    return changed;
}


/**
 * ferryIncomingReconnected:
 * @vm: domain, locked; the reconnecting driver has just asked QEMU for the guest's state
 *
 * A guest that still waits for its migration never ran, even if the journal has "keep".
 * Sets the plan back to before that step, so that the images are removed with QEMU.
 */
void
ferryIncomingReconnected(virDomainObj *vm)
{
    ferryOp *op = ferryIncomingFind(vm);
    int reason;

    if (op && ferryIncomingOf(op)->recovered &&
        virDomainObjGetState(vm, &reason) == VIR_DOMAIN_PAUSED &&
        reason == VIR_DOMAIN_PAUSED_MIGRATION)
        ferryPlanAssume(op, &ferryIncomingServePlan, "restore");
}


/**
 * ferryIncomingStatus:
 * @vm: domain, locked, in the monitor's thread
 * @status: new status of the incoming migration (qemuMonitorMigrationStatus)
 *
 * When the memory has arrived, a worker restores the cache modes in the few milliseconds
 * before the finish phase. If no worker does, the finish phase does it.
 */
void
ferryIncomingStatus(virDomainObj *vm,
                    int status)
{
    ferryOp *op;

    if (status == QEMU_MONITOR_MIGRATION_STATUS_COMPLETED && (op = ferryIncomingFind(vm)))
        ignore_value(ferryEngineSubmit(op));
}


/**
 * ferryIncomingArrived:
 *
 * The guest of @vm, which is locked, has arrived: copies slices of the live definition to
 * the persistent one and ends @op. Reports no error.
 */
void
ferryIncomingArrived(ferryOp *op,
                     virDomainObj *vm)
{
    g_autoptr(virQEMUDriverConfig) cfg = virQEMUDriverGetConfig(op->driver);

    if (vm->persistent && vm->newDef && ferryIncomingCopySlices(vm->def, vm->newDef) &&
        (virDomainDefSave(vm->newDef, op->driver->xmlopt, cfg->configDir) < 0 ||
         ferryDurableFolder(cfg->configDir) < 0)) {
        VIR_WARN("configuration of domain '%s' lacks the slices of its disks: %s",
                 vm->def->name, virGetLastErrorMessage());
        virResetLastError();
    }

    ferryIncomingOf(op)->arrived = true;
    if (!op->over)
        ferryIncomingSettle(op, /* arrived= */ true);
}
