/*
 * report.c: what users are told of an operation that failed or was recovered
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "engine/report.h"
#include "virerror.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.report");


/**
 * ferryReportFailure:
 *
 * A step of @op has failed. An internal error, such as QEMU's refusal of a command, names
 * neither domain nor disk: replaces it by one that says what failed. Errors that our own
 * code reports stay. Domain locked.
 */
void
ferryReportFailure(ferryOp *op)
{
    g_autofree char *what = NULL;
    g_autofree char *why = NULL;
    virErrorPtr err = virGetLastError();

    if (!err || err->code != VIR_ERR_INTERNAL_ERROR)
        return;

    what = op->klass->describe(op, op->vm->def->name);
    /* the message without the translated words "internal error" */
    why = g_strdup(err->str2 ? err->str2 : err->message);

    virReportError(VIR_ERR_OPERATION_FAILED, _("%1$s failed: %2$s"), what, why);
}


/**
 * ferryReportResult:
 * @name: the domain that a client's call was about
 * @ret: what the call returns; negative: it failed, with an error reported
 *
 * Adds the domain's name to the error if its message has not got it: libvirt's own functions
 * mostly do not know it. Returns @ret.
 */
int
ferryReportResult(const char *name,
                  int ret)
{
    g_autofree char *quoted = g_strdup_printf("'%s'", name);
    g_autofree char *old = NULL;
    virErrorPtr err = NULL;

    if (ret >= 0)
        return ret;

    virErrorPreserveLast(&err);

    if (err && err->message && !strstr(err->message, quoted)) {
        old = g_strchomp(g_steal_pointer(&err->message));
        err->message = g_strdup_printf(_("%1$s (domain '%2$s')"), old, name);
    }

    virErrorRestore(&err);
    return ret;
}


/**
 * ferryReportEnded:
 * @why: QEMU's error
 * @stays: the image that the guest goes on with; NULL: its disks never move in this operation
 *
 * Logs that @op, which had begun, has failed, since no client may be waiting for it. What is
 * removed has lines of its own.
 */
void
ferryReportEnded(ferryOp *op,
                 const char *why,
                 const char *stays)
{
    g_autofree char *what = op->klass->describe(op, op->vm->def->name);

    if (stays)
        VIR_WARN("%s failed: %s; the guest stays on '%s'", what, why, stays);
    else
        VIR_WARN("%s failed: %s", what, why);
}


/**
 * ferryReportStopped:
 *
 * Logs that @op has ended with its QEMU. Domain locked.
 */
void
ferryReportStopped(ferryOp *op)
{
    g_autofree char *what = op->klass->describe(op, op->vm->def->name);

    VIR_WARN("QEMU has ended, and with it %s", what);
}


/**
 * ferryReportRecovered:
 * @name: the operation's domain
 *
 * Logs what became of @op, which an earlier driver began.
 */
void
ferryReportRecovered(ferryOp *op,
                     const char *name)
{
    g_autofree char *what = op->klass->describe(op, name);

    if (op->over)
        VIR_WARN("the driver was restarted: %s is settled, and has ended", what);
    else
        VIR_WARN("the driver was restarted: %s goes on", what);
}
