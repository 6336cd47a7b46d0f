/*
 * op.c: the operations of all domains, and how far their plans have got
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Every domain with operations has an entry in one table. The key is the domain's
 * private data, because that is all that one of the seams is given. The table has a
 * lock of its own, taken while the domain is locked; the list of operations in an
 * entry belongs to the domain and is under the domain's lock.
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
 * From now on domains can have operations.
 */
void
ferryOpTableOpen(void)
{
    VIR_LOCK_GUARD lock = virLockGuardLock(&table.lock);

    table.lists = g_hash_table_new_full(NULL, NULL, NULL, (GDestroyNotify) g_ptr_array_unref);
}


/* A monitor's thread may be looking at an operation of this list, with the domain
 * locked. */
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
 * Forgets all operations, in memory only. No domain may be locked by this thread.
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
    g_free(op->name);
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
 * The same for a domain.
 */
GPtrArray *
ferryOpList(virDomainObj *vm)
{
    return ferryOpListOf(vm->privateData);
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
 * Adds @op, which no domain has yet, to the operations of @vm. The list takes a
 * reference of its own.
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
 * Takes @op off the list of its domain, which is locked. The caller needs a
 * reference of its own to go on using @op.
 *
 * Returns false when @op was not on a list.
 */
bool
ferryOpRemove(ferryOp *op)
{
    GPtrArray *ops = op->vm ? ferryOpList(op->vm) : NULL;

    return ops && g_ptr_array_remove(ops, op);
}


/**
 * ferryOpNew:
 * @vm: domain, locked; NULL for one that is not (yet) to be looked after
 * @name: unique among the operations of @vm
 * @data: the class's; taken over
 *
 * Returns a reference; the domain holds another until ferryOpEnd.
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
 * Returns the step after @step, or the nameless one, that the journal tells of.
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
 * Returns where @op counts the steps of @plan that may have acted. @plan must
 * be one of the plans of @op's class.
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


/* Is one of the first @n steps of @plan its point of no return? */
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
 * Returns true when the plan's point of no return may have been passed: what
 * can not be asked from now on is taken for done.
 */
bool
ferryPlanPastReturn(ferryOp *op,
                    const ferryPlan *plan)
{
    return ferryPlanReturnsWithin(plan, *ferryPlanProgress(op, plan));
}


/**
 * ferryPlanDone:
 *
 * Returns true when the last step of @plan was at least begun.
 */
bool
ferryPlanDone(ferryOp *op,
              const ferryPlan *plan)
{
    return !plan->steps[*ferryPlanProgress(op, plan)].name;
}


/**
 * ferryPlanAssume:
 * @last: name of a step; NULL for the plan's last
 *
 * Takes the steps of @plan up to @last for ones that may have acted.
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
