/*
 * opfile.c: files that an operation makes
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * An operation that a starting driver finds in a journal, and whose QEMU does not run any
 * more, may be older than what its files are used for now: see definitions.c.
 */

#include <config.h>

#include "block/definitions.h"
#include "block/durable.h"
#include "block/source.h"
#include "engine/engine.h"
#include "engine/journal.h"
#include "engine/leftover.h"
#include "engine/unlocked.h"
#include "engine/wait.h"
#include "ops/opfile.h"
#include "virerror.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.opfile");


/**
 * ferryOpFileMake:
 * @file: from ferryImagePrepare(); NULL: nothing is to be made
 *
 * Gives the new file of @image its name, and writes its inode to the journal if that does
 * not have it yet. Domain locked.
 *
 * Returns 0; -1 with an error reported; or 1, without one, when something else has that
 * name by now.
 */
int
ferryOpFileMake(ferryOp *op,
                virStorageSource *image,
                ferryFile *file)
{
    switch (ferryImageTouch(op->vm, image, file)) {
    case FERRY_IMAGE_TAKEN:
        return 1;
    case FERRY_IMAGE_UNWRITTEN:
        return ferryJournalWrite(op->vm, /* durable= */ true);
    case FERRY_IMAGE_FAILED:
        return -1;
    case FERRY_IMAGE_READY:
        break;
    }

    return 0;
}


/**
 * ferryOpFileKeep:
 *
 * Writes the name of @image, which clients are told next to be there, to the disk. Domain
 * locked, by the thread that drives @op; the lock and (unless op->holdJob) the job are
 * released meanwhile, since storage may hang: check ferryOpIsLost(). A failure is a line in
 * the log.
 */
void
ferryOpFileKeep(ferryOp *op,
                virStorageSource *image)
{
    g_autoptr(virStorageSource) own = virObjectRef(image);

    ferryOpYield(op);
    virObjectUnlock(op->vm);
    if (ferryDurableImage(own) < 0)
        VIR_WARN("'%s' may be gone after a power loss: %s", own->path, virGetLastErrorMessage());
    virObjectLock(op->vm);
    ignore_value(ferryOpResume(op));
}


/* An operation that is over may outlive its domain. */
static virDomainObj *
ferryOpFileDomain(ferryOp *op)
{
    return op->over ? NULL : op->vm;
}


/**
 * ferryOpFileUse:
 *
 * Returns the definitions of all domains but that of @op, for ferryOpFileRemove(). Domain
 * locked, if there is one. The caller frees it.
 */
ferryUse *
ferryOpFileUse(ferryOp *op)
{
    virDomainObj *own = ferryOpFileDomain(op);

    return ferryUseNew(op->driver, own ? own->def->name : NULL);
}


/**
 * ferryOpFileList:
 *
 * Adds to @paths, for ferryOpFileAwait(), what ferryOpFileRemove() is going to look at.
 */
void
ferryOpFileList(GPtrArray *paths,
                virStorageSource *image,
                ferryImageOrigin origin)
{
    if (origin != FERRY_IMAGE_FOREIGN && ferrySourceIsFile(image))
        g_ptr_array_add(paths, g_strdup(image->path));
}


static void
ferryOpFileAsk(void *opaque)
{
    GPtrArray *paths = opaque;
    struct stat st;
    size_t i;

    for (i = 0; i < paths->len; i++) {
        /* whose locks are going to be asked for, too */
        if (stat(g_ptr_array_index(paths, i), &st) == 0 && S_ISREG(st.st_mode))
            ignore_value(ferryFileIsLocked(g_ptr_array_index(paths, i)));
    }
}


/**
 * ferryOpFileAwait:
 * @op: its QEMU is gone
 * @paths: files, which need not exist; strings of its own; taken over
 *
 * Asks the storage of @paths, which stopped() of @op is about to remove files from or to revoke
 * access to, whether it answers: the domain is locked. So is that of the domain's own images, which
 * may be the same files by another name, and for the same reason as in ferryOpFileRemove() that of
 * all domains' images. Then the lock is released meanwhile.
 *
 * Returns 0, or -1 with an error reported if it has not answered yet: stopped() is called again
 * when it has (leftover.c), and must not end @op before.
 */
int
ferryOpFileAwait(ferryOp *op,
                 GPtrArray *paths)
{
    g_autofree char *first = NULL;
    size_t i;

    if (paths->len == 0) {
        g_ptr_array_unref(paths);
        return 0;
    }

    first = g_strdup(g_ptr_array_index(paths, 0));

    if (op->stopped) {
        g_autoptr(GPtrArray) named = ferryDefinitionsPaths(op->driver, ferryOpFileDomain(op));

        for (i = 0; i < named->len; i++)
            g_ptr_array_add(paths, g_strdup(g_ptr_array_index(named, i)));
    } else if (ferryOpFileDomain(op)) {
        ferryDefinitionsAddDomain(paths, op->vm);
    }

    if (ferryLeftoverRun(op, ferryOpFileAsk, paths, (GDestroyNotify) g_ptr_array_unref))
        return 0;

    virReportError(VIR_ERR_OPERATION_TIMEOUT,
                   _("the storage of '%1$s', which operation '%2$s' has left, and that of the domains' "
                     "images must answer before the operation can end; check the mounts and devices"),
                   first, op->name);
    return -1;
}


/* Question to the storage of files of one folder, for an operation whose QEMU runs. */
typedef struct {
    virQEMUDriver *driver;
    GPtrArray *paths;
    bool removal; /* the files are going to be removed */
} ferryOpFileQuestion;


/* Before a file is removed, images of the same base name are looked at, too: block/use.c. */
static void
ferryOpFileAskNamesakes(ferryOpFileQuestion *question)
{
    g_autoptr(GPtrArray) named = ferryDefinitionsPaths(question->driver, /* locked= */ NULL);
    struct stat st;
    size_t i;
    size_t k;

    for (i = 0; i < named->len; i++) {
        g_autofree char *other = g_path_get_basename(g_ptr_array_index(named, i));

        for (k = 0; k < question->paths->len; k++) {
            g_autofree char *base = g_path_get_basename(g_ptr_array_index(question->paths, k));

            if (STREQ(other, base))
                ignore_value(stat(g_ptr_array_index(named, i), &st));
        }
    }
}


static void
ferryOpFileQuestionRun(void *opaque)
{
    ferryOpFileQuestion *question = opaque;
    struct stat st;
    size_t i;

    for (i = 0; i < question->paths->len; i++) {
        if (stat(g_ptr_array_index(question->paths, i), &st) == 0 && S_ISREG(st.st_mode) && question->removal)
            ignore_value(ferryFileIsLocked(g_ptr_array_index(question->paths, i)));
    }

    if (question->removal)
        ferryOpFileAskNamesakes(question);
}


static void
ferryOpFileQuestionFree(void *opaque)
{
    ferryOpFileQuestion *question = opaque;

    g_ptr_array_unref(question->paths);
    g_free(question);
}


/* Returns whether @op ends, however long that takes. */
static bool
ferryOpFileMustEnd(ferryOp *op)
{
    return op->undoing || ferryOpPastReturn(op);
}


/* @paths, of one folder, are taken over. Returns 0 if their storage answers and @op is not
 * lost; -1 with an error reported. */
static int
ferryOpFileAskFolder(ferryOp *op,
                     GPtrArray *paths)
{
    ferryOpFileQuestion *question = g_new0(ferryOpFileQuestion, 1);
    g_autofree char *first = g_strdup(g_ptr_array_index(paths, 0));
    g_autofree char *what = NULL;
    bool hold = op->holdJob;
    bool answered;

    question->driver = op->driver;
    question->paths = paths;
    question->removal = op->undoing;

    /* what begins keeps its job, for at most that time: calls that wait for it are not refused
     * because they come in between its steps */
    op->holdJob = hold || !ferryOpFileMustEnd(op);
    answered = ferryOpRunUnlockedAgain(op, first, ferryOpFileQuestionRun, question,
                                       ferryOpFileQuestionFree, FERRY_BOUNDED_STORAGE_MS);
    op->holdJob = hold;
    if (answered)
        ferryOpFileQuestionFree(question);

    if (ferryOpIsLost(op))
        return -1;

    if (answered)
        return 0;

    what = op->klass->describe(op, op->vm->def->name);
    virReportError(VIR_ERR_OPERATION_TIMEOUT,
                   ferryOpFileMustEnd(op) ?
                       _("the storage of '%1$s' does not answer: %2$s ends when it does; check the mount "
                         "or device") :
                       _("the storage of '%1$s' does not answer: check the mount or device, and begin %2$s "
                         "again"),
                   first, what);
    return -1;
}


/**
 * ferryOpFileAdd:
 * @paths: strings of its own
 *
 * Adds to @paths, for ferryOpFilePathsAnswer(), the local files and devices of the chain of @image.
 */
void
ferryOpFileAdd(GPtrArray *paths,
               virStorageSource *image)
{
    virStorageSource *n;

    for (n = image; virStorageSourceIsBacking(n); n = n->backingStore) {
        if (n->path && virStorageSourceIsLocalStorage(n))
            g_ptr_array_add(paths, g_strdup(n->path));
    }
}


/**
 * ferryOpFilePathsAnswer:
 * @paths: local files and devices
 *
 * Asks the storage of @paths, which a step of @op is about to work on with the domain locked,
 * whether it answers. Domain locked, by the thread that drives @op; the lock is released
 * meanwhile, and the job, too, if @op is being undone or past its point of no return (unless
 * op->holdJob): nothing that is the domain's stays valid then, and after an error check
 * ferryOpIsLost().
 *
 * Returns 0, also if there is no QEMU (see ferryOpFileAwait()), or -1 with an error reported.
 * Then jobChanged of @op is called as soon as the storage has answered.
 */
int
ferryOpFilePathsAnswer(ferryOp *op,
                       GPtrArray *paths)
{
    size_t i;
    size_t k;

    if (op->stopped || !op->vm || op->vm->pid == 0)
        return 0;

    /* one question for neighbours: a backup may have many disks */
    for (i = 0; i < paths->len; i = k) {
        g_autofree char *folder = g_path_get_dirname(g_ptr_array_index(paths, i));
        GPtrArray *together = g_ptr_array_new_with_free_func(g_free);

        for (k = i; k < paths->len; k++) {
            g_autofree char *other = g_path_get_dirname(g_ptr_array_index(paths, k));

            if (STRNEQ(folder, other))
                break;
            g_ptr_array_add(together, g_strdup(g_ptr_array_index(paths, k)));
        }

        if (ferryOpFileAskFolder(op, together) < 0)
            return -1;
    }

    return 0;
}


/**
 * ferryOpFileAnswers:
 *
 * Like ferryOpFilePathsAnswer(), for the whole chain of @image.
 */
int
ferryOpFileAnswers(ferryOp *op,
                   virStorageSource *image)
{
    g_autoptr(GPtrArray) paths = g_ptr_array_new_with_free_func(g_free);

    ferryOpFileAdd(paths, image);
    return ferryOpFilePathsAnswer(op, paths);
}


/**
 * ferryOpFileRemove:
 * @use, @vm, @image, @origin, @file: as for ferryImageRestore()
 *
 * Removes or empties what @op made at @image, unless a definition names the file. If @op was
 * read from a journal and its QEMU is gone (op->stopped), the definitions that the driver
 * has in memory count, too. What is removed because QEMU has ended is a line in the log:
 * no client learns of it. Domain locked, if there is one; its lock may be released
 * meanwhile. Keeps the last error. Returns true if it did.
 */
bool
ferryOpFileRemove(ferryOp *op,
                  ferryUse *use,
                  virDomainObj *vm,
                  virStorageSource *image,
                  ferryImageOrigin origin,
                  ferryFile *file)
{
    virDomainObj *own = ferryOpFileDomain(op);
    g_autofree char *name = g_strdup(own ? own->def->name : "");
    bool gone = op->stopped || !own || own->pid == 0;

    if (origin == FERRY_IMAGE_FOREIGN || !ferrySourceIsFile(image))
        return false;

    if (op->stopped && ferryDefinitionsName(op->driver, image->path, own)) {
        VIR_WARN("image '%s', which operation '%s' of domain '%s' made, is named by a definition "
                 "now, and stays",
                 image->path, op->name, name);
        return false;
    }

    if (!ferryImageRestore(use, vm, image, origin, file))
        return false;

    if (gone)
        VIR_WARN("%s '%s', the image of operation '%s' of domain '%s', which has ended",
                 origin == FERRY_IMAGE_ABSENT ? "removed" : "emptied", image->path, op->name, name);
    return true;
}
