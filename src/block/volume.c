/*
 * volume.c: volumes of storage pools
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Theory of operation
 *
 * Only the storage driver knows what a volume is, and only what it has created itself does it
 * know at once. It may be another process, and it may wait for storage that hangs. So it is
 * asked by a thread of its own (bounded.c), while no domain is locked. Errors and the identity
 * of the client belong to a thread: both are passed on.
 *
 * A volume that is created too late, when nobody waits for it any more, is deleted at once,
 * unless a definition names it by then.
 */

#include <config.h>

#include <fcntl.h>
#include <sys/stat.h>

#include "block/bounded.h"
#include "block/pool.h"
#include "block/volume.h"
#include "block/volume_delete.h"
#include "datatypes.h"
#include "driver.h"
#include "virerror.h"
#include "virfile.h"
#include "viridentity.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

/* Milliseconds. Creating a volume may take the tool of a volume manager some seconds. */
#define FERRY_VOLUME_ASK_MS (10 * 1000)
#define FERRY_VOLUME_CREATE_MS (30 * 1000)

/* A question to the storage driver. */
typedef struct {
    virStorageSource *src; /* a copy */
    virIdentity *identity; /* of the client; NULL: there is none */
    ferryVolumeSpec spec;
    int result; /* 1: yes; 0: there is no such volume; -1: error */
    virErrorPtr error;
    ferryVolume *made;           /* what was created; NULL: nothing */
    ferryVolumeRemoval *removal; /* of what is created too late; NULL: nothing is created */
} ferryVolumeCall;


static void
ferryVolumeCallFree(ferryVolumeCall *call)
{
    virObjectUnref(call->src);
    g_clear_object(&call->identity);
    virFreeError(call->error);
    ferryVolumeFree(call->made);
    ferryVolumeRemovalUnref(call->removal);
    g_free(call);
}


/* Frees a call whose caller has gone. */
static void
ferryVolumeCallDrop(void *opaque)
{
    ferryVolumeCall *call = opaque;

    if (call->made) {
        ferryVolumeRemovalAdd(call->removal, call->made);
        ferryVolumeRemovalRun(call->removal);
    }
    ferryVolumeCallFree(call);
}


/* Fills in the path that the missing volume call->src is going to have, if that is known. */
static int
ferryVolumeForetell(ferryVolumeCall *call,
                    virStoragePoolPtr pool)
{
    virStorageSource *src = call->src;
    bool files;

    if (ferryPoolPathOf(pool, src->srcpool->volume, &src->path, &files) < 0)
        return -1;

    src->srcpool->actualtype = files ? VIR_STORAGE_TYPE_FILE : VIR_STORAGE_TYPE_BLOCK;
    return 0;
}


/* Fills in the path of call->src. Returns 1; 0 if there is no such volume; -1 with an error
 * reported. */
static int
ferryVolumeTranslate(ferryVolumeCall *call,
                     virStoragePoolPtr pool)
{
    g_autoptr(virStorageVol) vol = virStorageVolLookupByName(pool, call->src->srcpool->volume);
    g_autoptr(virDomainDiskDef) disk = NULL;
    int rc;

    if (!vol && virGetLastErrorCode() == VIR_ERR_NO_STORAGE_VOL) {
        virResetLastError();
        return ferryVolumeForetell(call, pool);
    }

    if (!vol || !(disk = virDomainDiskDefNew(/* xmlopt= */ NULL)))
        return -1;

    virObjectUnref(disk->src);
    disk->src = virObjectRef(call->src);
    rc = virDomainDiskTranslateSourcePool(disk);

    return rc < 0 ? -1 : 1;
}


static char *
ferryVolumeXML(ferryVolumeCall *call,
               bool files)
{
    const ferryVolumeSpec *spec = &call->spec;
    g_auto(virBuffer) buf = VIR_BUFFER_INITIALIZER;
    bool qcow2 = spec->format == VIR_STORAGE_FILE_QCOW2;

    virBufferEscapeString(&buf, "<volume><name>%s</name>", call->src->srcpool->volume);
    virBufferAsprintf(&buf, "<capacity unit='bytes'>%llu</capacity>", spec->capacity);
    virBufferAsprintf(&buf, "<allocation unit='bytes'>%llu</allocation>", files ? 0 : spec->capacity);
    virBufferAddLit(&buf, "<target>");
    if (files)
        virBufferAsprintf(&buf, "<format type='%s'/>", virStorageFileFormatTypeToString(spec->format));
    if (files && qcow2) {
        virBufferAsprintf(&buf, "<compat>%s</compat>", spec->props.old ? "0.10" : "1.1");
        if (spec->props.clusterSize > 0)
            virBufferAsprintf(&buf, "<clusterSize unit='bytes'>%llu</clusterSize>",
                              spec->props.clusterSize);
        if (spec->props.lazy || spec->props.subclusters)
            virBufferAsprintf(&buf, "<features>%s%s</features>",
                              spec->props.lazy ? "<lazy_refcounts/>" : "",
                              spec->props.subclusters ? "<extended_l2/>" : "");
    }
    virBufferAddLit(&buf, "</target>");
    virBufferAddLit(&buf, "</volume>");

    return virBufferContentAndReset(&buf);
}


/* Returns a record of the file that @vol is, or NULL. */
static ferryFile *
ferryVolumeFile(virStorageVolPtr vol)
{
    g_autofree char *path = virStorageVolGetPath(vol);
    g_autoptr(ferryFile) file = ferryFileNew();
    /* root may not be allowed to read it */
    VIR_AUTOCLOSE fd = path ? open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC) : -1;
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || ferryFileLearn(file, fd) < 0)
        return NULL;

    return g_steal_pointer(&file);
}


/* Keeps the last error. */
static void
ferryVolumeDropNew(virStorageVolPtr vol)
{
    virErrorPtr err = NULL;

    virErrorPreserveLast(&err);
    ignore_value(virStorageVolDelete(vol, /* flags= */ 0));
    virErrorRestore(&err);
}


static int
ferryVolumeMake(ferryVolumeCall *call,
                virStoragePoolPtr pool)
{
    g_autoptr(virStorageVol) vol = NULL;
    g_autofree char *xml = NULL;
    g_autofree char *path = NULL;
    const char *key;
    bool files;

    if (ferryPoolHasFiles(pool, &files) < 0)
        return -1;

    if (!files && call->spec.format != VIR_STORAGE_FILE_RAW) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("a missing volume of pool '%1$s' can only be created for format 'raw', not '%2$s': "
                         "create volume '%3$s' with 'virsh vol-create'"),
                       call->src->srcpool->pool, virStorageFileFormatTypeToString(call->spec.format),
                       call->src->srcpool->volume);
        return -1;
    }

    xml = ferryVolumeXML(call, files);
    if (!(vol = virStorageVolCreateXML(pool, xml, /* flags= */ 0)))
        return -1;

    path = virStorageVolGetPath(vol);
    if (!path || !(key = virStorageVolGetKey(vol))) {
        ferryVolumeDropNew(vol);
        return -1;
    }

    if (call->src->path && STRNEQ(path, call->src->path)) {
        ferryVolumeDropNew(vol);
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("volume '%1$s' of pool '%2$s' was created at '%3$s', not '%4$s': create it with "
                         "'virsh vol-create'"),
                       call->src->srcpool->volume, call->src->srcpool->pool, path, call->src->path);
        return -1;
    }

    call->made = ferryVolumeNew(call->src->srcpool->pool, call->src->srcpool->volume);
    call->made->key = g_strdup(key);
    call->made->file = ferryVolumeFile(vol);
    return 1;
}


static void
ferryVolumeCallRun(ferryVolumeCall *call,
                   int (*ask)(ferryVolumeCall *call, virStoragePoolPtr pool))
{
    g_autoptr(virConnect) conn = NULL;
    g_autoptr(virStoragePool) pool = NULL;

    call->result = -1;

    if (virIdentitySetCurrent(call->identity) == 0 &&
        (conn = virGetConnectStorage()) &&
        (pool = ferryPoolFind(conn, call->src->srcpool->pool)))
        call->result = ask(call, pool);

    if (call->result < 0)
        call->error = virSaveLastError();
    ignore_value(virIdentitySetCurrent(NULL));
}


static void
ferryVolumeRunTranslate(void *opaque)
{
    ferryVolumeCallRun(opaque, ferryVolumeTranslate);
}


static void
ferryVolumeRunMake(void *opaque)
{
    ferryVolumeCallRun(opaque, ferryVolumeMake);
}


/* Asks the storage driver. Returns the finished call, or NULL with an error reported. The lock
 * of @vm is released meanwhile. */
static ferryVolumeCall *
ferryVolumeAsk(virDomainObj *vm,
               virStorageSource *src,
               const ferryVolumeSpec *spec)
{
    ferryVolumeCall *call = g_new0(ferryVolumeCall, 1);
    g_autofree char *pool = g_strdup(src->srcpool->pool);
    g_autofree char *volume = g_strdup(src->srcpool->volume);
    g_autofree char *place = g_strdup_printf("pool %s", pool);

    call->src = virStorageSourceCopy(src, /* backingChain= */ false);
    call->identity = virIdentityGetCurrent();
    if (spec) {
        call->spec = *spec;
        call->removal = ferryVolumeRemovalNew(QEMU_DOMAIN_PRIVATE(vm)->driver, /* own= */ NULL,
                                              /* wait= */ 0);
    }

    if (!call->src) {
        ferryVolumeCallFree(call);
        return NULL;
    }

    if (!ferryBoundedRunUnlocked(vm, place, spec ? ferryVolumeRunMake : ferryVolumeRunTranslate, call,
                                 ferryVolumeCallDrop,
                                 spec ? FERRY_VOLUME_CREATE_MS : FERRY_VOLUME_ASK_MS)) {
        virReportError(VIR_ERR_OPERATION_TIMEOUT,
                       _("the storage driver did not answer for volume '%1$s' of pool '%2$s' in time; "
                         "check the storage of the pool"),
                       volume, pool);
        return NULL;
    }

    if (call->result >= 0)
        return call;

    if (call->error)
        virSetError(call->error);
    else
        virReportError(VIR_ERR_OPERATION_FAILED, _("the storage driver cannot be asked for pool '%1$s'"),
                       pool);
    ferryVolumeCallFree(call);
    return NULL;
}


static bool
ferryVolumeIs(virStorageSource *src)
{
    return src->type == VIR_STORAGE_TYPE_VOLUME && src->srcpool;
}


/* Makes @src what its volume, which @found is, is for QEMU. */
static void
ferryVolumeTake(virStorageSource *src,
                virStorageSource *found)
{
    src->type = virStorageSourceGetActualType(found);

    g_free(src->path);
    src->path = g_steal_pointer(&found->path);
    src->protocol = found->protocol;
    virStorageNetHostDefFree(src->nhosts, src->hosts);
    src->nhosts = found->nhosts;
    src->hosts = g_steal_pointer(&found->hosts);
    found->nhosts = 0;
    virStorageAuthDefFree(src->auth);
    src->auth = g_steal_pointer(&found->auth);
    g_free(src->initiator.iqn);
    src->initiator.iqn = g_steal_pointer(&found->initiator.iqn);
}


/**
 * ferryVolumeResolve:
 * @vm: domain, locked, without a job; its lock is released meanwhile
 * @chain: target of a copy or store of a backup, with its backing images; not the domain's
 * @disk: the disk that it is for
 * @create: if the first image of @chain is a volume that is missing, it is going to be created:
 *          ferryVolumeTakeMissing() returns it
 *
 * Turns volumes in @chain into the files or devices that they are. That is what the journal and
 * the definitions name: no storage driver has to be asked when QEMU or a driver has ended.
 *
 * Returns 0, or -1 with an error reported, also if a volume is missing that is not going to be
 * created.
 */
int
ferryVolumeResolve(virDomainObj *vm,
                   virStorageSource *chain,
                   const char *disk,
                   bool create)
{
    virStorageSource *n;

    for (n = chain; virStorageSourceIsBacking(n); n = n->backingStore) {
        ferryVolumeCall *call;

        /* libvirt's parser lets a volume without pool and name pass */
        if (n->type == VIR_STORAGE_TYPE_VOLUME && !n->srcpool) {
            virReportError(VIR_ERR_XML_ERROR,
                           _("the volume for disk '%1$s' of domain '%2$s' lacks 'pool' or 'volume'"),
                           disk, vm->def->name);
            return -1;
        }

        if (!ferryVolumeIs(n))
            continue;

        if (!(call = ferryVolumeAsk(vm, n, /* spec= */ NULL)))
            return -1;

        if (call->result == 0 && (n != chain || !create || !call->src->path)) {
            virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                           _("disk '%1$s' of domain '%2$s' is to be written to volume '%3$s' of pool '%4$s', "
                             "which does not exist: create it with 'virsh vol-create-as', and use "
                             "--reuse-external"),
                           disk, vm->def->name, n->srcpool->volume, n->srcpool->pool);
            ferryVolumeCallFree(call);
            return -1;
        }

        ferryVolumeTake(n, call->src);
        if (call->result > 0)
            g_clear_pointer(&n->srcpool, virStorageSourcePoolDefFree);
        ferryVolumeCallFree(call);
    }

    return 0;
}


/**
 * ferryVolumeTakeMissing:
 * @src: after ferryVolumeResolve()
 *
 * Returns the volume that is to be created for @src, once, for the caller to free; NULL: none.
 */
ferryVolume *
ferryVolumeTakeMissing(virStorageSource *src)
{
    ferryVolume *volume = src->srcpool ? ferryVolumeNew(src->srcpool->pool, src->srcpool->volume) : NULL;

    g_clear_pointer(&src->srcpool, virStorageSourcePoolDefFree);
    return volume;
}


/**
 * ferryVolumeExists:
 * @vm: domain, locked; its lock is released meanwhile
 *
 * Returns 1 if there is the volume @src, 0 if not, or -1 with an error reported.
 */
int
ferryVolumeExists(virDomainObj *vm,
                  virStorageSource *src)
{
    ferryVolumeCall *call = ferryVolumeAsk(vm, src, /* spec= */ NULL);
    int rc = call ? call->result : -1;

    if (call)
        ferryVolumeCallFree(call);
    return rc;
}


/**
 * ferryVolumeCreate:
 * @vm: domain, locked; its lock is released meanwhile
 * @path: where it must be; NULL: anywhere
 *
 * Creates volume @name through its pool. Fails if there is one of that name. Returns a record of it,
 * which the caller frees, or NULL with an error reported. After VIR_ERR_OPERATION_TIMEOUT it may
 * still be created; then it is deleted at once.
 */
ferryVolume *
ferryVolumeCreate(virDomainObj *vm,
                  const char *pool,
                  const char *name,
                  const char *path,
                  const ferryVolumeSpec *spec)
{
    g_autoptr(virStorageSource) src = virStorageSourceNew();
    ferryVolumeCall *call;
    ferryVolume *made = NULL;

    src->type = VIR_STORAGE_TYPE_VOLUME;
    src->srcpool = g_new0(virStorageSourcePoolDef, 1);
    src->srcpool->pool = g_strdup(pool);
    src->srcpool->volume = g_strdup(name);
    src->path = g_strdup(path);
    call = ferryVolumeAsk(vm, src, spec);

    if (call) {
        made = g_steal_pointer(&call->made);
        ferryVolumeCallFree(call);
    }

    return made;
}
