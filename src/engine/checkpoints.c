/*
 * checkpoints.c: which operations are working on a domain's checkpoints
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "engine/checkpoints.h"
#include "virerror.h"

#define VIR_FROM_THIS VIR_FROM_QEMU


/* Returns an operation that adds, uses or deletes a checkpoint of @vm, and waits without the domain's job:
 * for the guest's agent, for example. Operations of @except do not count. NULL: there is none. */
static ferryOp *
ferryCheckpointsFindUser(virDomainObj *vm,
                         const ferryOpClass *except)
{
    GPtrArray *ops = ferryOpList(vm);
    size_t i;

    for (i = 0; ops && i < ops->len; i++) {
        ferryOp *op = g_ptr_array_index(ops, i);

        if (!op->stopped && op->klass != except && op->klass->needsCheckpoints &&
            op->klass->needsCheckpoints(op))
            return op;
    }

    return NULL;
}


/**
 * ferryCheckpointsAreFree:
 * @vm: domain, locked
 * @except: class whose operations do not count; or NULL
 *
 * Returns whether no operation is working on the checkpoints of @vm.
 */
bool
ferryCheckpointsAreFree(virDomainObj *vm,
                        const ferryOpClass *except)
{
    return !ferryCheckpointsFindUser(vm, except);
}


/**
 * ferryCheckpointsCheckFree:
 * @vm, @except: as for ferryCheckpointsAreFree()
 *
 * Returns 0 if checkpoints of @vm may be added and deleted, or -1 with an error reported.
 */
int
ferryCheckpointsCheckFree(virDomainObj *vm,
                          const ferryOpClass *except)
{
    ferryOp *user = ferryCheckpointsFindUser(vm, except);

    if (!user)
        return 0;

    virReportError(VIR_ERR_OPERATION_INVALID,
                   _("another operation (%1$s) is working on the checkpoints of domain '%2$s'; "
                     "try again when it has begun or ended"),
                   user->name, vm->def->name);
    return -1;
}
