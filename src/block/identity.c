/*
 * identity.c: whether an image's name still leads to the file that QEMU has open
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Theory of operation
 *
 * When QEMU changes the cache mode of an image, or makes it writable, it opens the file
 * again by name. If somebody has put another file under that name (moved the image,
 * restored it from a backup, turned a symbolic link, renamed a volume), QEMU silently moves
 * the guest to the other file. So before QEMU is told to, this unit compares two things:
 *
 *  - what the name leads to now, as QEMU sees it (in its mount namespace) and as the driver
 *    sees it (the next QEMU that is started gets that);
 *  - what QEMU has open: /proc/PID/fd.
 *
 * A file is identified by its device and inode, a block device by its device number, since
 * QEMU's namespace has device nodes of its own.
 *
 * QEMU does not say which descriptor belongs to which node. "QEMU has this file open" is not
 * enough if two images of one guest were exchanged. So the file of each node is remembered
 * when QEMU has just opened it: when the domain has started, and when a copy has added its
 * target. An image that was added in another way (hotplug, snapshot) is remembered when it
 * is first asked about, or when a driver reconnects to QEMU.
 *
 * QEMU also opens an image by its name on its own: when a mirror job ends, see
 * ferryNodeHold(). Before that the same question is asked.
 *
 * What this does not cover:
 *
 *  - A source that is replaced while its mirror job runs, which then fails on its own; or,
 *    with QEMU 7.2, a qcow2 source that is replaced after an aborted copy of it and copied
 *    again. (The stock driver asks no question at all.)
 *  - Two images of one guest that were exchanged before either was remembered: images added
 *    since the start, or exchanged while no driver ran.
 *  - A file that is replaced between the comparison and QEMU's open(), some microseconds.
 *    ferryIdentityStays() finds out afterwards. QEMU cannot be sent back then.
 *  - Files that root may not look at, such as those in a closed folder on NFS with
 *    root_squash: the answer is FERRY_IDENTITY_UNKNOWN.
 */

#include <config.h>

#include <fcntl.h>

#include "block/bounded.h"
#include "block/inode.h"
#include "block/identity.h"
#include "block/nodename.h"
#include "virerror.h"
#include "virfile.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

/* The file that QEMU opened for a storage node. */
typedef struct {
    char *path; /* the name by which QEMU opened it */
    ferryInode file;
} ferryIdentityNote;

/* The notes of one QEMU process. */
typedef struct {
    pid_t pid;
    GHashTable *notes; /* name of a storage node to ferryIdentityNote */
    GHashTable *held;  /* name of a storage node to virTristateBool: ferryNodeHold() holds it */
    bool inherited;    /* QEMU was started by an earlier driver, which may hold nodes */
} ferryIdentityProcess;

static struct {
    virMutex lock;
    GHashTable *domains; /* qemuDomainObjPrivate to ferryIdentityProcess; NULL: no note yet */
} memory = { .lock = VIR_MUTEX_INITIALIZER };

/* A question about one image, and the answer. */
typedef struct {
    char *node;
    char *path;
    ferryInode file; /* what the name leads to, as QEMU sees it */
    int err;         /* why that is not known; 0: it is */
} ferryIdentityLook;

typedef struct {
    pid_t pid;
    GPtrArray *looks; /* of ferryIdentityLook */
    GArray *held;     /* of ferryInode: what QEMU has open; NULL: not known */
} ferryIdentityProbe;


static void
ferryIdentityNoteFree(void *opaque)
{
    ferryIdentityNote *note = opaque;

    g_free(note->path);
    g_free(note);
}


static void
ferryIdentityProcessFree(void *opaque)
{
    ferryIdentityProcess *notes = opaque;

    g_hash_table_unref(notes->notes);
    g_hash_table_unref(notes->held);
    g_free(notes);
}


static void
ferryIdentityLookFree(void *opaque)
{
    ferryIdentityLook *look = opaque;

    g_free(look->node);
    g_free(look->path);
    g_free(look);
}


static void
ferryIdentityProbeFree(void *opaque)
{
    ferryIdentityProbe *probe = opaque;

    g_ptr_array_unref(probe->looks);
    g_clear_pointer(&probe->held, g_array_unref);
    g_free(probe);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC(ferryIdentityProbe, ferryIdentityProbeFree);


static void
ferryIdentityProbeRun(void *opaque)
{
    ferryIdentityProbe *probe = opaque;
    g_autofree char *path = g_strdup_printf("/proc/%lld/root", (long long) probe->pid);
    VIR_AUTOCLOSE root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    size_t i;

    for (i = 0; i < probe->looks->len; i++) {
        ferryIdentityLook *look = g_ptr_array_index(probe->looks, i);

        look->err = root < 0 ? EACCES : ferryInodeLookUp(root, look->path, &look->file);
    }

    probe->held = ferryInodeListHeld(probe->pid);
}


/* Returns whether @src is a file or device that QEMU opens by its name. */
static bool
ferryIdentityHasName(virStorageSource *src)
{
    virStorageType type = virStorageSourceGetActualType(src);

    return (type == VIR_STORAGE_TYPE_FILE || type == VIR_STORAGE_TYPE_BLOCK) &&
           src->path && ferryNodeStorage(src) && !virStorageSourceIsFD(src);
}


static void
ferryIdentityProbeAdd(ferryIdentityProbe *probe,
                      virStorageSource *src)
{
    ferryIdentityLook *look = g_new0(ferryIdentityLook, 1);

    look->node = g_strdup(ferryNodeStorage(src));
    look->path = g_strdup(src->path);
    g_ptr_array_add(probe->looks, look);
}


static ferryIdentityProbe *
ferryIdentityProbeNew(virDomainObj *vm)
{
    ferryIdentityProbe *probe = g_new0(ferryIdentityProbe, 1);

    probe->pid = vm->pid;
    probe->looks = g_ptr_array_new_with_free_func(ferryIdentityLookFree);

    return probe;
}


/* Returns the notes of @vm's QEMU, which are NULL if there are none and @create is not
 * set. Those of an earlier QEMU are dropped. memory.lock is held. */
static ferryIdentityProcess *
ferryIdentityNotes(virDomainObj *vm,
                   bool create)
{
    ferryIdentityProcess *notes;

    if (!memory.domains) {
        memory.domains = g_hash_table_new_full(NULL, NULL, /* key_destroy= */ NULL,
                                               ferryIdentityProcessFree);
    }

    if ((notes = g_hash_table_lookup(memory.domains, vm->privateData)) && notes->pid == vm->pid)
        return notes;

    if (!create)
        return NULL;

    notes = g_new0(ferryIdentityProcess, 1);
    notes->pid = vm->pid;
    notes->notes = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, ferryIdentityNoteFree);
    notes->held = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, /* value_destroy_func= */ NULL);
    g_hash_table_replace(memory.domains, vm->privateData, notes);

    return notes;
}


/* Returns whether QEMU has @file open under a name other than @path. */
static bool
ferryIdentityIsOfOther(GHashTable *notes,
                       const ferryIdentityLook *look)
{
    GHashTableIter iter;
    void *value;

    g_hash_table_iter_init(&iter, notes);
    while (g_hash_table_iter_next(&iter, /* key= */ NULL, &value)) {
        ferryIdentityNote *note = value;

        if (ferryInodeIsSame(&note->file, &look->file) && STRNEQ(note->path, look->path))
            return true;
    }

    return false;
}


/* Judges what was found, and remembers an image that is what it shall be. */
static ferryIdentity
ferryIdentityJudge(virDomainObj *vm,
                   const ferryIdentityProbe *probe,
                   const ferryIdentityLook *look)
{
    VIR_LOCK_GUARD lock = virLockGuardLock(&memory.lock);
    GHashTable *notes = ferryIdentityNotes(vm, /* create= */ true)->notes;
    ferryIdentityNote *note = g_hash_table_lookup(notes, look->node);

    if (look->err == ENOENT || look->err == ENOTDIR || look->err == ELOOP)
        return FERRY_IDENTITY_OTHER;

    if (look->err != 0 || !probe->held)
        return FERRY_IDENTITY_UNKNOWN;

    if (!ferryInodeIsHeld(probe->held, &look->file))
        return FERRY_IDENTITY_OTHER;

    /* a note about a file that QEMU has closed since says nothing */
    if (note && ferryInodeIsHeld(probe->held, &note->file))
        return ferryInodeIsSame(&note->file, &look->file) ? FERRY_IDENTITY_SAME :
                                                            FERRY_IDENTITY_OTHER;

    if (ferryIdentityIsOfOther(notes, look))
        return FERRY_IDENTITY_UNKNOWN;

    note = g_new0(ferryIdentityNote, 1);
    note->path = g_strdup(look->path);
    note->file = look->file;
    g_hash_table_replace(notes, g_strdup(look->node), note);

    return FERRY_IDENTITY_SAME;
}


static bool
ferryIdentityIsKnown(virDomainObj *vm,
                     virStorageSource *src)
{
    VIR_LOCK_GUARD lock = virLockGuardLock(&memory.lock);
    ferryIdentityProcess *notes = ferryIdentityNotes(vm, /* create= */ false);

    return notes && g_hash_table_contains(notes->notes, ferryNodeStorage(src));
}


static void
ferryIdentityAddUnknown(virDomainObj *vm,
                        virStorageSource *chain,
                        ferryIdentityProbe *probe)
{
    virStorageSource *n;

    for (n = chain; virStorageSourceIsBacking(n); n = n->backingStore) {
        if (ferryIdentityHasName(n) && !ferryIdentityIsKnown(vm, n))
            ferryIdentityProbeAdd(probe, n);
    }
}


/* Returns the path of the first image. */
static const char *
ferryIdentityPlace(ferryIdentityProbe *probe)
{
    return ((ferryIdentityLook *) g_ptr_array_index(probe->looks, 0))->path;
}


/* Remembers the files of @probe, which is taken over. */
static void
ferryIdentityRemember(virDomainObj *vm,
                      ferryIdentityProbe *found)
{
    g_autoptr(ferryIdentityProbe) probe = NULL;
    const char *place = NULL;
    size_t i;

    /* several images are looked at once in the life of a QEMU: there is no need for a limit */
    if (found->looks->len == 1)
        place = ferryIdentityPlace(found);

    if (found->looks->len > 0 &&
        !ferryBoundedRunUnlocked(vm, place, ferryIdentityProbeRun, found, ferryIdentityProbeFree,
                                 FERRY_BOUNDED_STORAGE_MS))
        return;

    probe = found;
    for (i = 0; i < probe->looks->len; i++)
        ignore_value(ferryIdentityJudge(vm, probe, g_ptr_array_index(probe->looks, i)));
}


/**
 * ferryIdentityLearn:
 *
 * Remembers which file QEMU has open for @src, which it has just opened, so that no earlier
 * driver can hold it (ferryIdentityIsHeld()). Domain locked, job held; releases the lock
 * meanwhile. Reports no error.
 */
void
ferryIdentityLearn(virDomainObj *vm,
                   virStorageSource *src)
{
    ferryIdentityProbe *probe = ferryIdentityProbeNew(vm);

    if (ferryIdentityHasName(src)) {
        ferryIdentityProbeAdd(probe, src);
        ferryIdentitySetHeld(vm, src, /* held= */ false);
    }

    ferryIdentityRemember(vm, probe);
}


/**
 * ferryIdentityLearnAll:
 *
 * Like ferryIdentityLearn() for all images of the disks that are not remembered yet.
 */
void
ferryIdentityLearnAll(virDomainObj *vm)
{
    ferryIdentityProbe *probe = ferryIdentityProbeNew(vm);
    size_t i;

    for (i = 0; i < vm->def->ndisks; i++) {
        ferryIdentityAddUnknown(vm, vm->def->disks[i]->src, probe);
        ferryIdentityAddUnknown(vm, vm->def->disks[i]->mirror, probe);
    }

    ferryIdentityRemember(vm, probe);
}


/**
 * ferryIdentityForget:
 *
 * The QEMU of the domain with private data @priv is gone. Domain locked.
 */
void
ferryIdentityForget(qemuDomainObjPrivate *priv)
{
    VIR_LOCK_GUARD lock = virLockGuardLock(&memory.lock);

    if (memory.domains)
        g_hash_table_remove(memory.domains, priv);
}


/**
 * ferryIdentityCheck:
 * @src: image of a node that QEMU has; only its own file, not the chain below
 *
 * Compares the file that the name of @src leads to now with the one that QEMU has open.
 * Domain locked, job held; releases the lock meanwhile. Reports no error.
 */
ferryIdentity
ferryIdentityCheck(virDomainObj *vm,
                   virStorageSource *src)
{
    g_autoptr(ferryIdentityProbe) probe = NULL;
    ferryIdentityProbe *found;

    if (!ferryIdentityHasName(src))
        return FERRY_IDENTITY_SAME;

    found = ferryIdentityProbeNew(vm);
    ferryIdentityProbeAdd(found, src);

    if (!ferryBoundedRunUnlocked(vm, ferryIdentityPlace(found), ferryIdentityProbeRun, found,
                                 ferryIdentityProbeFree, FERRY_BOUNDED_STORAGE_MS))
        return FERRY_IDENTITY_SILENT;

    probe = found;
    return ferryIdentityJudge(vm, probe, g_ptr_array_index(probe->looks, 0));
}


/**
 * ferryIdentityRequire:
 *
 * Like ferryIdentityCheck(), for what cannot go on with another file. Where the driver may
 * not look, it relies on the name as it always had to.
 *
 * Returns 0, or -1 with an error reported.
 */
int
ferryIdentityRequire(virDomainObj *vm,
                     virStorageSource *src)
{
    g_autofree char *path = g_strdup(src->path);

    switch (ferryIdentityCheck(vm, src)) {
    case FERRY_IDENTITY_OTHER:
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("image '%1$s' of domain '%2$s' was replaced or deleted: its name does not "
                         "lead to the file that QEMU has open any more; put that file back under "
                         "its name"),
                       path, vm->def->name);
        return -1;
    case FERRY_IDENTITY_SILENT:
        virReportError(VIR_ERR_OPERATION_TIMEOUT,
                       _("the storage of image '%1$s' of domain '%2$s' does not answer"),
                       path, vm->def->name);
        return -1;
    case FERRY_IDENTITY_SAME:
    case FERRY_IDENTITY_UNKNOWN:
    default:
        return 0;
    }
}


/**
 * ferryIdentityStays:
 *
 * QEMU has just opened @src again by its name. Returns false if QEMU does not have the
 * file open any more that it had before: the file was replaced in the last moment, and
 * QEMU uses the other one now. Asks no storage. Domain locked, job held.
 */
bool
ferryIdentityStays(virDomainObj *vm,
                   virStorageSource *src)
{
    g_autoptr(GArray) held = NULL;
    ferryIdentityNote *note = NULL;
    ferryInode file = { 0 };

    VIR_WITH_MUTEX_LOCK_GUARD(&memory.lock) {
        ferryIdentityProcess *notes = ferryIdentityNotes(vm, /* create= */ false);

        if (notes && ferryNodeStorage(src) &&
            (note = g_hash_table_lookup(notes->notes, ferryNodeStorage(src))))
            file = note->file;
    }

    held = note ? ferryInodeListHeld(vm->pid) : NULL;
    return !held || ferryInodeIsHeld(held, &file);
}


/**
 * ferryIdentityInherit:
 *
 * The driver was restarted and found @vm's QEMU alive: which nodes ferryNodeHold() holds
 * there, the earlier driver knew. Domain locked.
 */
void
ferryIdentityInherit(virDomainObj *vm)
{
    VIR_LOCK_GUARD lock = virLockGuardLock(&memory.lock);

    ferryIdentityNotes(vm, /* create= */ true)->inherited = true;
}


/**
 * ferryIdentityIsHeld:
 *
 * Returns whether ferryNodeHold() holds @src; VIR_TRISTATE_BOOL_ABSENT: an earlier driver
 * may have done so. Domain locked.
 */
virTristateBool
ferryIdentityIsHeld(virDomainObj *vm,
                    virStorageSource *src)
{
    VIR_LOCK_GUARD lock = virLockGuardLock(&memory.lock);
    ferryIdentityProcess *notes = ferryIdentityNotes(vm, /* create= */ false);
    void *held;

    if (!notes || !ferryNodeStorage(src))
        return VIR_TRISTATE_BOOL_NO;

    if ((held = g_hash_table_lookup(notes->held, ferryNodeStorage(src))))
        return GPOINTER_TO_INT(held);

    return notes->inherited ? VIR_TRISTATE_BOOL_ABSENT : VIR_TRISTATE_BOOL_NO;
}


/**
 * ferryIdentitySetHeld:
 *
 * Remembers whether ferryNodeHold() holds @src. Domain locked.
 */
void
ferryIdentitySetHeld(virDomainObj *vm,
                     virStorageSource *src,
                     bool held)
{
    VIR_LOCK_GUARD lock = virLockGuardLock(&memory.lock);
    ferryIdentityProcess *notes = ferryIdentityNotes(vm, /* create= */ true);

    g_hash_table_insert(notes->held, g_strdup(ferryNodeStorage(src)),
                        GINT_TO_POINTER(virTristateBoolFromBool(held)));
}


/**
 * ferryIdentityForgetNode:
 *
 * QEMU has closed the file of @src: another file may get its inode. Domain locked.
 */
void
ferryIdentityForgetNode(virDomainObj *vm,
                        virStorageSource *src)
{
    VIR_LOCK_GUARD lock = virLockGuardLock(&memory.lock);
    ferryIdentityProcess *notes = ferryIdentityNotes(vm, /* create= */ false);

    if (notes && ferryNodeStorage(src))
        g_hash_table_remove(notes->notes, ferryNodeStorage(src));
}
