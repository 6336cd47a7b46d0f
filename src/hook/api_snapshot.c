/*
 * api_snapshot.c: our entries of the QEMU driver's API table: snapshots
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Snapshots are the stock driver's. Ferry adds mirrors to their images.
 */

#include <config.h>

#include "datatypes.h"
#include "engine/report.h"
#include "hook/api_snapshot.h"
#include "ops/snapshot/request.h"
#include "ops/snapshot/snapshot.h"
#include "viraccessapicheck.h"
#include "virerror.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

static virHypervisorDriver stock;

/* This thread is inside the stock entry, for a snapshot with mirrors. */
static __thread bool taking;

/* A call of the stock entry, and its result. */
typedef struct {
    virDomainPtr dom;
    const char *xml;
    unsigned int flags;
    virDomainSnapshotPtr result;
} ferryApiSnapshot;


static int
ferryApiTakeSnapshot(void *opaque)
{
    ferryApiSnapshot *call = opaque;

    taking = true;
    call->result = stock.domainSnapshotCreateXML(call->dom, call->xml, call->flags);
    taking = false;
    return call->result ? 0 : -1;
}


/**
 * ferryApiSnapshotBegun:
 *
 * The thread has got an asynchronous job of @vm. Returns 0; or -1, with an error reported and the job
 * ended, if it is for a mirrored snapshot, and the domain has ended meanwhile: of one that is off the
 * stock driver takes another kind of snapshot.
 */
int
ferryApiSnapshotBegun(virDomainObj *vm)
{
    if (!taking || virDomainObjCheckActive(vm) == 0)
        return 0;

    virDomainObjEndAsyncJob(vm);
    return -1;
}


static virDomainSnapshotPtr
ferryDomainSnapshotCreateXML(virDomainPtr dom,
                             const char *xml,
                             unsigned int flags)
{
    g_autofree char *stockXML = NULL;
    ferrySnapshot *snapshot = NULL;
    ferryApiSnapshot call = { .dom = dom };
    virDomainObj *vm;
    bool ours = true;
    int ret = -1;

    if (!(vm = qemuDomainObjFromDomain(dom)))
        return NULL;

    if (virDomainSnapshotCreateXMLEnsureACL(dom->conn, vm->def, flags) == 0 &&
        ferrySnapshotRequest(vm, xml, flags, &snapshot, &stockXML) == 0) {
        ours = snapshot != NULL;

        call.xml = stockXML;
        /* the guest is frozen by us, who thaw it whatever happens */
        call.flags = flags & ~VIR_DOMAIN_SNAPSHOT_CREATE_QUIESCE;

        if (ours && virDomainBlockCopyEnsureACL(dom->conn, vm->def) < 0)
            ferrySnapshotFree(snapshot);
        else if (ours)
            ret = ferrySnapshotCreate(vm, snapshot, ferryApiTakeSnapshot, &call);
    }

    virDomainObjEndAPI(&vm);

    if (!ours)
        return stock.domainSnapshotCreateXML(dom, xml, flags);

    if (ferryReportResult(dom->name, ret) < 0)
        g_clear_pointer(&call.result, virObjectUnref);
    return call.result;
}


static int
ferryDomainSnapshotDelete(virDomainSnapshotPtr snapshot,
                          unsigned int flags)
{
    bool children = flags & (VIR_DOMAIN_SNAPSHOT_DELETE_CHILDREN | VIR_DOMAIN_SNAPSHOT_DELETE_CHILDREN_ONLY);
    virDomainObj *vm;
    int ret = -1;

    if (!(vm = qemuDomainObjFromDomain(snapshot->domain)))
        return -1;

    if (virDomainSnapshotDeleteEnsureACL(snapshot->domain->conn, vm->def) == 0)
        ret = (flags & VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY) ? 0 :
                                                                   ferrySnapshotMayDelete(vm, snapshot->name, children);

    virDomainObjEndAPI(&vm);
    return ret < 0 ? ferryReportResult(snapshot->domain->name, ret) :
                     stock.domainSnapshotDelete(snapshot, flags);
}


static int
ferryDomainRevertToSnapshot(virDomainSnapshotPtr snapshot,
                            unsigned int flags)
{
    virDomainObj *vm;
    int ret = -1;

    if (!(vm = qemuDomainObjFromDomain(snapshot->domain)))
        return -1;

    if (virDomainRevertToSnapshotEnsureACL(snapshot->domain->conn, vm->def) == 0)
        ret = ferrySnapshotMayDelete(vm, snapshot->name, /* others= */ true);

    virDomainObjEndAPI(&vm);
    return ret < 0 ? ferryReportResult(snapshot->domain->name, ret) :
                     stock.domainRevertToSnapshot(snapshot, flags);
}


/**
 * ferryApiInstallSnapshot:
 *
 * Replaces entries of @table, and keeps the stock entries to delegate to.
 */
void
ferryApiInstallSnapshot(virHypervisorDriver *table)
{
    stock = *table;

    table->domainSnapshotCreateXML = ferryDomainSnapshotCreateXML; /* 0.8.0 */
    table->domainSnapshotDelete = ferryDomainSnapshotDelete;       /* 0.8.0 */
    table->domainRevertToSnapshot = ferryDomainRevertToSnapshot;   /* 0.8.0 */
}
