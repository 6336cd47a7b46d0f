/*
 * layers.c: block copy: the images between the top and the one that the target is put onto
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Theory of operation
 *
 * QEMU's mirror job copies either all of a disk or what its top image holds. For a target that
 * is put onto an image deeper in the chain, the images in between have to get into the target,
 * too. Nobody writes to them. So a backup job for each copies what it holds itself, the lowest
 * one first, before the mirror job copies the top image: each overwrites what those below it
 * have put there, as in the chain.
 *
 * All these jobs have the same name, so that clients see one block job that is never without
 * progress. A copy that is not pivoted to is complete as well. (The other way, to mirror the top,
 * pivot, and then stream the rest into it, gives no such copy, and moves the guest first.)
 *
 * QEMU makes a backup only to a target of its source's size, but images grow from one snapshot
 * to the next: the target is shown to the job through a node that ends where the source does.
 *
 * After a restart the journal says which image is being copied. A job may run twice, since nothing
 * else has written to the target; but an ended job is dismissed before the journal names the next
 * image, or its result would be taken for the next one's.
 */

#include <config.h>

#include "block/node.h"
#include "block/nodename.h"
#include "block/qmp.h"
#include "engine/wait.h"
#include "ops/copy/data.h"
#include "ops/copy/layers.h"
#include "qemu/qemu_monitor.h"
#include "virerror.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.copy");


/* layer: copies an image between the top one and the base */
bool
ferryLayersNone(ferryOp *op)
{
    return !ferryCopyOf(op)->base;
}


/* QEMU allows 31 characters. */
static char *
ferryLayersView(ferryOp *op)
{
    return g_strdup_printf("%s-view", ferryNodeName(ferryCopyOf(op)->target));
}


/* Adds a node that is the first @size bytes of the target. */
static int
ferryLayersAddView(ferryOp *op,
                   const char *view,
                   unsigned long long size)
{
    g_autoptr(virJSONValue) props = NULL;
    int rc;

    if (virJSONValueObjectAdd(&props,
                              "s:driver", "raw",
                              "s:node-name", view,
                              "U:size", size,
                              "s:file", ferryNodeName(ferryCopyOf(op)->target),
                              NULL) < 0)
        return -1;

    qemuDomainObjEnterMonitor(op->vm);
    rc = qemuMonitorBlockdevAdd(qemuDomainGetMonitor(op->vm), &props);
    qemuDomainObjExitMonitor(op->vm);

    return rc;
}


/**
 * ferryLayersClear:
 *
 * Removes the node through which an image was copied to the target, if it is there. Domain locked, job
 * held.
 *
 * Returns 0, or -1 with an error reported: it would keep the target, which the guest is to use, from being
 * resized or removed.
 */
int
ferryLayersClear(ferryOp *op)
{
    g_autofree char *view = ferryLayersView(op);
    g_autoptr(GHashTable) nodes = ferryNodeData(op->vm);
    int rc;

    if (!nodes)
        return -1;

    if (!g_hash_table_contains(nodes, view))
        return 0;

    qemuDomainObjEnterMonitor(op->vm);
    if ((rc = qemuMonitorBlockdevDel(qemuDomainGetMonitor(op->vm), view)) < 0)
        rc = qemuMonitorBlockdevDel(qemuDomainGetMonitor(op->vm), view);
    qemuDomainObjExitMonitor(op->vm);

    return rc;
}


/**
 * ferryLayersCopy:
 *
 * Starts the job that copies the image copy->layer. A step of the start plan: it runs once for each
 * image.
 */
int
ferryLayersCopy(ferryOp *op)
{
    ferryCopy *copy = ferryCopyOf(op);
    g_autofree char *jobname = ferryJobName(op, "mirror");
    g_autofree char *view = ferryLayersView(op);
    g_autoptr(GHashTable) nodes = NULL;
    g_autoptr(virJSONValue) actions = virJSONValueNewArray();
    ferryBackupParams params = {
        .source = copy->layer,
        .target = view,
        .shallow = true,
        .bandwidth = copy->bandwidth,
    };
    unsigned long long size;

    if (!copy->base)
        return 0;

    /* a driver that died in this step may have added the node */
    if (ferryCopyRequireDisk(op) < 0 || !(nodes = ferryNodeData(op->vm)) ||
        ferryNodeCapacity(nodes, copy->layer, &size) < 0 ||
        (!g_hash_table_contains(nodes, view) && ferryLayersAddView(op, view, size) < 0) ||
        ferryQMPBackupAction(actions, jobname, &params) < 0)
        return -1;

    return ferryQMPTransaction(op->vm, &actions);
}


void
ferryLayersStop(ferryOp *op)
{
    g_autofree char *jobname = ferryJobName(op, "mirror");

    if (!ferryCopyOf(op)->base)
        return;

    if (ferryJobKill(op, jobname) < 0) {
        VIR_WARN("the copy of an image below disk '%s' of domain '%s' does not end: %s",
                 ferryCopyOf(op)->dst, op->vm->def->name, virGetLastErrorMessage());
        return;
    }

    if (ferryLayersClear(op) < 0)
        VIR_WARN("'%s' stays in use by domain '%s': %s", NULLSTR(ferryCopyOf(op)->target->path),
                 op->vm->def->name, virGetLastErrorMessage());
}
