/*
 * op.c: the operations of all domains, and how far their plans have got
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Every domain with operations has an entry in one table. The key is the domain's private
 * data, because the seam qemuDomainObjPrivateDataClear() gets nothing else. The table's
 * own lock is taken after the domain's lock. The domain's lock protects the list of
 * operations in an entry.
 */

#include <config.h>

#include "engine/op.h"

static struct {
    virMutex lock;
    GHashTable *lists; /* qemuDomainObjPrivate * -> GPtrArray of ferryOp * */
} table = { .lock = VIR_MUTEX_INITIALIZER };


/**
 * ferryOpTableOpen:
 *
 * Creates the table. From now on domains can have operations.
 */
void
ferryOpTableOpen(void)
{
    VIR_LOCK_GUARD lock = virLockGuardLock(&table.lock);

    table.lists = g_hash_table_new_full(NULL, NULL, NULL, (GDestroyNotify) g_ptr_array_unref);
}


/* Locks the domain, since a monitor's thread may be reading an operation of the list. */
static void
ferryOpListClear(void *key G_GNUC_UNUSED,
                 void *value,
                 void *opaque G_GNUC_UNUSED)
{
    GPtrArray *ops = value;

    if (ops->len > 0) {
        virDomainObj *vm = ((ferryOp *) g_ptr_array_index(ops, 0))->vm;

        VIR_WITH_OBJECT_LOCK_GUARD(vm) {
            g_ptr_array_set_size(ops, 0);
        }
    }
}


/**
 * ferryOpTableClose:
 *
 * Forgets all operations, but leaves their journals. Locks each domain with operations,
 * so the caller must not hold the lock of a domain.
 */
void
ferryOpTableClose(void)
{
    g_autoptr(GHashTable) lists = NULL;

    VIR_WITH_MUTEX_LOCK_GUARD(&table.lock) {
        lists = g_steal_pointer(&table.lists);
    }

    if (lists)
        g_hash_table_foreach(lists, ferryOpListClear, NULL);
}


ferryOp *
ferryOpRef(ferryOp *op)
{
    g_atomic_int_inc(&op->refs);
    return op;
}


void
ferryOpUnref(ferryOp *op)
{
    if (!op || !g_atomic_int_dec_and_test(&op->refs))
        return;

    if (op->data)
        op->klass->dataFree(op->data);
    ferryRunClear(&op->run);
    g_free(op->name);
    g_free(op->leader);
    g_free(op);
}


/**
 * ferryOpListOf:
 * @priv: private data of a domain, which is locked
 *
 * Returns the operations of the domain, or NULL when it never had one. The list
 * belongs to the table.
 */
GPtrArray *
ferryOpListOf(qemuDomainObjPrivate *priv)
{
    VIR_LOCK_GUARD lock = virLockGuardLock(&table.lock);

    return table.lists ? g_hash_table_lookup(table.lists, priv) : NULL;
}


/**
 * ferryOpList:
 * @vm: domain, locked
 *
 * Like ferryOpListOf().
 */
GPtrArray *
ferryOpList(virDomainObj *vm)
{
    return ferryOpListOf(vm->privateData);
}


/**
 * ferryOpRecall:
 *
 * The driver was restarted and found the QEMU of @op alive. Domain locked; nothing that uses, or gives up,
 * access to images was recovered yet.
 */
void
ferryOpRecall(ferryOp *op)
{
    if (op->klass->recall)
        op->klass->recall(op);
}


/**
 * ferryOpListDrop:
 * @priv: private data of a domain, which is locked and has no operations any more
 *
 * Removes the entry of the domain from the table.
 */
void
ferryOpListDrop(qemuDomainObjPrivate *priv)
{
    VIR_LOCK_GUARD lock = virLockGuardLock(&table.lock);

    g_hash_table_remove(table.lists, priv);
}


/**
 * ferryOpAdd:
 * @vm: domain, locked
 *
 * Adds @op, which is not in a list yet, to the operations of @vm. The list takes its own
 * reference.
 */
void
ferryOpAdd(virDomainObj *vm,
           ferryOp *op)
{
    VIR_LOCK_GUARD lock = virLockGuardLock(&table.lock);
    GPtrArray *ops = g_hash_table_lookup(table.lists, vm->privateData);

    if (!ops) {
        ops = g_ptr_array_new_with_free_func((GDestroyNotify) ferryOpUnref);
        g_hash_table_insert(table.lists, vm->privateData, ops);
    }

    op->vm = vm;
    g_ptr_array_add(ops, ferryOpRef(op));
}


/**
 * ferryOpRemove:
 *
 * Removes @op from the list of its domain, which is locked. The caller needs its own
 * reference to go on using @op.
 *
 * Returns false when @op was not in the list.
 */
bool
ferryOpRemove(ferryOp *op)
{
    GPtrArray *ops = op->vm ? ferryOpList(op->vm) : NULL;

    return ops && g_ptr_array_remove(ops, op);
}


/**
 * ferryOpNew:
 * @vm: domain, locked; NULL: the operation is added to no domain, or later (ferryOpAdd)
 * @name: unique among the operations of @vm
 * @data: data of the class; the operation frees it
 *
 * Returns a reference; the domain holds another one until ferryOpEnd().
 */
ferryOp *
ferryOpNew(virDomainObj *vm,
           const ferryOpClass *klass,
           const char *name,
           void *data)
{
    ferryOp *op = g_new0(ferryOp, 1);

    op->refs = 1;
    op->klass = klass;
    op->name = g_strdup(name);
    op->since = g_get_real_time() / G_USEC_PER_SEC;
    op->data = data;

    if (vm) {
        op->driver = QEMU_DOMAIN_PRIVATE(vm)->driver;
        ferryOpAdd(vm, op);
    }

    return op;
}


/**
 * ferryOpFind:
 *
 * Returns the operation @name of @vm, or NULL. @vm is locked; the reference is
 * borrowed.
 */
ferryOp *
ferryOpFind(virDomainObj *vm,
            const char *name)
{
    GPtrArray *ops = ferryOpList(vm);
    size_t i;

    for (i = 0; ops && i < ops->len; i++) {
        ferryOp *op = g_ptr_array_index(ops, i);

        if (STREQ(op->name, name))
            return op;
    }

    return NULL;
}


/**
 * ferryOpLeads:
 *
 * Returns true unless another operation's mark in the journal counts for @op.
 */
bool
ferryOpLeads(ferryOp *op)
{
    return !op->leader || STREQ(op->leader, op->name);
}


/**
 * ferryOpGroup:
 *
 * Returns the operations of the group of @op, that which leads it first, with a reference each;
 * only @op if it is in no group. The caller frees the array. Domain locked.
 */
GPtrArray *
ferryOpGroup(ferryOp *op)
{
    GPtrArray *group = g_ptr_array_new_with_free_func((GDestroyNotify) ferryOpUnref);
    GPtrArray *ops = op->leader ? ferryOpList(op->vm) : NULL;
    size_t i;

    for (i = 0; ops && i < ops->len; i++) {
        ferryOp *other = g_ptr_array_index(ops, i);

        if (STRNEQ_NULLABLE(other->leader, op->leader))
            continue;

        g_ptr_array_insert(group, ferryOpLeads(other) ? 0 : -1, ferryOpRef(other));
    }

    /* in no group, or in no list yet */
    if (!g_ptr_array_find(group, op, /* index= */ NULL))
        g_ptr_array_add(group, ferryOpRef(op));
    return group;
}


/**
 * ferryStepIsReturn:
 *
 * Returns true when @step is its plan's point of no return.
 */
bool
ferryStepIsReturn(const ferryStep *step)
{
    return step->durable && !step->undo;
}


/**
 * ferryStepNextRecorded:
 *
 * Returns the next step after @step that the journal records, or the nameless last step.
 */
const ferryStep *
ferryStepNextRecorded(const ferryStep *step)
{
    do {
        step++;
    } while (step->unrecorded);

    return step;
}


/**
 * ferryPlanProgress:
 *
 * Returns the address of the number of steps of @plan that may have acted. @plan must be
 * one of the plans of @op's class.
 */
size_t *
ferryPlanProgress(ferryOp *op,
                  const ferryPlan *plan)
{
    size_t i;

    for (i = 0; op->klass->plans[i] != plan; i++)
        g_assert(op->klass->plans[i]);

    return &op->progress[i];
}


/**
 * ferryPlanReached:
 *
 * Returns true when @step of @plan, and so all steps before it, may have acted.
 */
bool
ferryPlanReached(ferryOp *op,
                 const ferryPlan *plan,
                 const char *step)
{
    size_t done = *ferryPlanProgress(op, plan);
    size_t i;

    for (i = 0; i < done; i++) {
        if (STREQ(plan->steps[i].name, step))
            return true;
    }

    return false;
}


/* Returns true when one of the first @n steps of @plan is its point of no return. */
bool
ferryPlanReturnsWithin(const ferryPlan *plan,
                       size_t n)
{
    size_t i;

    for (i = 0; i < n; i++) {
        if (ferryStepIsReturn(&plan->steps[i]))
            return true;
    }

    return false;
}


/**
 * ferryPlanPastReturn:
 *
 * Returns true when the point of no return of @plan may have been passed. From then on,
 * recovery assumes that a step was done whenever QEMU can no longer be asked.
 */
bool
ferryPlanPastReturn(ferryOp *op,
                    const ferryPlan *plan)
{
    return ferryPlanReturnsWithin(plan, *ferryPlanProgress(op, plan));
}


/**
 * ferryOpPastReturn:
 *
 * Returns true when the point of no return of one of the plans of @op may have been passed.
 */
bool
ferryOpPastReturn(ferryOp *op)
{
    const ferryPlan *const *plan;

    for (plan = op->klass->plans; *plan; plan++) {
        if (ferryPlanPastReturn(op, *plan))
            return true;
    }

    return false;
}


/**
 * ferryPlanDone:
 *
 * Returns true when the last step of @plan has begun, and possibly ended.
 */
bool
ferryPlanDone(ferryOp *op,
              const ferryPlan *plan)
{
    return !plan->steps[*ferryPlanProgress(op, plan)].name;
}


/**
 * ferryPlanAssume:
 * @last: name of a step; NULL or an unknown name: the last step of @plan
 *
 * Sets the progress of @plan: the steps up to @last may have acted.
 */
void
ferryPlanAssume(ferryOp *op,
                const ferryPlan *plan,
                const char *last)
{
    size_t *progress = ferryPlanProgress(op, plan);

    for (*progress = 0; plan->steps[*progress].name; ++*progress) {
        if (*progress > 0 && STREQ_NULLABLE(plan->steps[*progress - 1].name, last))
            return;
    }
}
