/*
 * settle.c: operations that have outlived their QEMU
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * When QEMU is gone an operation is settled from what its journal says. That may need to
 * write: the configuration that is to name the image with the guest's data, for example.
 * If the disk is full or read-only just then, the operation stays in the list of its
 * domain, and its journal on the disk, until it can be settled. The next tries are before
 * the domain starts and when the driver starts (ferryEngineLoad()); if the operation waits
 * for storage, when that has answered, too (leftover.c).
 */

#include <config.h>

#include "engine/engine.h"
#include "engine/settle.h"
#include "virerror.h"
#include "virlog.h"

VIR_LOG_INIT("ferry.engine");


/**
 * ferrySettleBeforeStart:
 * @vm: domain that is about to start, locked, with a job
 *
 * Settles the operations that its last QEMU has left. Returns 0, or -1 with an error
 * reported if the domain must not start.
 */
int
ferrySettleBeforeStart(virDomainObj *vm)
{
    GPtrArray *ops = ferryOpList(vm);
    size_t i = 0;

    while (ops && i < ops->len) {
        g_autoptr(ferryOp) op = ferryOpRef(g_ptr_array_index(ops, i));

        if (op->stopped)
            op->klass->stopped(op);

        if (op->stopped && !op->over) {
            if (op->blocksStart)
                return -1;
            ferryEngineKeep(vm, op);
        }

        i += !op->over;
    }

    return 0;
}


/**
 * ferrySettleBeforeRemoval:
 * @vm: domain that is being removed, because it is transient or undefined; locked
 * @listLocked: the list of domains is locked, too: settling an operation may need the list
 *
 * Ends the operations that its last QEMU has left. What cannot be written now does not
 * matter without the domain.
 */
void
ferrySettleBeforeRemoval(virDomainObj *vm,
                         bool listLocked)
{
    GPtrArray *ops;
    virErrorPtr err = NULL;

    virErrorPreserveLast(&err);

    while ((ops = ferryOpList(vm)) && ops->len > 0) {
        g_autoptr(ferryOp) op = ferryOpRef(g_ptr_array_index(ops, 0));

        if (!listLocked)
            op->klass->stopped(op);

        if (!op->over) {
            VIR_WARN("domain '%s' is removed, so operation '%s' is given up: %s",
                     vm->def->name, op->name, virGetLastErrorMessage());
            ferryOpEnd(op);
        }
    }

    virErrorRestore(&err);
}
