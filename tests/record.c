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
 * Ferry take turns, and only Ferry is replayed. FERRY_RECORD_UNKNOWN names a parameter
 * that QEMU is not to know: it is asked for one that nobody knows.
 */

#include <config.h>

#include <dlfcn.h>

#define LIBVIRT_QEMU_MONITOR_PRIV_H_ALLOW
#include "qemu/qemu_monitor_priv.h"
#include "engine/op.h"
#include "virjson.h"
#include "virstring.h"

/* Does this thread run or undo a step? */
static __thread bool recordInStep;


/* The driver's own, which ours stands in front of. */
static int
(*recordReal(void))(qemuMonitor *, qemuMonitorMessage *)
{
    g_autofree char *path = g_strdup_printf("%s/libferry_driver_qemu.so",
                                            g_getenv("LIBVIRT_DRIVER_DIR"));
    void *driver = dlopen(path, RTLD_NOW | RTLD_NOLOAD);

    if (!driver)
        abort();

    return (int (*)(qemuMonitor *, qemuMonitorMessage *)) dlsym(driver, "qemuMonitorSend");
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
    rc = recordReal()(mon, msg);
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
    int rc = unknown ? recordSendWithout(mon, msg, unknown) : recordReal()(mon, msg);
    FILE *file;

    if (!recordInStep && g_getenv("FERRY_RECORD_STEPS"))
        return rc;

    if (rc == 0 && msg->rxObject && path && (file = fopen(path, "a"))) {
        g_autofree char *reply = virJSONValueToString(msg->rxObject, false);

        recordWrite(file, command);
        recordWrite(file, reply);
        fclose(file);
    }

    return rc;
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
