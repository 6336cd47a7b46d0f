/*
 * op.h: operations, plans and steps
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * An operation is what a user asked for (copy disk vda). It is carried out by
 * plans; a plan is an array of steps; a step knows how to act and how to take
 * back what it did. The engine writes to the domain's journal which step it
 * is about to take, takes it, and on failure undoes backwards. Nothing here
 * knows what a disk is.
 */

#pragma once

#include "qemu/qemu_conf.h"
#include "qemu/qemu_domain.h"

typedef struct _ferryOp ferryOp;
typedef struct _ferryOpClass ferryOpClass;
typedef struct _ferryBlockJobHandler ferryBlockJobHandler;

/* What ferryStep.run returns besides 0. */
typedef enum {
    FERRY_STEP_FAILED = -1,  /* error reported; undo this step and those before */
    FERRY_STEP_UNKNOWN = -2, /* error reported; what QEMU did is not known, or the
                              * step lies behind the point of no return: leave
                              * everything to recovery */
} ferryStepError;

typedef struct _ferryStep ferryStep;
struct _ferryStep {
    const char *name; /* stable: written to the journal */

    /* Called with the domain locked and its job held. Both may be let
     * go of while waiting (ferryJobWait): look at op->over afterwards. */
    int (*run)(ferryOp *op);

    /* Idempotent: also called when run() failed half-way, or when nobody knows
     * whether it ran. Observes before it acts. Reports no error. NULL when
     * there is nothing to take back. */
    void (*undo)(ferryOp *op);

    /* The step leaves something behind that outlives the host (a file, a
     * pivot): its journal entry is on the disk before the step acts. One that
     * is durable and has no undo is its plan's point of no return, and not the
     * plan's first step. */
    bool durable;

    /* Nobody else gets at the domain while the step waits, be it run or undone. */
    bool alone;

    /* The step leaves nothing that is to be taken back, or gone on with: it is not
     * written to the journal. It is neither its plan's first step nor its last. */
    bool unrecorded;
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
    virDomainJob job;              /* the domain's, under which its operations work */

    /* What undo and recovery need, as children of the journal's element. @format may be
     * NULL when that is nothing. */
    int (*format)(ferryOp *op, virBuffer *buf);
    void *(*parse)(virQEMUDriver *driver, xmlXPathContextPtr ctxt);
    void (*dataFree)(void *data);

    /* Is there anything to do about a job of the operation that is in @status
     * (qemuMonitorJobStatus) now? Called in the monitor's thread with the domain
     * locked: must only look. A job leaves and enters states whenever QEMU
     * drains its nodes, and a worker that takes the domain's job for nothing is
     * in everybody's way. NULL: the operation has no jobs of QEMU. */
    bool (*jobMatters)(ferryOp *op, int status);

    /* May a thread go on waiting? Returns 0, or -1 with an error reported.
     * Domain locked. NULL: as long as QEMU lives. */
    int (*mayWait)(ferryOp *op);

    /* A job of the operation changed its state and nobody waits for it.
     * Domain locked, job held, QEMU runs. */
    void (*jobChanged)(ferryOp *op);

    /* The driver came back and QEMU still runs: makes up the operations that
     * @vm shows, but no journal tells of: it was lost or cannot be read. They
     * are recovered as all others. NULL: there is nothing to see. */
    void (*revive)(const ferryOpClass *klass, virDomainObj *vm);

    /* The driver came back and QEMU still runs. Domain locked, job held by
     * the reconnecting thread: must not wait for long (op->holdJob is set). */
    void (*recover)(ferryOp *op);

    /* QEMU is gone. Domain locked, no monitor. @op->vm is NULL when even the
     * domain is gone. Must end the operation. */
    void (*stopped)(ferryOp *op);

    /* What a client may do with the jobs that the operation runs on disks. Type and
     * rules are in ops/blockjob.h: the engine only keeps the pointer. NULL: such jobs
     * are no business of clients. */
    const ferryBlockJobHandler *blockJob;

    /* Another operation is deleting checkpoint @name of the domain. Domain locked, job
     * held. NULL: the operation keeps nothing of checkpoints. */
    void (*checkpointDeleted)(ferryOp *op, const char *name);
};

struct _ferryOp {
    int refs; /* atomic */
    const ferryOpClass *klass;
    virQEMUDriver *driver;
    virDomainObj *vm;   /* not a reference: an operation ends before its domain */
    char *name;         /* unique in the domain; also the stem of its QEMU jobs */
    void *data;         /* the class's */

    size_t progress[FERRY_PLANS_MAX]; /* per plan: steps that may have acted */

    bool durable;         /* a power loss does not take its journal away */
    bool synced;          /* its journal is on the disk as it is now */
    bool over;            /* ended: nothing may be done with it any more */
    bool holdJob;         /* waiting must not let go of the domain's job */
    bool undoing;         /* a thread takes it back: nothing may stop that */
    bool driven;          /* a thread is carrying it on: events only wake it up */
    unsigned int events;  /* counts job events, so that none is missed */
};

/* Defines @func, which returns the data of an operation as the @type that they are:
 * the operation must be of a class that frees its data with @freeFunc. */
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
void ferryOpListDrop(qemuDomainObjPrivate *priv);

bool ferryStepIsReturn(const ferryStep *step);
const ferryStep *ferryStepNextRecorded(const ferryStep *step);
size_t *ferryPlanProgress(ferryOp *op, const ferryPlan *plan);
bool ferryPlanReached(ferryOp *op, const ferryPlan *plan, const char *step);
bool ferryPlanReturnsWithin(const ferryPlan *plan, size_t n);
bool ferryPlanPastReturn(ferryOp *op, const ferryPlan *plan);
bool ferryPlanDone(ferryOp *op, const ferryPlan *plan);
void ferryPlanAssume(ferryOp *op, const ferryPlan *plan, const char *last);
