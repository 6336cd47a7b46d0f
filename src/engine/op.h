/*
 * op.h: operations, plans and steps
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * An operation is what a user asked for (copy disk vda). It consists of plans, a plan is
 * an array of steps, and a step has functions to run and to undo it. The engine records
 * each step in the domain's journal before the step runs. When a step fails, the engine
 * undoes it and the steps before, last one first. The engine knows nothing of disks.
 */

#pragma once

#include "engine/run.h"
#include "qemu/qemu_conf.h"
#include "qemu/qemu_domain.h"

typedef struct _ferryOp ferryOp;
typedef struct _ferryOpClass ferryOpClass;
typedef struct _ferryBlockJobHandler ferryBlockJobHandler;

/* What ferryStep.run returns besides 0. */
typedef enum {
    FERRY_STEP_FAILED = -1,  /* error reported; undo this step and those before it */
    FERRY_STEP_UNKNOWN = -2, /* error reported; undo nothing, the next call or recovery goes
                              * on: it is not known what QEMU did, or the step lies behind
                              * the point of no return */
} ferryStepError;

typedef struct _ferryStep ferryStep;
struct _ferryStep {
    const char *name; /* stable: written to the journal */

    /* Called with the domain locked and its job held. A wait (ferryJobWait) releases the
     * lock and may release the job: when it has failed, check ferryOpIsLost(). */
    int (*run)(ferryOp *op);

    /* Takes back what run() did. Must be idempotent and check before it acts: run() may
     * have failed half-way, or it is unknown whether run() was called. Reports no error.
     * NULL: there is nothing to take back. */
    void (*undo)(ferryOp *op);

    /* What the step does survives a crash of the host (a file, a pivot), so its journal
     * entry is synced to disk before the step runs. A durable step without undo is its
     * plan's point of no return; it must not be the plan's first step. */
    bool durable;

    /* No other thread gets the domain's job while run() or undo() waits. */
    bool alone;

    /* Recovery need not know whether the step ran, so the journal does not record it. It
     * must be neither the first nor the last step of its plan. */
    bool unrecorded;

    /* Returns whether run() has nothing to do this time, nor undo(): then, too, the step is not
     * recorded, since an entry costs more than most steps. NULL: it always has. */
    bool (*idle)(ferryOp *op);
};

typedef struct _ferryPlan ferryPlan;
struct _ferryPlan {
    const char *name;       /* stable: written to the journal */
    const ferryStep *steps; /* ends with a nameless step */
};

#define FERRY_PLANS_MAX 4

struct _ferryOpClass {
    const char *name;              /* stable: written to the journal */
    const ferryPlan *const *plans; /* ends with NULL; at most FERRY_PLANS_MAX */
    virDomainJob job;              /* domain job held while working on an operation */

    /* Returns, for messages, what the operation is and which domain @name and which disk it is
     * about, as "copy of disk 'vda' of domain 'g' to '/target'". op->vm may be NULL. The caller
     * frees it. */
    char *(*describe)(ferryOp *op, const char *name);

    /* Write and read the data that undo and recovery need, as children of the operation's
     * element in the journal. @format may be NULL: there is no data to write. */
    int (*format)(ferryOp *op, virBuffer *buf);
    void *(*parse)(virQEMUDriver *driver, xmlXPathContextPtr ctxt);
    void (*dataFree)(void *data);

    /* Returns whether the operation must act now that one of its QEMU jobs is in @status
     * (qemuMonitorJobStatus). Called in the monitor's thread with the domain locked: must
     * not wait or change anything. A job changes its state whenever QEMU drains its
     * nodes, and a worker that takes the domain's job without need keeps other threads
     * waiting. NULL: the operation has no QEMU jobs. */
    bool (*jobMatters)(ferryOp *op, int status);

    /* Returns 0 if a thread may go on waiting, or -1 with an error reported. Domain
     * locked. NULL: threads may wait as long as QEMU lives. */
    int (*mayWait)(ferryOp *op);

    /* Called by a worker (ferryEngineSubmit), mostly because a QEMU job changed its state
     * while no thread drove the operation. Domain locked, job held, QEMU runs. */
    void (*jobChanged)(ferryOp *op);

    /* The driver was restarted and QEMU still runs. Adds operations that @vm shows but
     * that are in no journal, because the journal was lost or cannot be read. They are
     * then recovered like all others. NULL: there is nothing to look for. */
    void (*revive)(const ferryOpClass *klass, virDomainObj *vm);

    /* The driver was restarted and QEMU still runs: calls ferryAccessRecall() for what the operation uses.
     * Neither the stock driver nor any operation has recovered anything yet. Domain locked. NULL: there is
     * nothing that the domain's definition does not name. */
    void (*recall)(ferryOp *op);

    /* The driver was restarted and QEMU still runs. Domain locked; the reconnecting
     * thread keeps the domain's job (op->holdJob): must not wait for long. */
    void (*recover)(ferryOp *op);

    /* The operation's QEMU is gone. Domain locked, no monitor of that QEMU; @op->vm is NULL
     * when the domain is gone, too. Ends the operation, unless it reports an error because
     * something that the next start of the domain or of the driver relies on cannot be
     * written: then it is called again before either (op->stopped is true by then). Must not
     * wait for storage: see leftover.c. */
    void (*stopped)(ferryOp *op);

    /* What a client may do with the jobs that the operation runs on disks. The engine
     * does not use it; ops/blockjob.h defines the type. NULL: clients may do nothing. */
    const ferryBlockJobHandler *blockJob;

    /* Another operation is deleting checkpoint @name of the domain. Domain locked, job
     * held. NULL: the operation does not refer to checkpoints. */
    void (*checkpointDeleted)(ferryOp *op, const char *name);

    /* The operation has outlived its QEMU (op->stopped): return whether it may still remove what is
     * at @image, or checkpoint @name. Domain locked. NULL: it removes no such thing. */
    bool (*removesImage)(ferryOp *op, virStorageSource *image);
    bool (*removesCheckpoint)(ferryOp *op, const char *name);

    /* Returns true while the operation adds a checkpoint, or has chosen one that it will
     * use: no other operation may add or delete one then. Domain locked. NULL: never. */
    bool (*needsCheckpoints)(ferryOp *op);
};

struct _ferryOp {
    int refs; /* atomic */
    const ferryOpClass *klass;
    virQEMUDriver *driver;
    virDomainObj *vm; /* no reference is held: an operation ends before its domain */
    char *name;       /* unique in the domain; part of the names of its QEMU jobs */
    char *leader;     /* name of the operation of a group whose mark in the journal, at the point of
                         * no return, counts for this one, too; its own for that one; NULL: no group */
    long long since;  /* when it began, in seconds since 1970; 0: not known. For "ferry status" */
    void *data;       /* of the class, which frees it (dataFree) */

    size_t progress[FERRY_PLANS_MAX]; /* per plan: number of steps that may have acted */

    bool durable;     /* its journal was synced to disk: its removal must be, too */
    bool synced;      /* the latest journal of the domain is synced to disk */
    bool over;        /* ended: must not be used any more */
    bool stopped;     /* its QEMU is gone, and stopped() is called, or called again */
    bool blocksStart; /* the domain must not start before stopped() has ended the operation:
                           * its guest would lose data, or a thread may change its images */
    int leftover;     /* atomic; see leftover.c, which uses the next field, too */
    void (*leftoverFunc)(void *data);
    int timer; /* atomic; its number plus 1, or 0: see retry.c, which uses the next field, too */
    unsigned int retryMs;
    int asking;     /* atomic; storage that has not answered in time, and whose answer lets the operation go on */
    bool stuck;     /* an undo could not remove what must not stay: see ferryPlanUndo() */
    bool withdrawn; /* read from the journal: what its client asked for was refused */
    ferryRun run;   /* read from the journal: the QEMU that it is about */
    bool holdJob;   /* waits keep the domain's job */
    bool undoing;   /* ferryPlanUndo() runs: waits do not ask mayWait */
    int queued;     /* atomic; a worker will look at the operation */
    bool driven;    /* a thread carries the operation on: events only wake it up */
    int events;     /* atomic; job events since ferryOpDrive(): a wait must miss none */
    bool again;     /* a worker has come since ferryOpDrive(), and another one is needed */
};

/* Defines @func, which returns the data of an operation as a @type. The class of the
 * operation must be one that frees its data with @freeFunc. */
#define FERRY_OP_DATA(type, func, freeFunc) \
    static inline type *func(ferryOp *op) \
    { \
        g_assert(op->klass->dataFree == freeFunc); \
        return op->data; \
    }

void ferryOpTableOpen(void);
void ferryOpTableClose(void);
ferryOp *ferryOpRef(ferryOp *op);
void ferryOpUnref(ferryOp *op);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ferryOp, ferryOpUnref);

ferryOp *ferryOpNew(virDomainObj *vm, const ferryOpClass *klass, const char *name, void *data);
void ferryOpAdd(virDomainObj *vm, ferryOp *op);
bool ferryOpRemove(ferryOp *op);
ferryOp *ferryOpFind(virDomainObj *vm, const char *name);
GPtrArray *ferryOpList(virDomainObj *vm);
GPtrArray *ferryOpListOf(qemuDomainObjPrivate *priv);
void ferryOpRecall(ferryOp *op);
void ferryOpListDrop(qemuDomainObjPrivate *priv);

GPtrArray *ferryOpGroup(ferryOp *op);
bool ferryOpLeads(ferryOp *op);

bool ferryOpPastReturn(ferryOp *op);

bool ferryStepIsReturn(const ferryStep *step);
const ferryStep *ferryStepNextRecorded(const ferryStep *step);
size_t *ferryPlanProgress(ferryOp *op, const ferryPlan *plan);
bool ferryPlanReached(ferryOp *op, const ferryPlan *plan, const char *step);
bool ferryPlanReturnsWithin(const ferryPlan *plan, size_t n);
bool ferryPlanPastReturn(ferryOp *op, const ferryPlan *plan);
bool ferryPlanDone(ferryOp *op, const ferryPlan *plan);
void ferryPlanAssume(ferryOp *op, const ferryPlan *plan, const char *last);
