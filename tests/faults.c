/*
 * faults.c: stands between the engine and its steps, and breaks them
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Loaded with LD_PRELOAD into a process that runs the driver. The file that
 * FERRY_FAULT_FILE names holds lines of PLAN/STEP/WHEN/WHAT: when a step of that
 * name is run or undone, before or after it acts (WHEN: before, after,
 * undo-before, undo-after), something happens:
 *
 *   error        the step fails
 *   unknown      the step fails and does not know what it did
 *   disconnect   the connection to QEMU breaks
 *   kill-qemu    QEMU gets SIGKILL, if there is one
 *   kill-driver  this process gets SIGKILL
 *
 * So every step of every plan can be broken in every way, without a line in
 * the code that is tested.
 */

#include <config.h>

#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "engine/op.h"
#include "virerror.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

#define FAULT_FD_MAX 1024


/* The monitor's descriptor is private to it, but its peer has a name. */
static void
faultDisconnect(void)
{
    int fd;

    for (fd = 3; fd < FAULT_FD_MAX; fd++) {
        struct sockaddr_un sa = { 0 };
        socklen_t len = sizeof(sa);

        if (getpeername(fd, (struct sockaddr *) &sa, &len) == 0 &&
            sa.sun_family == AF_UNIX &&
            g_str_has_suffix(sa.sun_path, "/monitor.sock"))
            shutdown(fd, SHUT_RDWR);
    }
}


/* To kill process 0 would be to kill ourselves, and the test. */
static void
faultKill(pid_t qemu)
{
    if (qemu > 0)
        kill(qemu, SIGKILL);
}


static int
faultHappen(ferryOp *op,
            const ferryStep *step,
            const char *what)
{
    if (STREQ(what, "error") || STREQ(what, "unknown")) {
        virReportError(VIR_ERR_OPERATION_FAILED, "injected failure of step '%s'", step->name);
        return STREQ(what, "error") ? FERRY_STEP_FAILED : FERRY_STEP_UNKNOWN;
    }

    if (STREQ(what, "disconnect"))
        faultDisconnect();
    else if (STREQ(what, "kill-qemu"))
        faultKill(op->vm->pid);
    else if (STREQ(what, "kill-driver"))
        kill(getpid(), SIGKILL);
    else
        abort();

    /* the step goes on, and finds out by itself */
    return 0;
}


static char **
faultRead(void)
{
    const char *path = g_getenv("FERRY_FAULT_FILE");
    g_autofree char *text = NULL;

    if (!path || !g_file_get_contents(path, &text, NULL, NULL))
        return g_new0(char *, 1);

    return g_strsplit(g_strstrip(text), "\n", 0);
}


/* What is to happen to @step, or NULL. */
static char *
faultFind(const ferryPlan *plan,
          const ferryStep *step,
          const char *when)
{
    g_autofree char *prefix = g_strdup_printf("%s/%s/%s/", plan->name, step->name, when);
    g_auto(GStrv) faults = faultRead();
    size_t i;

    for (i = 0; faults[i]; i++) {
        if (g_str_has_prefix(faults[i], prefix))
            return g_strdup(faults[i] + strlen(prefix));
    }

    return NULL;
}


int
ferryStepRun(ferryOp *op,
             const ferryPlan *plan,
             const ferryStep *step)
{
    g_autofree char *before = faultFind(plan, step, "before");
    g_autofree char *after = faultFind(plan, step, "after");
    int rc;

    if (before && (rc = faultHappen(op, step, before)) < 0)
        return rc;

    if ((rc = step->run(op)) < 0)
        return rc;

    return after ? faultHappen(op, step, after) : 0;
}


void
ferryStepUndo(ferryOp *op,
              const ferryPlan *plan,
              const ferryStep *step)
{
    g_autofree char *before = faultFind(plan, step, "undo-before");
    g_autofree char *after = faultFind(plan, step, "undo-after");

    if (before)
        ignore_value(faultHappen(op, step, before));

    if (step->undo)
        step->undo(op);

    if (after)
        ignore_value(faultHappen(op, step, after));
}
