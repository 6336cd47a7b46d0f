/*
 * create.c: checkpoints: the steps that create one
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Unless all steps were taken, the checkpoint is undone, also after a restart.
 */

#include <config.h>

#include "block/node.h"
#include "block/qmp.h"
#include "ops/checkpoint/bitmaps.h"
#include "ops/checkpoint/create.h"
#include "ops/checkpoint/data.h"
#include "ops/checkpoint/metadata.h"
#include "virerror.h"
#include "virlog.h"

VIR_LOG_INIT("ferry.checkpoint");


/* create: file: writes the checkpoint's definition */
static int
ferryCheckpointRunFile(ferryOp *op)
{
    return ferryCheckpointSave(op->vm, ferryCheckpointOf(op)->def);
}


static void
ferryCheckpointUndoFile(ferryOp *op)
{
    ferryCheckpoint *data = ferryCheckpointOf(op);

    if (ferryCheckpointRemove(op->vm, g_ptr_array_index(data->names, 0)) < 0) {
        VIR_WARN("an unfinished checkpoint of domain '%s' cannot be removed yet: %s",
                 op->vm->def->name, virGetLastErrorMessage());
        op->stuck = true;
    }
}


/* create: freeze, thaw */
static int
ferryCheckpointFreeze(ferryOp *op)
{
    return ferryQuiesceFreeze(op, &ferryCheckpointOf(op)->quiesce);
}


static void
ferryCheckpointUnfreeze(ferryOp *op)
{
    ferryQuiesceThawAlways(op, &ferryCheckpointOf(op)->quiesce);
}


static int
ferryCheckpointThaw(ferryOp *op)
{
    return ferryQuiesceThaw(op, &ferryCheckpointOf(op)->quiesce);
}


/* create: start: adds the bitmaps of all disks in one transaction */
static int
ferryCheckpointStart(ferryOp *op)
{
    ferryCheckpoint *data = ferryCheckpointOf(op);
    g_autoptr(GHashTable) nodes = ferryNodeData(op->vm);
    g_autoptr(virJSONValue) actions = virJSONValueNewArray();

    if (!nodes ||
        ferryCheckpointAddBitmaps(op->vm, data->def, nodes, /* whole= */ NULL, actions) < 0 ||
        ferryQMPTransaction(op->vm, &actions) < 0)
        return -1;

    data->started = true;
    return 0;
}


static void
ferryCheckpointUnstart(ferryOp *op)
{
    ferryCheckpoint *data = ferryCheckpointOf(op);
    g_autoptr(virDomainCheckpointDef) def = NULL;

    if (data->def)
        def = virObjectRef(data->def);
    else
        def = ferryCheckpointFind(op->vm, g_ptr_array_index(data->names, 0));

    if (def && data->started)
        ferryCheckpointDropBitmaps(op->vm, def);
}


/* create: adopt: puts the checkpoint into the domain's list */
static int
ferryCheckpointRunAdopt(ferryOp *op)
{
    return ferryCheckpointAdopt(op->vm, ferryCheckpointOf(op)->def);
}


const ferryPlan ferryCheckpointCreatePlan = {
    .name = "checkpoint",
    .steps = (const ferryStep[]) {
        { .name = "file", .run = ferryCheckpointRunFile, .undo = ferryCheckpointUndoFile, .durable = true },
        { .name = "freeze", .run = ferryCheckpointFreeze, .undo = ferryCheckpointUnfreeze },
        { .name = "start", .run = ferryCheckpointStart, .undo = ferryCheckpointUnstart },
        { .name = "thaw", .run = ferryCheckpointThaw },
        { .name = "adopt", .run = ferryCheckpointRunAdopt },
        { 0 },
    },
};
