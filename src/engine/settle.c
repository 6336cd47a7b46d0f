/*
 * settle.c: operations that have outlived their QEMU
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * When QEMU is gone an operation is settled from what its journal says. That may need to
 * write: the configuration that is to name the image with the guest's data, for example.
 * If the disk is full or read-only just then, the operation stays in the list of its
 * domain, and its journal on the disk, until it can be settled. The next tries are after a
 * while (retry.c), before the domain starts and when the driver starts (ferryEngineLoad());
 * if the operation waits for storage, when that has answered, too (leftover.c).
 */

#include <config.h>

#include "engine/engine.h"
#include "engine/settle.h"
#include "virerror.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

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


static bool
ferrySettleRemoves(ferryOp *op,
                   virStorageSource *image,
                   const char *name)
{
    return (image && op->klass->removesImage && op->klass->removesImage(op, image)) ||
           (name && op->klass->removesCheckpoint && op->klass->removesCheckpoint(op, name));
}


/* Gives every operation of an earlier QEMU that may still remove @image, or checkpoint @name, another try.
 * Returns one that may still do so, with a reference for the caller, be it one of this QEMU whose undo is
 * stuck; NULL: there is none. @settled: is set if there was one. */
static ferryOp *
ferrySettleFindRemover(virDomainObj *vm,
                       virStorageSource *image,
                       const char *name,
                       bool *settled)
{
    GPtrArray *ops = ferryOpList(vm);
    size_t i = 0;

    *settled = false;

    while (ops && i < ops->len) {
        g_autoptr(ferryOp) op = ferryOpRef(g_ptr_array_index(ops, i));

        if (!op->stopped && op->stuck && !op->driven && ferrySettleRemoves(op, image, name))
            return g_steal_pointer(&op);

        if (op->stopped && ferrySettleRemoves(op, image, name)) {
            op->klass->stopped(op);
            virResetLastError();

            if (!op->over && ferrySettleRemoves(op, image, name))
                return g_steal_pointer(&op);
            *settled = true;
        }

        i += !op->over;
        ops = ferryOpList(vm);
    }

    return NULL;
}


/**
 * ferrySettleCheckImage:
 * @vm: domain, locked, job held; the lock may be released meanwhile
 *
 * Returns 0 if a new operation may use what is at @image, or -1 with an error reported if an
 * earlier one, which could not be settled yet, would remove it later, or has just done so.
 */
int
ferrySettleCheckImage(virDomainObj *vm,
                      virStorageSource *image)
{
    bool settled;
    g_autoptr(ferryOp) op = ferrySettleFindRemover(vm, image, /* name= */ NULL, &settled);
    g_autofree char *what = NULL;

    if (!op && !settled)
        return 0;

    if (!op) {
        virReportError(VIR_ERR_OPERATION_INVALID,
                       _("'%1$s' was left by an earlier operation of domain '%2$s' that has failed, and was only "
                         "now removed: try again"),
                       NULLSTR(image->path), vm->def->name);
        return -1;
    }

    what = op->klass->describe(op, vm->def->name);
    virReportError(VIR_ERR_OPERATION_INVALID,
                   _("'%1$s' is still to be removed, since an earlier operation has failed (%2$s): use another "
                     "name, or mend what the daemon's log says of it and try again"),
                   NULLSTR(image->path), what);
    return -1;
}


/**
 * ferrySettleCheckCheckpoint:
 *
 * Like ferrySettleCheckImage(), for a new checkpoint @name.
 */
int
ferrySettleCheckCheckpoint(virDomainObj *vm,
                           const char *name)
{
    bool settled;
    g_autoptr(ferryOp) op = ferrySettleFindRemover(vm, /* image= */ NULL, name, &settled);
    g_autofree char *what = NULL;

    if (!op)
        return 0;

    what = op->klass->describe(op, vm->def->name);
    virReportError(VIR_ERR_OPERATION_INVALID,
                   _("checkpoint '%1$s' of domain '%2$s' is still to be removed (%3$s): use another name, or mend "
                     "what the daemon's log says of it and try again"),
                   name, vm->def->name, what);
    return -1;
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
