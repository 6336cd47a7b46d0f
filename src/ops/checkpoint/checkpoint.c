/*
 * checkpoint.c: checkpoints without a backup: the operation, its start, and recovery
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "block/access.h"
#include "block/active.h"
#include "block/node.h"
#include "compat/caps.h"
#include "engine/checkpoints.h"
#include "engine/engine.h"
#include "engine/plan.h"
#include "engine/wait.h"
#include "ops/checkpoint/bitmaps.h"
#include "ops/checkpoint/checkpoint.h"
#include "ops/checkpoint/create.h"
#include "ops/checkpoint/data.h"
#include "ops/checkpoint/delete.h"
#include "ops/checkpoint/metadata.h"
#include "ops/copy/copy.h"
#include "qemu/qemu_domainjob.h"
#include "virdomaincheckpointobjlist.h"
#include "virerror.h"
#include "virlog.h"
#include "virxml.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.checkpoint");

#define FERRY_CHECKPOINT_NAME "checkpoint"

/* The domain jobs that may run while a checkpoint is created with the guest frozen. */
#define FERRY_CHECKPOINT_JOB_MASK \
    (JOB_MASK(VIR_JOB_QUERY) | JOB_MASK(VIR_JOB_DESTROY) | JOB_MASK(VIR_JOB_MODIFY))


static int
ferryCheckpointFormat(ferryOp *op,
                      virBuffer *buf)
{
    ferryCheckpoint *data = ferryCheckpointOf(op);
    g_auto(virBuffer) attrs = VIR_BUFFER_INITIALIZER;
    g_auto(virBuffer) children = VIR_BUFFER_INIT_CHILD(buf);
    size_t i;

    virBufferAsprintf(&attrs, " metadata='%s'", data->metadataOnly ? "yes" : "no");
    for (i = 0; i < data->names->len; i++)
        virBufferEscapeString(&children, "<name>%s</name>\n", g_ptr_array_index(data->names, i));

    virXMLFormatElement(buf, "checkpoints", &attrs, &children);
    ferryQuiesceFormat(buf, &data->quiesce);
    return 0;
}


static void *
ferryCheckpointParse(virQEMUDriver *driver G_GNUC_UNUSED,
                     xmlXPathContextPtr ctxt)
{
    ferryCheckpoint *data = ferryCheckpointNew();
    xmlNodePtr node = virXPathNode("./checkpoints", ctxt);
    g_autofree xmlNodePtr *names = NULL;
    virTristateBool metadataOnly;
    int n = virXPathNodeSet("./checkpoints/name", ctxt, &names);
    int i;

    for (i = 0; i < n; i++) {
        char *name = virXMLNodeContentString(names[i]);

        if (!name)
            goto error;
        g_ptr_array_add(data->names, name);

        /* the name becomes a part of a path */
        if (!*name || strchr(name, '/')) {
            virReportError(VIR_ERR_XML_DETAIL, _("bad checkpoint name '%1$s'"), name);
            goto error;
        }
    }

    if (!node || n <= 0) {
        virReportError(VIR_ERR_XML_DETAIL, "%s", _("checkpoints are missing"));
        goto error;
    }

    if (virXMLPropTristateBool(node, "metadata", VIR_XML_PROP_REQUIRED, &metadataOnly) < 0 ||
        ferryQuiesceParse(ctxt, &data->quiesce) < 0)
        goto error;

    data->metadataOnly = metadataOnly == VIR_TRISTATE_BOOL_YES;
    return data;

error:
    ferryCheckpointFree(data);
    return NULL;
}


/* Finishes or undoes a half-done operation. Recovery leaves that to a worker. */
static void
ferryCheckpointJobChanged(ferryOp *op)
{
    if (ferryPlanPastReturn(op, &ferryCheckpointDeletePlan)) {
        if (ferryPlanResume(op, &ferryCheckpointDeletePlan) < 0)
            return;
    } else if (!ferryPlanDone(op, &ferryCheckpointCreatePlan)) {
        if (ferryPlanUndo(op, &ferryCheckpointDeletePlan) < 0 ||
            ferryPlanUndo(op, &ferryCheckpointCreatePlan) < 0)
            return;
    }

    if (!op->over)
        ferryOpEnd(op);
}


/* It is not known which images were made writable. Those that were not are read-only again at "close". */
static void
ferryCheckpointRecall(ferryOp *op)
{
    virDomainDef *def = op->vm->def;
    size_t i;

    if (ferryCheckpointOf(op)->metadataOnly || !ferryPlanReached(op, &ferryCheckpointDeletePlan, "open"))
        return;

    for (i = 0; i < def->ndisks; i++) {
        virStorageSource *n;

        for (n = def->disks[i]->src->backingStore; virStorageSourceIsBacking(n); n = n->backingStore)
            ferryAccessRecallWrite(op->vm, n);
    }
}


static void
ferryCheckpointRecover(ferryOp *op)
{
    ferryCheckpoint *data = ferryCheckpointOf(op);

    data->started = ferryPlanReached(op, &ferryCheckpointCreatePlan, "start");
    ferryQuiesceRecover(&data->quiesce,
                        ferryPlanReached(op, &ferryCheckpointCreatePlan, "freeze") &&
                            !ferryPlanReached(op, &ferryCheckpointCreatePlan, "adopt"));

    ignore_value(ferryEngineSubmit(op));
}


/* Finishes a delete, or takes a create back. Returns 0, or -1 with an error reported. */
static int
ferryCheckpointSettle(ferryOp *op)
{
    ferryCheckpoint *data = ferryCheckpointOf(op);

    if (ferryPlanPastReturn(op, &ferryCheckpointDeletePlan)) {
        if (!data->metadataOnly &&
            ferryCheckpointDropOffline(op, /* def= */ NULL, data->names, /* chain= */ true) < 0)
            return -1;
        return ferryCheckpointRemoveAll(op->vm, data->names);
    }

    if (*ferryPlanProgress(op, &ferryCheckpointCreatePlan) == 0 ||
        ferryPlanDone(op, &ferryCheckpointCreatePlan))
        return 0;

    if (ferryPlanReached(op, &ferryCheckpointCreatePlan, "start") &&
        ferryCheckpointDropOffline(op, data->def, data->names, /* chain= */ false) < 0)
        return -1;

    return ferryCheckpointRemove(op->vm, g_ptr_array_index(data->names, 0));
}


/* Ends the operation, unless the bitmaps or a file of a checkpoint cannot be removed yet: an
 * error is reported then. If the journal were gone, the next driver would list the
 * checkpoint, and nobody would remove the bitmaps. */
static void
ferryCheckpointStopped(ferryOp *op)
{
    if (!op->vm || ferryCheckpointSettle(op) == 0)
        ferryOpEnd(op);
    else
        VIR_WARN("checkpoints of domain '%s' cannot be removed yet: %s",
                 op->vm->def->name, virGetLastErrorMessage());
}


/* A delete that could not finish does not count: nobody waits for it. */
static bool
ferryCheckpointNeedsCheckpoints(ferryOp *op)
{
    return op->driven || !ferryPlanPastReturn(op, &ferryCheckpointDeletePlan);
}


static bool
ferryCheckpointRemovesCheckpoint(ferryOp *op,
                                 const char *name)
{
    return g_ptr_array_find_with_equal_func(ferryCheckpointOf(op)->names, name, g_str_equal, NULL);
}


static char *
ferryCheckpointDescribe(ferryOp *op,
                        const char *name)
{
    GPtrArray *names = ferryCheckpointOf(op)->names;
    const char *first = names->len > 0 ? g_ptr_array_index(names, 0) : "";

    if (*ferryPlanProgress(op, &ferryCheckpointDeletePlan) > 0)
        return g_strdup_printf(_("deletion of checkpoint '%1$s' of domain '%2$s'"), first, name);

    return g_strdup_printf(_("creation of checkpoint '%1$s' of domain '%2$s'"), first, name);
}


const ferryOpClass ferryCheckpointClass = {
    .name = "checkpoint",
    .job = VIR_JOB_MODIFY,
    .plans = (const ferryPlan *const[]) { &ferryCheckpointCreatePlan, &ferryCheckpointDeletePlan, NULL },
    .describe = ferryCheckpointDescribe,
    .format = ferryCheckpointFormat,
    .parse = ferryCheckpointParse,
    .dataFree = ferryCheckpointFree,
    .jobChanged = ferryCheckpointJobChanged,
    .recall = ferryCheckpointRecall,
    .recover = ferryCheckpointRecover,
    .stopped = ferryCheckpointStopped,
    .removesCheckpoint = ferryCheckpointRemovesCheckpoint,
    .needsCheckpoints = ferryCheckpointNeedsCheckpoints,
};


/* Gives operations that have outlived their QEMU, and hold names of checkpoints, another try. */
static void
ferryCheckpointRetryStopped(virDomainObj *vm)
{
    g_autoptr(GPtrArray) stopped = g_ptr_array_new_with_free_func((GDestroyNotify) ferryOpUnref);
    GPtrArray *ops = ferryOpList(vm);
    size_t i;

    for (i = 0; ops && i < ops->len; i++) {
        ferryOp *op = g_ptr_array_index(ops, i);

        if (op->stopped && op->klass->removesCheckpoint)
            g_ptr_array_add(stopped, ferryOpRef(op));
    }

    for (i = 0; i < stopped->len; i++) {
        ferryOp *op = g_ptr_array_index(stopped, i);

        if (!op->over)
            op->klass->stopped(op);
    }
}


/* Goes on with an earlier operation on checkpoints that could not be finished. This may wait.
 * Returns 0, or -1 with an error reported when the domain has ended meanwhile, and this
 * thread has lost its job. */
static int
ferryCheckpointFinish(virDomainObj *vm)
{
    ferryOp *found;

    ferryCheckpointRetryStopped(vm);

    if ((found = ferryOpFind(vm, FERRY_CHECKPOINT_NAME)) && !found->driven &&
        !found->stopped && virDomainObjIsActive(vm)) {
        g_autoptr(ferryOp) op = ferryOpRef(found);

        ferryOpDrive(op);
        ferryCheckpointJobChanged(op);
        ferryOpRelease(op);
    }

    virResetLastError();

    if (ferryDomainHasJob(vm))
        return 0;

    virReportError(VIR_ERR_OPERATION_FAILED, _("domain '%1$s' ended meanwhile"), vm->def->name);
    return -1;
}


/* Runs @plan as a new operation. Takes over @data, also on failure. */
static int
ferryCheckpointRun(virDomainObj *vm,
                   ferryCheckpoint *data,
                   const ferryPlan *plan,
                   bool holdJob)
{
    g_autoptr(ferryOp) op = NULL;
    int rc;

    if (ferryCheckpointsCheckFree(vm, /* except= */ NULL) < 0) {
        ferryCheckpointFree(data);
        return -1;
    }

    if (ferryOpFind(vm, FERRY_CHECKPOINT_NAME)) {
        virReportError(VIR_ERR_OPERATION_INVALID,
                       _("an earlier operation on checkpoints of domain '%1$s' is not finished yet; "
                         "try again"),
                       vm->def->name);
        ferryCheckpointFree(data);
        return -1;
    }

    if (!data->metadataOnly && virDomainObjIsActive(vm) && ferryActiveTake(vm) < 0) {
        ferryCheckpointFree(data);
        return -1;
    }

    op = ferryOpNew(vm, &ferryCheckpointClass, FERRY_CHECKPOINT_NAME, data);

    ferryOpDrive(op);
    op->holdJob = holdJob;
    rc = ferryPlanRun(op, plan);
    op->holdJob = false;
    if (!op->over && (rc == 0 || *ferryPlanProgress(op, plan) == 0))
        ferryOpEnd(op);
    ferryOpRelease(op);

    /* not settled: a worker tries once more; ferryCheckpointDelete() finishes a delete */
    if (!op->over)
        ignore_value(ferryEngineSubmit(op));

    return rc;
}


/* Returns 0 if the images of @vm can get the bitmaps of @def, or -1 with an error reported. */
static int
ferryCheckpointCheckNew(virDomainObj *vm,
                        virDomainCheckpointDef *def)
{
    g_autoptr(GHashTable) nodes = ferryNodeData(vm);

    return nodes ? ferryCheckpointCheckImages(vm, def, nodes, /* whole= */ NULL) : -1;
}


/* Begins the job in which a checkpoint is created. While the guest may be frozen, the plan
 * gives up the modify job. The asynchronous job then keeps out everything that would move
 * or save a frozen guest; *async says whether there is one. If not, because of a backup
 * that may end at any time, the plan must hold the modify job all the time. */
static int
ferryCheckpointBeginJob(virDomainObj *vm,
                        bool quiesce,
                        bool *async)
{
    *async = quiesce && vm->job->asyncJob != VIR_ASYNC_JOB_BACKUP;

    if (*async) {
        if (virDomainObjBeginAsyncJob(vm, VIR_ASYNC_JOB_SNAPSHOT,
                                      VIR_DOMAIN_JOB_OPERATION_SNAPSHOT, /* apiFlags= */ 0) < 0)
            return -1;

        qemuDomainObjSetAsyncJobMask(vm, FERRY_CHECKPOINT_JOB_MASK);
        qemuDomainJobSetStatsType(vm->job->current, QEMU_DOMAIN_JOB_STATS_TYPE_SAVEDUMP);
        qemuDomainObjReleaseAsyncJob(vm);
    }

    if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) == 0)
        return 0;

    if (*async)
        virDomainObjEndAsyncJob(vm);
    return -1;
}


/**
 * ferryCheckpointCreate:
 * @vm: domain, locked, without a job
 * @name: set to the checkpoint's name, perhaps also on failure; the caller frees it
 *
 * Creates the checkpoint that @xml describes. Returns 0, or -1 with an error reported;
 * the checkpoint is then undone, by recovery if QEMU cannot be reached.
 */
int
ferryCheckpointCreate(virDomainObj *vm,
                      const char *xml,
                      bool quiesce,
                      char **name)
{
    qemuDomainObjPrivate *priv = vm->privateData;
    ferryCheckpoint *data = ferryCheckpointNew();
    bool async;
    int rc = -1;

    data->quiesce.wanted = quiesce;

    if (ferryCopyAwaitPivots(vm) < 0 || ferryCheckpointBeginJob(vm, quiesce, &async) < 0) {
        ferryCheckpointFree(data);
        return -1;
    }

    if (ferryCheckpointFinish(vm) < 0) {
        /* the error is reported */
    } else if (!virDomainObjIsActive(vm)) {
        virReportError(VIR_ERR_OPERATION_UNSUPPORTED, "%s",
                       _("cannot create checkpoint for inactive domain"));
    } else if (!ferryCapsAreRecent(priv->qemuCaps)) {
        virReportError(VIR_ERR_OPERATION_UNSUPPORTED,
                       _("checkpoints of domain '%1$s' need QEMU 6.1 or newer"), vm->def->name);
    } else if ((data->def = ferryCheckpointPrepare(vm, xml)) &&
               ferryCheckpointCheckNew(vm, data->def) == 0 &&
               ferryQuiesceCheck(vm, &data->quiesce) == 0) {
        *name = g_strdup(data->def->parent.name);
        g_ptr_array_add(data->names, g_strdup(*name));
        rc = ferryCheckpointRun(vm, g_steal_pointer(&data), &ferryCheckpointCreatePlan,
                                /* holdJob= */ !async);
    }

    ferryDomainEndJob(vm);
    if (async)
        virDomainObjEndAsyncJob(vm);

    if (data)
        ferryCheckpointFree(data);
    return rc;
}


static int
ferryCheckpointList(void *payload,
                    const char *key G_GNUC_UNUSED,
                    void *opaque)
{
    virDomainMomentObj *chk = payload;
    GPtrArray *names = opaque;

    g_ptr_array_add(names, g_strdup(chk->def->name));
    return 0;
}


/* Fills data->names with the checkpoints to delete: @name, its descendants, or both. */
static int
ferryCheckpointSelect(virDomainObj *vm,
                      const char *name,
                      unsigned int flags,
                      ferryCheckpoint *data)
{
    virDomainMomentObj *chk = virDomainCheckpointFindByName(vm->checkpoints, name);

    if (!data->metadataOnly && !virDomainObjIsActive(vm)) {
        virReportError(VIR_ERR_OPERATION_UNSUPPORTED, "%s",
                       _("cannot delete checkpoint for inactive domain"));
        return -1;
    }

    if (!chk) {
        virReportError(VIR_ERR_NO_DOMAIN_CHECKPOINT,
                       _("no domain checkpoint with matching name '%1$s'"), name);
        return -1;
    }

    if (!(flags & VIR_DOMAIN_CHECKPOINT_DELETE_CHILDREN_ONLY))
        g_ptr_array_add(data->names, g_strdup(name));

    if (flags & (VIR_DOMAIN_CHECKPOINT_DELETE_CHILDREN | VIR_DOMAIN_CHECKPOINT_DELETE_CHILDREN_ONLY))
        virDomainMomentForEachDescendant(chk, ferryCheckpointList, data->names);

    return 0;
}


/**
 * ferryCheckpointDelete:
 * @vm: domain, locked, without a job
 * @flags: virDomainCheckpointDeleteFlags
 *
 * Deletes checkpoint @name, its descendants, or both, with those of their bitmaps that
 * exist. Returns 0, or -1 with an error reported.
 */
int
ferryCheckpointDelete(virDomainObj *vm,
                      const char *name,
                      unsigned int flags)
{
    ferryCheckpoint *data = ferryCheckpointNew();
    int rc = -1;

    data->metadataOnly = flags & VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY;

    if (ferryCopyAwaitPivots(vm) < 0 || virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0) {
        ferryCheckpointFree(data);
        return -1;
    }

    if (ferryCheckpointFinish(vm) == 0 && ferryCheckpointSelect(vm, name, flags, data) == 0) {
        if (data->names->len > 0)
            rc = ferryCheckpointRun(vm, g_steal_pointer(&data), &ferryCheckpointDeletePlan,
                                    /* holdJob= */ false);
        else
            rc = 0; /* no children */
    }

    ferryDomainEndJob(vm);

    if (data)
        ferryCheckpointFree(data);
    return rc;
}
