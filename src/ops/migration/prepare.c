/*
 * prepare.c: storage migration: what the prepare phase calls
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * These functions run within the stock prepare phase: see destination.c. Why `call` is
 * thread-local: our entry ferryDomainMigratePrepare3Params() has the client's request,
 * but the work is done in seams (hook/seams.c). Stock functions call the seams in the
 * same thread while the stock entry runs, and pass only the domain, the driver and
 * migration parameters; the domain may not even exist before. So only the thread can take
 * the request there and bring the operation, with the port for the answer, back.
 *
 * ferryIncomingPrepareBegin() sets `call` just before our entry calls the stock entry,
 * ferryIncomingCreateVolumes() adds the operation, and ferryIncomingPrepareEnd() clears
 * `call` when the stock entry has returned. While it is empty the seams add nothing.
 */

#include <config.h>

#include <fcntl.h>
#include <unistd.h>

#include "block/bounded.h"
#include "block/image.h"
#include "block/overlay.h"
#include "block/socket.h"
#include "block/source.h"
#include "engine/engine.h"
#include "engine/plan.h"
#include "engine/wait.h"
#include "ops/migration/bitmaps.h"
#include "ops/migration/cookie.h"
#include "ops/migration/destination.h"
#include "ops/migration/images.h"
#include "ops/migration/incoming.h"
#include "ops/migration/prepare.h"
#include "ops/migration/volumes.h"
#include "qemu/qemu_alias.h"
#include "virerror.h"
#include "virfile.h"
#include "virtypedparam.h"
#include "virxml.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

/* The prepare phase that this thread runs, if any. */
typedef struct {
    const ferryMigrationRequest *req; /* borrowed; NULL outside the phase */
    ferryOp *op;                      /* reference; NULL until the volumes are created */
} ferryIncomingCall;

static __thread ferryIncomingCall call;


/* Fills in of @disk whether there is a file for its image now. */
static int
ferryIncomingInspect(virDomainObj *vm,
                     const ferryMigrationRequest *req,
                     ferryIncomingDisk *disk)
{
    virStorageSource *src = disk->image;
    ferryMigrationOffer *offer = g_hash_table_lookup(req->disks, disk->dst);

    if (offer && virStorageSourceIsBlockLocal(src))
        ferryImageCutToSize(src, offer->capacity);

    if (!ferrySourceIsFile(src) || virFileExists(src->path))
        return 0;

    if (ferryIncomingCheckMissing(vm, req, disk) < 0)
        return -1;

    disk->origin = FERRY_IMAGE_ABSENT;
    return ferryImagePrepare(vm, src, disk->origin, &disk->file);
}


static int
ferryIncomingAdd(virDomainObj *vm,
                 ferryIncoming *incoming,
                 virDomainDiskDef *def)
{
    ferryIncomingDisk *disk = &incoming->disks[incoming->ndisks++];

    disk->dst = g_strdup(def->dst);
    disk->image = virObjectRef(def->src);

    if (def->src->readonly || virStorageSourceIsEmpty(def->src)) {
        virReportError(VIR_ERR_OPERATION_UNSUPPORTED,
                       _("Cannot migrate empty or read-only disk %1$s"), def->dst);
        return -1;
    }

    return ferryExportMayServe(vm, def, FERRY_EXPORT_INCOMING);
}


/* With --copy-storage-inc the source sends only what its own overlay has. So the guest would see
 * whatever else the destination's overlay has. */
static int
ferryIncomingCheckOverlays(virDomainObj *vm,
                           ferryIncoming *incoming)
{
    size_t i;

    if (!(incoming->req->flags & VIR_MIGRATE_NON_SHARED_INC))
        return 0;

    for (i = 0; i < incoming->ndisks; i++) {
        ferryIncomingDisk *disk = &incoming->disks[i];
        int rc;

        /* only for qcow2 it is known; a missing image will be created without content */
        if (disk->file || disk->image->format != VIR_STORAGE_FILE_QCOW2 ||
            !virStorageSourceIsLocalStorage(disk->image) ||
            ((rc = ferryOverlayHasContent(vm, disk->image, disk->dst)) == 0 && virDomainObjIsActive(vm)))
            continue;

        if (rc == 0)
            virReportError(VIR_ERR_OPERATION_FAILED,
                           _("domain '%1$s' was destroyed while its images were looked at"),
                           vm->def->name);
        else if (rc > 0)
            virReportError(VIR_ERR_OPERATION_FAILED,
                           _("image '%1$s' of disk '%2$s' of domain '%3$s' is an overlay that has "
                             "content of its own, which the guest would see where the source's "
                             "overlay is empty: remove it, or create it anew with 'qemu-img create'"),
                           disk->image->path, disk->dst, vm->def->name);
        return -1;
    }

    return 0;
}


static ferryIncoming *
ferryIncomingNew(virDomainObj *vm,
                 const ferryMigrationRequest *req)
{
    ferryIncoming *incoming = g_new0(ferryIncoming, 1);
    size_t i;

    incoming->req = req;
    incoming->domain = g_strdup(vm->def->name);
    incoming->server.fd = -1;
    incoming->server.hosts = g_strdupv(req->listen);
    incoming->address.transport = req->address.transport;
    incoming->address.name = g_strdup(req->address.name);
    incoming->address.port = req->address.port;
    incoming->address.socket = g_strdup(req->address.socket);
    incoming->checkpoints = g_strdupv(req->checkpoints);
    incoming->disks = g_new0(ferryIncomingDisk, vm->def->ndisks);

    if (req->flags & VIR_MIGRATE_TLS)
        incoming->tlsAlias = qemuAliasTLSObjFromSrcAlias(FERRY_MIGRATION_TLS_BASE);

    if (ferryExportAddressCheck(vm, &incoming->address) < 0)
        goto error;

    for (i = 0; i < vm->def->ndisks; i++) {
        if (!ferryMigrationWants(req, vm->def->disks[i]))
            continue;

        if (ferryIncomingAdd(vm, incoming, vm->def->disks[i]) < 0)
            goto error;
    }

    return incoming;

error:
    ferryIncomingFree(incoming);
    return NULL;
}


/**
 * ferryIncomingAskAhead:
 * @params: of the prepare phase
 *
 * Finds out, before there is a domain that others could wait for, whether the storage of
 * the images answers. Returns 0, or -1 with an error reported.
 */
int
ferryIncomingAskAhead(virTypedParameterPtr params,
                      int nparams)
{
    g_autoptr(GPtrArray) paths = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(xmlDoc) doc = NULL;
    g_autoptr(xmlXPathContext) ctxt = NULL;
    g_autofree xmlNodePtr *nodes = NULL;
    const char *xml = NULL;
    int n;
    int i;

    /* what is wrong with the definition the stock driver will say */
    if (virTypedParamsGetString(params, nparams, VIR_MIGRATE_PARAM_DEST_XML, &xml) < 0 || !xml ||
        !(doc = virXMLParse(/* filename= */ NULL, xml, _("(domain_definition)"), "domain", &ctxt,
                            /* schemafile= */ NULL, /* validate= */ false)) ||
        (n = virXPathNodeSet("./devices/disk/source/@file|./devices/disk/source/@dev", ctxt,
                             &nodes)) < 0) {
        virResetLastError();
        return 0;
    }

    for (i = 0; i < n; i++) {
        xmlChar *path = xmlNodeGetContent(nodes[i]);

        g_ptr_array_add(paths, g_strdup((const char *) path));
        xmlFree(path);
    }
    g_ptr_array_add(paths, NULL);

    return ferryBoundedAnswers(/* vm= */ NULL, (const char *const *) paths->pdata);
}


/**
 * ferryIncomingPrepareBegin:
 *
 * To be called before the stock prepare phase, which gets neither the flags nor the
 * cookie's elements for storage. Borrows @req until ferryIncomingPrepareEnd().
 */
void
ferryIncomingPrepareBegin(const ferryMigrationRequest *req)
{
    call = (ferryIncomingCall) { .req = req };
}


/* Adds the operation, unless it is there. Leaves call.op NULL if there is nothing to migrate:
 * the definition that the destination was given may lack all these disks. */
static int
ferryIncomingAddOp(virDomainObj *vm)
{
    ferryIncoming *incoming;

    if (call.op)
        return 0;

    if (!(incoming = ferryIncomingNew(vm, call.req)))
        return -1;

    if (incoming->ndisks == 0)
        ferryIncomingFree(incoming);
    else
        call.op = ferryOpNew(vm, &ferryIncomingClass, FERRY_INCOMING_NAME, incoming);

    return 0;
}


/* Ends the operation, unless something that it created is still there, or another thread or
 * the next driver settles it. */
static void
ferryIncomingEnd(ferryOp *op)
{
    virErrorPtr err = NULL;

    virErrorPreserveLast(&err);

    /* when it was called last, the volume may not have been there yet */
    if (op->stopped && !op->over)
        ferryIncomingClass.stopped(op);
    else if (!op->stuck && !ferryOpIsLost(op))
        ferryOpEnd(op);

    virErrorRestore(&err);
}


/* Runs @plan. If that fails, nothing that was created stays, and the operation ends. */
static int
ferryIncomingRunPlan(const ferryPlan *plan)
{
    int rc;

    ferryOpDrive(call.op);
    if ((rc = ferryPlanRun(call.op, plan)) < 0) {
        /* without its journal the step did not run, and what the plan before made is there */
        if (!ferryPlanReached(call.op, plan, plan->steps[0].name) && !ferryOpIsLost(call.op))
            ferryIncomingDiscard(call.op, call.op->vm);
        ferryIncomingEnd(call.op);
    }
    ferryOpRelease(call.op);

    return rc;
}


static void
ferryIncomingGiveUp(ferryOp *op)
{
    ferryOpDrive(op);
    ferryIncomingDiscard(op, op->vm);
    ferryIncomingEnd(op);
    ferryOpRelease(op);
}


/**
 * ferryIncomingCreateVolumes:
 * @vm: domain, locked, with an asynchronous job that this thread owns; its volumes are not
 *      translated yet
 *
 * Returns 0, or -1 with an error reported and no volume left behind.
 */
int
ferryIncomingCreateVolumes(virDomainObj *vm)
{
    if (!call.req || call.op)
        return 0;

    if (ferryIncomingAddOp(vm) < 0)
        return -1;

    return call.op ? ferryIncomingRunPlan(&ferryIncomingVolumesPlan) : 0;
}


/**
 * ferryIncomingCreateImages:
 * @vm: domain, locked, with an asynchronous job that this thread owns; QEMU starts next
 *
 * Returns 0, or -1 with an error reported and no image left behind.
 */
int
ferryIncomingCreateImages(virDomainObj *vm)
{
    ferryIncoming *incoming;
    size_t i;

    if (!call.req)
        return 0;

    if (ferryIncomingAddOp(vm) < 0)
        return -1;

    if (!call.op || ferryPlanReached(call.op, &ferryIncomingImagesPlan, "images"))
        return 0;

    incoming = ferryIncomingOf(call.op);

    for (i = 0; i < incoming->ndisks; i++) {
        if (ferryIncomingInspect(vm, call.req, &incoming->disks[i]) < 0) {
            ferryIncomingGiveUp(call.op);
            return -1;
        }
    }

    if (ferryIncomingCheckOverlays(vm, incoming) < 0) {
        if (!ferryOpIsLost(call.op))
            ferryIncomingGiveUp(call.op);
        return -1;
    }

    return ferryIncomingRunPlan(&ferryIncomingImagesPlan);
}


static bool
ferryIncomingIsOn(virDomainObj *vm)
{
    return call.op && !call.op->over && call.op->vm == vm;
}


/**
 * ferryIncomingAcceptBitmaps:
 * @vm: domain, locked, with an asynchronous job of this thread; QEMU gets @params next
 *
 * Adds to @params the bitmaps that are accepted. Returns 0, or -1 with an error reported.
 */
int
ferryIncomingAcceptBitmaps(virDomainObj *vm,
                           qemuMigrationParams *params)
{
    int rc;

    if (!ferryIncomingIsOn(vm))
        return 0;

    if (ferryAsyncEnter(vm, ferryIncomingClass.job) < 0)
        return -1;

    rc = ferryMigrationBitmapsAccept(vm, call.req->cookie, params,
                                     &ferryIncomingOf(call.op)->bitmaps);
    ferryAsyncLeave(vm);

    return rc;
}


/**
 * ferryIncomingServe:
 * @vm: domain, locked, with an asynchronous job that this thread owns; QEMU runs
 *
 * Exports the images. Returns 0, or -1 with an error reported: then the stock driver ends
 * QEMU, and the images that we created are removed.
 */
int
ferryIncomingServe(virDomainObj *vm)
{
    int rc;

    if (!ferryIncomingIsOn(vm))
        return 0;

    if (ferryAsyncEnter(vm, ferryIncomingClass.job) < 0)
        return -1;

    ferryOpDrive(call.op);
    rc = ferryPlanRunTo(call.op, &ferryIncomingServePlan, "server");
    ferryOpRelease(call.op);

    ferryAsyncLeave(vm);
    return rc;
}


/**
 * ferryIncomingPrepareEnd:
 * @rc: what the stock prepare phase returned
 * @cookie: its answer to the source; <nbd> and the bitmaps are added
 *
 * Ends what ferryIncomingPrepareBegin() began. Returns 0, or -1 with an error reported.
 */
int
ferryIncomingPrepareEnd(int rc,
                        char **cookie,
                        int *len)
{
    ferryIncoming *incoming = call.op ? ferryIncomingOf(call.op) : NULL;

    if (incoming && rc == 0) {
        bool tcp = incoming->address.transport == VIR_STORAGE_NET_HOST_TRANS_TCP;

        rc = ferryMigrationCookieAnswer(cookie, len, tcp ? incoming->address.port : 0,
                                        incoming->bitmaps);
    }

    if (incoming)
        incoming->req = NULL;
    g_clear_pointer(&call.op, ferryOpUnref);
    call = (ferryIncomingCall) { 0 };

    return rc;
}
