/*
 * quiesce.c: freeze and thaw the guest's file systems
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * One step freezes the guest, the next one is the operation's transaction, the third one
 * thaws the guest. A frozen guest is always thawed: if this driver dies, the next driver
 * does so when the journal has reached the freeze but not the step after the thaw.
 * Thawing a guest that is not frozen does no harm.
 *
 * An agent that did not answer in time may still freeze the guest after the operation has
 * ended. So a separate operation (ferryThawClass) goes on trying to thaw the guest.
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

/* How long a driver that was just started waits for its connection to the agent. */
#define FERRY_QUIESCE_AGENT_MS 10000

/* Pause after a failed attempt to thaw the guest, and number of attempts. */
#define FERRY_QUIESCE_RETRY_MS 2000
#define FERRY_QUIESCE_RETRIES 150


/**
 * ferryQuiesceCheck:
 *
 * Returns 0 if the guest has an agent to freeze it or need not be frozen, or -1 with an
 * error reported. Called before anything is changed.
 */
int
ferryQuiesceCheck(virDomainObj *vm,
                  ferryQuiesce *quiesce)
{
    if (!quiesce->wanted)
        return 0;

    return qemuDomainAgentAvailable(vm, /* reportError= */ true) ? 0 : -1;
}


static unsigned int
ferryQuiesceTimeout(ferryQuiesce *quiesce)
{
    return quiesce->timeout ? quiesce->timeout : FERRY_QUIESCE_SECONDS;
}


/* Sets how many seconds agent calls wait; returns the old value (default: for ever). */
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


/* Freezes or thaws the guest. Domain locked; the lock is released meanwhile. Takes the
 * agent's job. Returns 0, or -1 with an error reported. */
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
    rc = freeze ? qemuSnapshotFSFreeze(vm, /* mountpoints= */ NULL, /* nmountpoints= */ 0)
                : qemuSnapshotFSThaw(vm, /* report= */ true);
    ferryQuiesceLimit(vm, timeout);

    virDomainObjEndAgentJob(vm);
    return rc < 0 ? -1 : 0;
}


/**
 * ferryQuiesceFreeze:
 *
 * Step: freezes the guest, if the client wants that. Even when it fails, the agent may
 * still freeze the guest later, so quiesce->frozen is set before the call.
 */
int
ferryQuiesceFreeze(ferryOp *op,
                   ferryQuiesce *quiesce)
{
    if (!quiesce->wanted)
        return 0;

    quiesce->frozen = true;
    if (ferryQuiesceAgent(op->vm, quiesce, /* freeze= */ true) == 0)
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
 * Step: thaws the guest, if the client wanted it frozen.
 */
int
ferryQuiesceThaw(ferryOp *op,
                 ferryQuiesce *quiesce)
{
    if (!quiesce->wanted)
        return 0;

    if (ferryQuiesceAgent(op->vm, quiesce, /* freeze= */ false) < 0)
        return -1;

    quiesce->frozen = false;
    return 0;
}


/* Name of the operation that thaws a guest whose agent does not answer yet. */
#define FERRY_THAW_NAME "thaw"


static void *
ferryThawParse(virQEMUDriver *driver G_GNUC_UNUSED,
               xmlXPathContextPtr ctxt G_GNUC_UNUSED)
{
    return g_new0(ferryQuiesce, 1);
}


/* Called by a worker: retries the thaw, and releases the domain's job meanwhile. */
static void
ferryThawTry(ferryOp *op)
{
    size_t i;

    for (i = 0; i < FERRY_QUIESCE_RETRIES && !op->over; i++) {
        bool thawed;

        /* the agent may be slow, and other threads need the domain's job */
        ferryOpYield(op);
        thawed = virDomainObjIsActive(op->vm) &&
                 qemuDomainAgentAvailable(op->vm, /* reportError= */ false) &&
                 ferryQuiesceAgent(op->vm, op->data, /* freeze= */ false) == 0;
        if (ferryOpResume(op) < 0 || thawed)
            break;

        virResetLastError();
        if (ferryOpSleep(op, FERRY_QUIESCE_RETRY_MS) < 0)
            break;
    }

    if (ferryOpIsLost(op))
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
    ignore_value(ferryJournalWrite(vm, /* durable= */ false));
    ignore_value(ferryEngineSubmit(op));
}


/**
 * ferryQuiesceThawAlways:
 *
 * Undo of ferryQuiesceFreeze(): thaws the guest, if the thaw step did not.
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

    if (ferryOpIsLost(op))
        return;

    /* the agent has just failed to answer: do not let the client wait for it again */
    if (quiesce->mute || ferryQuiesceAgent(op->vm, quiesce, /* freeze= */ false) < 0)
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
