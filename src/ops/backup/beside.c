/*
 * beside.c: backup: whether it will be in the way of other calls for long
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "engine/engine.h"
#include "engine/wait.h"
#include "ops/backup/begin.h"
#include "ops/backup/beside.h"
#include "ops/backup/data.h"
#include "ops/backup/watch.h"
#include "virerror.h"


/* Returns whether nothing says yet that @op ends. */
static bool
ferryBackupGoesOn(ferryOp *op)
{
    return !ferryOpIsLost(op) && !op->undoing && !op->stuck &&
           ferryBackupOf(op)->result == FERRY_BACKUP_RESULT_NONE && virDomainObjIsActive(op->vm);
}


/* Ends @op if its jobs have ended and nobody has noticed yet. Returns whether it goes on. */
static bool
ferryBackupLookAt(virDomainObj *vm,
                  ferryOp *op)
{
    if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0) {
        virResetLastError();
        return ferryBackupGoesOn(op);
    }

    if (!ferryOpIsLost(op) && !op->driven && virDomainObjIsActive(vm)) {
        ferryOpDrive(op);
        ferryBackupJobChanged(op);
        ferryOpRelease(op);
        virResetLastError();
    }

    ferryDomainEndJob(vm);
    return ferryBackupGoesOn(op);
}


/* Returns whether @op could not be undone: nobody is trying to, or its storage is asked again. */
static bool
ferryBackupIsLeft(ferryOp *op)
{
    return !ferryOpIsLost(op) && (op->driven ? ferryBackupOf(op)->silent : op->stuck);
}


/**
 * ferryBackupIsStuck:
 *
 * Returns whether the domain, which is locked, has a backup that has ended, but whose undo
 * could not remove everything yet.
 */
bool
ferryBackupIsStuck(virDomainObj *vm)
{
    ferryOp *op = ferryBackupFind(vm);

    return op && ferryBackupIsLeft(op);
}


/* As ferryBackupLasts(), of @op. */
static int
ferryBackupOpLasts(virDomainObj *vm,
                   ferryOp *op)
{
    bool goesOn = ferryBackupGoesOn(op);

    if (!goesOn && !ferryBackupIsLeft(op))
        return 0;

    if (goesOn && op->driven && !ferryPlanDone(op, &ferryBackupBeginPlan))
        return 1;

    if (ferryBackupMayHang(op)) {
        if (!op->driven)
            ignore_value(ferryEngineSubmit(op));
        return 1;
    }

    return ferryBackupLookAt(vm, op) || ferryBackupIsLeft(op);
}


/**
 * ferryBackupLasts:
 * @vm: domain, locked, without a job of this thread; its asynchronous job is a backup's
 *
 * Finds out whether the backup keeps the asynchronous job for long. Tries again to undo one that
 * could not be undone. Releases the lock meanwhile.
 *
 * Returns 1 if it is being begun, or runs, or still cannot be undone; 0 if that is not certain
 * yet, or if it is just ending; -1 if there is none.
 */
int
ferryBackupLasts(virDomainObj *vm)
{
    bool another;
    int lasts;

    do {
        ferryOp *found = ferryBackupFind(vm);
        g_autoptr(ferryOp) op = NULL;

        /* A thread that checks what its client asks for has no operation yet, and says when it
         * has, or ends the job. A backup that the stock driver has begun never has one. */
        if (!found && vm->job->phase == FERRY_BACKUP_PHASE_ASKED)
            return 0;
        if (!found)
            return virDomainObjIsActive(vm) && QEMU_DOMAIN_PRIVATE(vm)->backup ? 1 : -1;

        op = ferryOpRef(found);
        lasts = ferryBackupOpLasts(vm, op);

        /* if it ended meanwhile, nobody says so again: do not wait for that */
        another = op->over && vm->job->asyncJob == VIR_ASYNC_JOB_BACKUP;
    } while (another);

    return lasts;
}
