/*
 * quiesce.c: the guest's file systems, frozen for a moment
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Frozen from one step to another: the operation's transaction lies between.
 * A guest that was frozen is thawed whatever comes, also by the next driver
 * if this one dies: a journal that has reached the freeze and not what follows
 * the thaw says so. To thaw a guest that is not frozen does no harm.
 */

#include <config.h>

#include "ops/quiesce.h"
#include "qemu/qemu_agent.h"
#include "qemu/qemu_snapshot.h"
#include "virerror.h"
#include "virlog.h"
#include "virxml.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.quiesce");

/* A driver that was just started waits for the agent to be connected. */
#define FERRY_QUIESCE_AGENT_MS 10000


/**
 * ferryQuiesceCheck:
 *
 * Is there an agent that could freeze the guest? Asked before anything is
 * changed.
 */
int
ferryQuiesceCheck(virDomainObj *vm,
                  ferryQuiesce *quiesce)
{
    if (!quiesce->wanted)
        return 0;

    return qemuDomainAgentAvailable(vm, true) ? 0 : -1;
}


/* Agent calls wait as long as the domain's setting says, by default for ever. */
static int
ferryQuiesceLimit(virDomainObj *vm,
                  int timeout)
{
    qemuDomainObjPrivate *priv = vm->privateData;
    int old = priv->agentTimeout;

    if (priv->agent) {
        virObjectLock(priv->agent);
        qemuAgentSetResponseTimeout(priv->agent, timeout);
        virObjectUnlock(priv->agent);
    }

    return old;
}


/* Domain locked, modify job held; lets go of the lock meanwhile. Returns
 * -1 with an error reported. */
static int
ferryQuiesceAgent(virDomainObj *vm,
                  ferryQuiesce *quiesce,
                  bool freeze)
{
    int timeout;
    int rc;

    if (virDomainObjBeginAgentJob(vm, VIR_AGENT_JOB_MODIFY) < 0)
        return -1;

    timeout = ferryQuiesceLimit(vm, quiesce->timeout ? quiesce->timeout : FERRY_QUIESCE_SECONDS);
    rc = freeze ? qemuSnapshotFSFreeze(vm, NULL, 0) : qemuSnapshotFSThaw(vm, true);
    ferryQuiesceLimit(vm, timeout);

    virDomainObjEndAgentJob(vm);
    return rc < 0 ? -1 : 0;
}


/**
 * ferryQuiesceFreeze:
 *
 * A step: freezes the guest, if that is wanted. An agent that does not answer
 * in time is taken for one that may still freeze it.
 */
int
ferryQuiesceFreeze(ferryOp *op,
                   ferryQuiesce *quiesce)
{
    if (!quiesce->wanted)
        return 0;

    quiesce->frozen = true;
    return ferryQuiesceAgent(op->vm, quiesce, true);
}


/**
 * ferryQuiesceThaw:
 *
 * A step: ends the freeze.
 */
int
ferryQuiesceThaw(ferryOp *op,
                 ferryQuiesce *quiesce)
{
    if (!quiesce->wanted)
        return 0;

    if (ferryQuiesceAgent(op->vm, quiesce, false) < 0)
        return -1;

    quiesce->frozen = false;
    return 0;
}


/**
 * ferryQuiesceThawAlways:
 *
 * Takes back ferryQuiesceFreeze(), when the thaw step did not.
 */
void
ferryQuiesceThawAlways(ferryOp *op,
                       ferryQuiesce *quiesce)
{
    qemuDomainObjPrivate *priv = op->vm->privateData;
    unsigned int waited;

    if (!quiesce->frozen)
        return;

    for (waited = 0; !priv->agent && !op->over && waited < FERRY_QUIESCE_AGENT_MS; waited += 1000) {
        if (ferryOpSleep(op, 1000) < 0)
            break;
    }

    if (op->over)
        return;

    if (ferryQuiesceAgent(op->vm, quiesce, false) < 0) {
        VIR_ERROR(_("domain '%s' may be frozen: %s; run 'virsh domfsthaw %s'"),
                  op->vm->def->name, virGetLastErrorMessage(), op->vm->def->name);
        virResetLastError();
    }

    quiesce->frozen = false;
}


void
ferryQuiesceFormat(virBuffer *buf,
                   const ferryQuiesce *quiesce)
{
    if (quiesce->wanted)
        virBufferAsprintf(buf, "<quiesce timeout='%u'/>\n", quiesce->timeout);
}


int
ferryQuiesceParse(xmlXPathContextPtr ctxt,
                  ferryQuiesce *quiesce)
{
    xmlNodePtr node = virXPathNode("./quiesce", ctxt);

    if (!node)
        return 0;

    quiesce->wanted = true;
    return virXMLPropUInt(node, "timeout", 10, VIR_XML_PROP_REQUIRED, &quiesce->timeout);
}
