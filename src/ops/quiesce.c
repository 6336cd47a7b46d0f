/*
 * quiesce.c: freeze and thaw the guest's file systems
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * One step freezes the guest, the next one is the operation's transaction, the third one
 * thaws the guest. A guest that the operation froze is always thawed: if this driver dies,
 * the next driver does so. A guest that another client froze is never thawed: the freeze
 * step first asks the agent, refuses a guest that is frozen already, and writes to the
 * journal that it is about to freeze the guest just before it does so.
 *
 * An agent may take its time, so the operation gives up the domain's job while it waits for
 * the agent (ferryQuiesceBegin). Other threads may then change the domain. The operation's
 * asynchronous job keeps out those that would move or save the guest while it is frozen.
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

/* Asks the agent whether the guest is frozen: libvirt has no function for that. */
#define FERRY_QUIESCE_STATUS "{\"execute\":\"guest-fsfreeze-status\"}"


/**
 * ferryQuiesceCheck:
 *
 * Returns 0 if the guest has an agent to freeze it or need not be frozen, or -1 with an error
 * reported. If freezing is optional and cannot work, quiesce->wanted becomes false. Called before
 * anything is changed.
 */
int
ferryQuiesceCheck(virDomainObj *vm,
                  ferryQuiesce *quiesce)
{
    if (!quiesce->wanted)
        return 0;

    if (quiesce->optional) {
        quiesce->wanted = virDomainObjGetState(vm, /* reason= */ NULL) == VIR_DOMAIN_RUNNING &&
                          qemuDomainAgentAvailable(vm, /* reportError= */ false);
        return 0;
    }

    /* the agent of a paused guest does not answer */
    if (virDomainObjGetState(vm, /* reason= */ NULL) != VIR_DOMAIN_RUNNING) {
        virReportError(VIR_ERR_OPERATION_INVALID,
                       _("the guest of domain '%1$s' is not running, so its file systems cannot be frozen: "
                         "resume it, or do not ask for that"),
                       vm->def->name);
        return -1;
    }

    return qemuDomainAgentAvailable(vm, /* reportError= */ true) ? 0 : -1;
}


/* Journals of older versions may have more seconds than clients may ask for now. */
static unsigned int
ferryQuiesceTimeout(ferryQuiesce *quiesce)
{
    unsigned int timeout = quiesce->timeout ? quiesce->timeout : FERRY_QUIESCE_SECONDS;

    return MIN(timeout, FERRY_QUIESCE_SECONDS_MAX);
}


/* Sets how many seconds calls of the agent wait. To be called before each call: the agent
 * may have connected again since the call before. */
static void
ferryQuiesceLimit(virDomainObj *vm,
                  int timeout)
{
    qemuDomainObjPrivate *priv = vm->privateData;

    if (priv->agent) {
        virObjectLock(priv->agent);
        qemuAgentSetResponseTimeout(priv->agent, timeout);
        virObjectUnlock(priv->agent);
    }
}


/* Gives up the domain's job and takes the agent's, for calls of the agent. Domain locked;
 * the lock is released meanwhile, as it is by each call: check ferryOpIsLost() after all of
 * these. Returns 0, or -1 with an error reported. Call ferryQuiesceEnd() in either case. */
static int
ferryQuiesceBegin(ferryOp *op)
{
    ferryOpYield(op);

    return virDomainObjBeginAgentJob(op->vm, VIR_AGENT_JOB_MODIFY);
}


/* Ends what ferryQuiesceBegin() began; @begun is its result. Calls of the agent by others
 * wait as long as the client wants again, by default for ever. Keeps the last error. */
static void
ferryQuiesceEnd(ferryOp *op,
                int begun)
{
    virErrorPtr err = NULL;

    if (begun == 0) {
        ferryQuiesceLimit(op->vm, QEMU_DOMAIN_PRIVATE(op->vm)->agentTimeout);
        virDomainObjEndAgentJob(op->vm);
    }

    virErrorPreserveLast(&err);
    ignore_value(ferryOpResume(op));
    virErrorRestore(&err);
}


/* Asks the agent whether the guest is frozen. Returns 1: yes, 0: no; -1 with an error
 * reported; -2 if the agent does not know. Domain locked, agent's job held. */
static int
ferryQuiesceIsFrozen(virDomainObj *vm,
                     int timeout)
{
    g_autofree char *text = NULL;
    g_autoptr(virJSONValue) reply = NULL;
    const char *status = NULL;
    qemuAgent *agent;
    int rc;

    if (!qemuDomainAgentAvailable(vm, /* reportError= */ true))
        return -1;

    ferryQuiesceLimit(vm, timeout);
    agent = qemuDomainObjEnterAgent(vm);
    rc = qemuAgentArbitraryCommand(agent, FERRY_QUIESCE_STATUS, &text, timeout);
    qemuDomainObjExitAgent(vm, agent);

    if (rc < 0 && virGetLastErrorCode() == VIR_ERR_AGENT_UNRESPONSIVE)
        return -1;

    if (rc == 0 && (reply = virJSONValueFromString(text)))
        status = virJSONValueObjectGetString(reply, "return");

    /* an administrator may have forbidden the question */
    if (!status) {
        virResetLastError();
        return -2;
    }

    return STREQ(status, "frozen");
}


/* Freezes the guest, unless it is frozen already. Domain locked, agent's job held. Sets
 * quiesce->frozen if the guest may be frozen by this. Returns 0, or -1 with an error
 * reported. */
static int
ferryQuiesceTryFreeze(ferryOp *op,
                      ferryQuiesce *quiesce)
{
    virDomainObj *vm = op->vm;
    unsigned int timeout = ferryQuiesceTimeout(quiesce);
    int frozen = ferryQuiesceIsFrozen(vm, timeout);
    int rc;

    if (frozen == -1)
        return -1;

    /* the domain may have been started again meanwhile: leave that guest alone */
    if (ferryOpIsLost(op)) {
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("domain '%1$s' stopped before its guest was frozen"), vm->def->name);
        return -1;
    }

    if (frozen == 1) {
        virReportError(VIR_ERR_OPERATION_INVALID,
                       _("guest of domain '%1$s' is frozen already, by another client: thaw it first "
                         "(virsh domfsthaw), or do not ask for a freeze"),
                       vm->def->name);
        return -1;
    }

    /* else a driver that dies now could not tell whose the frozen guest is */
    quiesce->frozen = true;
    if (ferryJournalWrite(vm, /* durable= */ false) < 0) {
        quiesce->frozen = false;
        return -1;
    }

    ferryQuiesceLimit(vm, timeout);
    rc = qemuSnapshotFSFreeze(vm, /* mountpoints= */ NULL, /* nmountpoints= */ 0);

    if (rc >= 0)
        return 0;

    if (virGetLastErrorCode() == VIR_ERR_AGENT_UNRESPONSIVE)
        quiesce->mute = true;
    else if (frozen == -2)
        quiesce->frozen = false; /* the agent refuses, perhaps because of another client */

    return -1;
}


/**
 * ferryQuiesceFreeze:
 *
 * Step: freezes the guest, if the client wants that. Even when the step fails, the agent
 * may still freeze the guest later: quiesce->frozen says so.
 */
int
ferryQuiesceFreeze(ferryOp *op,
                   ferryQuiesce *quiesce)
{
    int begun;
    int rc = -1;

    if (!quiesce->wanted)
        return 0;

    if ((begun = ferryQuiesceBegin(op)) == 0 && !ferryOpIsLost(op))
        rc = ferryQuiesceTryFreeze(op, quiesce);
    ferryQuiesceEnd(op, begun);

    if (ferryOpIsLost(op)) {
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("domain '%1$s' stopped while its guest was being frozen"), op->vm->def->name);
        return -1;
    }

    if (rc < 0 && quiesce->optional) {
        VIR_WARN("the guest of domain '%s' is not frozen: %s", op->vm->def->name,
                 virGetLastErrorMessage());
        virResetLastError();
        return 0;
    }

    if (rc < 0 && virGetLastErrorCode() == VIR_ERR_AGENT_UNRESPONSIVE)
        virReportError(VIR_ERR_AGENT_UNRESPONSIVE,
                       _("guest of domain '%1$s' was not frozen within %2$u seconds; look at its agent, "
                         "or do not ask for a freeze"),
                       op->vm->def->name, ferryQuiesceTimeout(quiesce));

    return rc;
}


/* Thaws the guest. Domain locked; the lock is released meanwhile, and the agent's job taken.
 * Returns 0, or -1 with an error reported. */
static int
ferryQuiesceTryThaw(ferryOp *op,
                    ferryQuiesce *quiesce)
{
    virDomainObj *vm = op->vm;
    int begun = ferryQuiesceBegin(op);
    int rc = -1;

    if (begun == 0 && !ferryOpIsLost(op)) {
        ferryQuiesceLimit(vm, ferryQuiesceTimeout(quiesce));
        rc = qemuSnapshotFSThaw(vm, /* report= */ true);
    }
    ferryQuiesceEnd(op, begun);

    if (ferryOpIsLost(op)) {
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("domain '%1$s' stopped while its guest was being thawed"), vm->def->name);
        return -1;
    }

    if (rc < 0)
        return -1;

    quiesce->frozen = false;
    return 0;
}


/**
 * ferryQuiesceThaw:
 *
 * Step: thaws the guest, if the freeze step froze it.
 */
int
ferryQuiesceThaw(ferryOp *op,
                 ferryQuiesce *quiesce)
{
    return quiesce->frozen ? ferryQuiesceTryThaw(op, quiesce) : 0;
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

    for (i = 0; i < FERRY_QUIESCE_RETRIES && !ferryOpIsLost(op); i++) {
        if (ferryQuiesceTryThaw(op, op->data) == 0 || ferryOpIsLost(op))
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


static char *
ferryThawDescribe(ferryOp *op G_GNUC_UNUSED,
                  const char *name)
{
    return g_strdup_printf(_("thaw of domain '%1$s'"), name);
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
    .describe = ferryThawDescribe,
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

    for (waited = 0; !priv->agent && !ferryOpIsLost(op) && waited < FERRY_QUIESCE_AGENT_MS; waited += 1000) {
        if (ferryOpSleep(op, 1000) < 0)
            break;
    }

    if (ferryOpIsLost(op))
        return;

    /* the agent has just failed to answer: do not let the client wait for it again */
    if ((quiesce->mute || ferryQuiesceTryThaw(op, quiesce) < 0) && !ferryOpIsLost(op))
        ferryQuiesceThawLater(op->vm);

    quiesce->frozen = false;
    virResetLastError();
}


void
ferryQuiesceFormat(virBuffer *buf,
                   const ferryQuiesce *quiesce)
{
    if (quiesce->wanted)
        virBufferAsprintf(buf, "<quiesce timeout='%u' frozen='%s'%s/>\n", quiesce->timeout,
                          quiesce->frozen ? "yes" : "no", quiesce->optional ? " optional='yes'" : "");
}


int
ferryQuiesceParse(xmlXPathContextPtr ctxt,
                  ferryQuiesce *quiesce)
{
    xmlNodePtr node = virXPathNode("./quiesce", ctxt);
    virTristateBool optional;
    virTristateBool frozen;

    if (!node)
        return 0;

    quiesce->wanted = true;
    if (virXMLPropUInt(node, "timeout", 10, VIR_XML_PROP_REQUIRED, &quiesce->timeout) < 0 ||
        virXMLPropTristateBool(node, "frozen", VIR_XML_PROP_NONE, &frozen) < 0 ||
        virXMLPropTristateBool(node, "optional", VIR_XML_PROP_NONE, &optional) < 0)
        return -1;

    quiesce->optional = optional == VIR_TRISTATE_BOOL_YES;
    quiesce->frozen = frozen == VIR_TRISTATE_BOOL_YES;
    quiesce->guess = frozen == VIR_TRISTATE_BOOL_ABSENT;
    return 0;
}


/**
 * ferryQuiesceRecover:
 * @frozen: the plan has reached the freeze step, but not the one after the thaw
 *
 * The driver was restarted. A journal of version 0.1.0 or earlier does not say whether the
 * operation froze the guest: then @frozen decides.
 */
void
ferryQuiesceRecover(ferryQuiesce *quiesce,
                    bool frozen)
{
    if (quiesce->guess)
        quiesce->frozen = frozen;
    quiesce->guess = false;
}
