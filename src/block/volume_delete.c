/*
 * volume_delete.c: deletes volumes of storage pools
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Theory of operation
 *
 * The storage driver may keep a thread waiting for as long as storage hangs, and nobody waits
 * for that thread for long. Meanwhile somebody may have made the volume the disk of a domain.
 * So the definitions are searched by the thread itself, right before it deletes a volume: for
 * its pool and name, for its path, and for other names of the same file or device. They are
 * searched in files (use.c), because the thread knows nothing of domains.
 *
 * The definition of the domain that the volume was created for names it, too. It does not count
 * while the caller waits. As soon as nobody waits any more, that domain may have been defined
 * or migrated again, and its definition counts like all others.
 */

#include <config.h>

#include <fcntl.h>

#include "block/bounded.h"
#include "block/pool.h"
#include "block/use.h"
#include "block/volume_delete.h"
#include "datatypes.h"
#include "driver.h"
#include "virerror.h"
#include "virfile.h"
#include "viridentity.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.volume");

struct _ferryVolumeRemoval {
    int refs;           /* atomic */
    ferryUse *others;   /* definitions of all domains but one; NULL: there is no such exception */
    ferryUse *all;      /* definitions of all domains */
    gint64 until;       /* us, monotonic clock: from then on nobody waits */
    bool late;          /* somebody may have made other volumes of these names since */
    GPtrArray *volumes; /* of ferryVolume */
    char *failure;      /* written by ferryVolumeRemovalRun() */
};


/**
 * ferryVolumeRemovalNew:
 * @own: name of a domain whose definition does not count while the caller waits; NULL: all count
 * @wait: for how many milliseconds the caller is going to wait
 */
ferryVolumeRemoval *
ferryVolumeRemovalNew(virQEMUDriver *driver,
                      const char *own,
                      unsigned int wait)
{
    ferryVolumeRemoval *removal = g_new0(ferryVolumeRemoval, 1);

    removal->refs = 1;
    removal->others = own ? ferryUseNew(driver, own) : NULL;
    removal->all = ferryUseNew(driver, /* except= */ NULL);
    removal->until = g_get_monotonic_time() + wait * G_GINT64_CONSTANT(1000);
    removal->volumes = g_ptr_array_new_with_free_func((GDestroyNotify) ferryVolumeFree);
    return removal;
}


/**
 * ferryVolumeRemovalIsLate:
 *
 * The volumes were created long ago: those of which only the name is known, since their pools tell
 * nothing else, stay.
 */
void
ferryVolumeRemovalIsLate(ferryVolumeRemoval *removal)
{
    removal->late = true;
}


ferryVolumeRemoval *
ferryVolumeRemovalRef(ferryVolumeRemoval *removal)
{
    g_atomic_int_inc(&removal->refs);
    return removal;
}


void
ferryVolumeRemovalUnref(void *opaque)
{
    ferryVolumeRemoval *removal = opaque;

    if (!removal || !g_atomic_int_dec_and_test(&removal->refs))
        return;

    ferryUseFree(removal->others);
    ferryUseFree(removal->all);
    g_ptr_array_unref(removal->volumes);
    g_free(removal->failure);
    g_free(removal);
}


/**
 * ferryVolumeRemovalAdd:
 *
 * Adds a copy of @volume. Not after ferryVolumeRemovalRun() was called.
 */
void
ferryVolumeRemovalAdd(ferryVolumeRemoval *removal,
                      const ferryVolume *volume)
{
    g_ptr_array_add(removal->volumes, ferryVolumeCopy(volume));
}


/**
 * ferryVolumeRemovalDescribe:
 *
 * Returns the names of all volumes, for messages. The caller frees it.
 */
char *
ferryVolumeRemovalDescribe(ferryVolumeRemoval *removal)
{
    g_auto(virBuffer) buf = VIR_BUFFER_INITIALIZER;
    size_t i;

    for (i = 0; i < removal->volumes->len; i++) {
        ferryVolume *volume = g_ptr_array_index(removal->volumes, i);

        if (i > 0)
            virBufferAddLit(&buf, ", ");
        virBufferAsprintf(&buf, _("'%1$s' of pool '%2$s'"), volume->name, volume->pool);
    }

    return virBufferContentAndReset(&buf);
}


/* Returns what @path is, through links, or NULL. */
static ferryFile *
ferryVolumeFileAt(const char *path)
{
    g_autoptr(ferryFile) file = ferryFileNew();
    VIR_AUTOCLOSE fd = open(path, O_PATH | O_CLOEXEC);

    return fd >= 0 && ferryFileLearn(file, fd) == 0 ? g_steal_pointer(&file) : NULL;
}


/* Returns the path of a definition that names @volume, which is at @path; NULL: there is none. */
static char *
ferryVolumeFindUser(ferryVolumeRemoval *removal,
                    const ferryVolume *volume,
                    const char *path)
{
    g_autoptr(ferryFile) file = ferryVolumeFileAt(path);
    bool waits = removal->others && g_get_monotonic_time() < removal->until;
    ferryUse *use = waits ? removal->others : removal->all;

    ferryUseRenew(use);
    return ferryUseFindVolume(use, volume->pool, volume->name, path, file);
}


/* Deletes @vol, if it still is @volume. Returns as ferryVolumeDelete(). */
static int
ferryVolumeDeleteFrom(ferryVolumeRemoval *removal,
                      const ferryVolume *volume,
                      virStoragePoolPtr pool,
                      virStorageVolPtr vol)
{
    g_autofree char *path = virStorageVolGetPath(vol);
    g_autofree char *user = NULL;
    const char *why = NULL;
    bool files;

    if (!path || ferryPoolHasFiles(pool, &files) < 0)
        return -1;

    if (!volume->key) {
        why = "nobody knows whether Ferry made it; delete it if nobody needs it";
        if (volume->creating) {
            virReportError(VIR_ERR_OPERATION_FAILED, "%s", _("it may still be being created"));
            return -1;
        }
    } else if (STRNEQ_NULLABLE(virStorageVolGetKey(vol), volume->key) ||
               (volume->file && !ferryFileIsAt(volume->file, path))) {
        why = "it is another one by now";
    } else if (files && !volume->file) {
        why = "its inode is not known; delete it if nobody needs it";
    } else if (removal->late && !files && strstr(volume->key, volume->name)) {
        why = "its pool does not tell it from one that somebody has made since; delete it if nobody needs it";
    } else if (files && ferryFileIsLocked(path)) {
        why = "a process has it open as an image, here or on another host";
    } else if ((user = ferryVolumeFindUser(removal, volume, path))) {
        VIR_WARN("volume '%s' of pool '%s' is not deleted: '%s' names it", volume->name,
                 volume->pool, user);
        return 0;
    }

    if (why)
        VIR_WARN("volume '%s' of pool '%s' stays: %s", volume->name, volume->pool, why);
    else if (virStorageVolDelete(vol, /* flags= */ 0) < 0)
        return -1;
    else
        VIR_WARN("deleted volume '%s' of pool '%s'", volume->name, volume->pool);

    return 0;
}


/* Deletes @volume through its pool, if it still is the one that was created and no definition
 * names it. Returns 0 if nothing is left to do, also because it must stay; or -1 with an error
 * reported. The log says what was done. */
static int
ferryVolumeDelete(ferryVolumeRemoval *removal,
                  const ferryVolume *volume)
{
    g_autoptr(virConnect) conn = NULL;
    g_autoptr(virStoragePool) pool = NULL;
    g_autoptr(virStorageVol) vol = NULL;
    int rc = -1;

    if ((conn = virGetConnectStorage()) &&
        (pool = ferryPoolFind(conn, volume->pool)) &&
        (vol = virStorageVolLookupByName(pool, volume->name)))
        rc = ferryVolumeDeleteFrom(removal, volume, pool, vol);

    if (rc == 0 || virGetLastErrorCode() == VIR_ERR_NO_STORAGE_VOL)
        return 0;

    VIR_WARN("volume '%s' of pool '%s' stays: %s; delete it if nobody needs it",
             volume->name, volume->pool, virGetLastErrorMessage());

    /* a pool that was undefined does not come back by itself */
    return virGetLastErrorCode() == VIR_ERR_NO_STORAGE_POOL ? 0 : -1;
}


/**
 * ferryVolumeRemovalRun:
 * @opaque: a ferryVolumeRemoval
 *
 * Deletes the volumes. May wait for storage: for ferryLeftoverRun() and others that call it in
 * a thread of its own. Reports no error: see ferryVolumeRemovalFailure().
 */
void
ferryVolumeRemovalRun(void *opaque)
{
    ferryVolumeRemoval *removal = opaque;
    g_autoptr(virIdentity) identity = virIdentityGetSystem();
    size_t i;

    ignore_value(virIdentitySetCurrent(identity));

    for (i = 0; i < removal->volumes->len; i++) {
        ferryVolume *volume = g_ptr_array_index(removal->volumes, i);

        if (ferryVolumeDelete(removal, volume) < 0) {
            g_free(removal->failure);
            removal->failure = g_strdup_printf(_("volume '%1$s' of pool '%2$s' cannot be deleted: %3$s"),
                                               volume->name, volume->pool, virGetLastErrorMessage());
        }
        virResetLastError();
    }

    ignore_value(virIdentitySetCurrent(NULL));
}


/**
 * ferryVolumeRemovalFailure:
 * @removal: ferryVolumeRemovalRun() has returned
 *
 * Returns what could not be deleted, and why; NULL: nothing is left to do.
 */
const char *
ferryVolumeRemovalFailure(ferryVolumeRemoval *removal)
{
    return removal->failure;
}


/**
 * ferryVolumeRemovalAwait:
 * @vm: domain, locked, whose lock is released meanwhile; NULL: the caller holds no lock
 *
 * Deletes the volumes. Returns 0 if nothing is left to do; or -1, without an error reported, if
 * that failed or the storage driver did not answer in time: then that is done later. Keeps the
 * last error.
 */
int
ferryVolumeRemovalAwait(virDomainObj *vm,
                        ferryVolumeRemoval *removal)
{
    virErrorPtr err = NULL;
    bool done;

    virErrorPreserveLast(&err);
    if ((done = ferryBoundedRunUnlocked(vm, /* place= */ NULL, ferryVolumeRemovalRun,
                                        ferryVolumeRemovalRef(removal), ferryVolumeRemovalUnref,
                                        FERRY_VOLUME_REMOVAL_MS)))
        ferryVolumeRemovalUnref(removal);
    virErrorRestore(&err);

    return done && !removal->failure ? 0 : -1;
}
