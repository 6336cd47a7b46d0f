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
 *
 * An agent that did not answer in time may still get round to the freeze when
 * the operation is long over. So an operation of its own goes on trying.
 */

#include <config.h>

#include "engine/engine.h"
#include "engine/journal.h"
#include "engine/wait.h"
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

/* How long an agent that does not answer is asked to thaw the guest. */
#define FERRY_QUIESCE_RETRY_MS 2000
#define FERRY_QUIESCE_RETRIES 150


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


static unsigned int
ferryQuiesceTimeout(ferryQuiesce *quiesce)
{
    return quiesce->timeout ? quiesce->timeout : FERRY_QUIESCE_SECONDS;
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

    timeout = ferryQuiesceLimit(vm, ferryQuiesceTimeout(quiesce));
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
    if (ferryQuiesceAgent(op->vm, quiesce, true) == 0)
        return 0;

    if (virGetLastErrorCode() == VIR_ERR_AGENT_UNRESPONSIVE) {
        quiesce->mute = true;
        virReportError(VIR_ERR_AGENT_UNRESPONSIVE,
                       _("guest of domain '%1$s' was not frozen within %2$u seconds; look at its agent, "
                         "or go without <quiesce/>"),
                       op->vm->def->name, ferryQuiesceTimeout(quiesce));
    }

    return -1;
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


/* The operation that thaws a guest whose agent does not answer yet. */
#define FERRY_THAW_NAME "thaw"


static void *
ferryThawParse(virQEMUDriver *driver G_GNUC_UNUSED,
               xmlXPathContextPtr ctxt G_GNUC_UNUSED)
{
    return g_new0(ferryQuiesce, 1);
}


/* By a worker: keeps at it, and lets others have the domain meanwhile. */
static void
ferryThawTry(ferryOp *op)
{
    size_t i;

    for (i = 0; i < FERRY_QUIESCE_RETRIES && !op->over; i++) {
        bool thawed;

        /* the agent may take its time, and nobody else should have to wait */
        ferryOpYield(op);
        thawed = virDomainObjIsActive(op->vm) &&
                 qemuDomainAgentAvailable(op->vm, false) &&
                 ferryQuiesceAgent(op->vm, op->data, false) == 0;
        ferryOpResume(op);

        if (thawed || op->over)
            break;

        virResetLastError();
        if (ferryOpSleep(op, FERRY_QUIESCE_RETRY_MS) < 0)
            break;
    }

    if (op->over)
        return;

    if (i == FERRY_QUIESCE_RETRIES)
        VIR_ERROR(_("domain '%1$s' may be frozen and its agent does not answer: "
                    "run 'virsh domfsthaw %2$s' when it does"),
                  op->vm->def->name, op->vm->def->name);
    ferryOpEnd(op);
}


static void
ferryThawRecover(ferryOp *op)
{
    ignore_value(ferryEngineSubmit(op));
}


const ferryOpClass ferryThawClass = {
    .name = "thaw",
    .job = VIR_JOB_MODIFY,
    .plans = (const ferryPlan *const[]) { NULL },
    .parse = ferryThawParse,
    .dataFree = g_free,
    .jobChanged = ferryThawTry,
    .recover = ferryThawRecover,
    .stopped = ferryOpEnd,
};


static void
ferryQuiesceThawLater(virDomainObj *vm)
{
    g_autoptr(ferryOp) op = NULL;

    VIR_WARN("domain '%s' may be frozen and its agent does not answer; trying to thaw it",
             vm->def->name);

    if (ferryOpFind(vm, FERRY_THAW_NAME))
        return;

    op = ferryOpNew(vm, &ferryThawClass, FERRY_THAW_NAME, g_new0(ferryQuiesce, 1));
    ignore_value(ferryJournalWrite(vm, false));
    ignore_value(ferryEngineSubmit(op));
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

    /* a client need not wait for an agent that has just let it down */
    if (quiesce->mute || ferryQuiesceAgent(op->vm, quiesce, false) < 0)
        ferryQuiesceThawLater(op->vm);

    quiesce->frozen = false;
    virResetLastError();
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
