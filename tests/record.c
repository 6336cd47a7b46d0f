/*
 * record.c: writes down what driver and QEMU say to each other
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Loaded with LD_PRELOAD between the driver and its monitor. Every command and
 * its reply go to the file that FERRY_RECORD names, as the tests' canned files
 * have them: blocks of JSON with an empty line between. With FERRY_RECORD_STEPS
 * set only what steps of plans send: during a migration the stock driver and
 * Ferry take turns, and only Ferry is replayed. So it is after a restart: with
 * FERRY_RECORD_RECOVERY set only what recovers operations, and the workers that go on with
 * them, is written. FERRY_RECORD_UNKNOWN names a parameter that QEMU is not to know: it is
 * asked for one that nobody knows.
 */

#include <config.h>

#include <dlfcn.h>

#define LIBVIRT_QEMU_MONITOR_PRIV_H_ALLOW
#include "qemu/qemu_monitor_priv.h"
#include "block/feature.h"
#include "engine/engine.h"
#include "virjson.h"
#include "virstring.h"

/* Does this thread run or undo a step? */
static __thread bool recordInStep;

/* Does this thread recover operations, or carry one on? */
static __thread bool recordRecovers;


/* The driver's own function @name, which ours stands in front of. */
static void *
recordFind(const char *name)
{
    void *driver = dlopen(g_getenv("FERRY_MODULE"), RTLD_NOW | RTLD_NOLOAD);

    if (!driver)
        abort();

    return dlsym(driver, name);
}

#define RECORD_REAL(name) ((typeof(name) *) recordFind(#name))


static bool
recordIsWanted(void)
{
    if (g_getenv("FERRY_RECORD_STEPS"))
        return recordInStep;

    return recordRecovers || !g_getenv("FERRY_RECORD_RECOVERY");
}


static void
recordWrite(FILE *file,
            const char *text)
{
    g_autoptr(virJSONValue) json = virJSONValueFromString(text);
    g_autofree char *pretty = json ? virJSONValueToString(json, true) : NULL;

    if (pretty)
        fprintf(file, "%s\n", pretty);
}


/* Sends @msg with another name for a parameter. */
static int
recordSendWithout(qemuMonitor *mon,
                  qemuMonitorMessage *msg,
                  const char *parameter)
{
    const char *sent = msg->txBuffer;
    g_autofree char *name = g_strdup_printf("\"%s\":", parameter);
    g_autofree char *other = g_strdup_printf("\"%s-of-nobody\":", parameter);
    g_autofree char *text = virStringReplace(sent, name, other);
    int rc;

    msg->txBuffer = text;
    msg->txLength = strlen(text);
    rc = RECORD_REAL(qemuMonitorSend)(mon, msg);
    msg->txBuffer = sent;

    return rc;
}


int
qemuMonitorSend(qemuMonitor *mon,
                qemuMonitorMessage *msg)
{
    g_autofree char *command = g_strdup(msg->txBuffer);
    const char *path = g_getenv("FERRY_RECORD");
    const char *unknown = g_getenv("FERRY_RECORD_UNKNOWN");
    int rc = unknown ? recordSendWithout(mon, msg, unknown) :
                       RECORD_REAL(qemuMonitorSend)(mon, msg);
    FILE *file;

    if (rc == 0 && recordIsWanted() && msg->rxObject && path && (file = fopen(path, "a"))) {
        g_autofree char *reply = virJSONValueToString(msg->rxObject, false);

        recordWrite(file, command);
        recordWrite(file, reply);
        fclose(file);
    }

    return rc;
}


/* A replayed domain has no process that could be asked: transcripts are of what every QEMU can do. */
bool
ferryFeatureHas(virDomainObj *vm G_GNUC_UNUSED,
                ferryFeature feature G_GNUC_UNUSED)
{
    return false;
}


int
ferryStepRun(ferryOp *op,
             const ferryPlan *plan G_GNUC_UNUSED,
             const ferryStep *step)
{
    int rc;

    recordInStep = true;
    rc = step->run(op);
    recordInStep = false;

    return rc;
}


void
ferryStepUndo(ferryOp *op,
              const ferryPlan *plan G_GNUC_UNUSED,
              const ferryStep *step)
{
    recordInStep = true;
    if (step->undo)
        step->undo(op);
    recordInStep = false;
}


void
ferryOpDrive(ferryOp *op)
{
    recordRecovers = true;
    RECORD_REAL(ferryOpDrive)
    (op);
}


void
ferryOpRelease(ferryOp *op)
{
    RECORD_REAL(ferryOpRelease)
    (op);
    recordRecovers = false;
}


void
ferryEngineReconnected(virDomainObj *vm)
{
    recordRecovers = true;
    RECORD_REAL(ferryEngineReconnected)
    (vm);
    recordRecovers = false;
}
