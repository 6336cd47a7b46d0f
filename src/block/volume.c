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
 * A volume that is created too late, when nobody waits for it any more, is deleted at once.
 */

#include <config.h>

#include <fcntl.h>
#include <sys/stat.h>

#include "block/bounded.h"
#include "block/volume.h"
#include "conf/storage_conf.h"
#include "datatypes.h"
#include "driver.h"
#include "virerror.h"
#include "virfile.h"
#include "viridentity.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.volume");

/* Milliseconds. Creating a volume may take the tool of a volume manager some seconds. */
#define FERRY_VOLUME_ASK_MS (10 * 1000)
#define FERRY_VOLUME_CREATE_MS (30 * 1000)

/* A question to the storage driver. */
typedef struct {
    virStorageSource *src; /* a copy */
    virIdentity *identity; /* of the client; NULL: there is none */
    ferryVolumeSpec spec;
    char *backing;         /* spec.backing points to it */
    int result;            /* 1: yes; 0: there is no such volume; -1: error */
    virErrorPtr error;
    ferryVolume *made;     /* what was created; NULL: nothing */
} ferryVolumeCall;


static void
ferryVolumeCallFree(ferryVolumeCall *call)
{
    virObjectUnref(call->src);
    g_clear_object(&call->identity);
    g_free(call->backing);
    virFreeError(call->error);
    ferryVolumeFree(call->made);
    g_free(call);
}


/* Frees a call whose caller has gone. */
static void
ferryVolumeCallDrop(void *opaque)
{
    ferryVolumeCall *call = opaque;

    if (call->made)
        ferryVolumeDelete(call->made);
    ferryVolumeCallFree(call);
}


static virStoragePoolPtr
ferryVolumePool(virConnectPtr conn,
                const char *name)
{
    g_autoptr(virStoragePool) pool = virStoragePoolLookupByName(conn, name);

    if (!pool)
        return NULL;

    if (virStoragePoolIsActive(pool) != 1) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("storage pool '%1$s' is not active: start it with 'virsh pool-start'"), name);
        return NULL;
    }

    return g_steal_pointer(&pool);
}


/* Fills in the path of call->src, if there is such a volume. */
static int
ferryVolumeTranslate(ferryVolumeCall *call,
                     virStoragePoolPtr pool)
{
    g_autoptr(virStorageVol) vol = virStorageVolLookupByName(pool, call->src->srcpool->volume);
    g_autoptr(virDomainDiskDef) disk = NULL;
    int rc;

    if (!vol && virGetLastErrorCode() == VIR_ERR_NO_STORAGE_VOL) {
        virResetLastError();
        return 0;
    }

    if (!vol || !(disk = virDomainDiskDefNew(/* xmlopt= */ NULL)))
        return -1;

    virObjectUnref(disk->src);
    disk->src = virObjectRef(call->src);
    rc = virDomainDiskTranslateSourcePool(disk);

    return rc < 0 ? -1 : 1;
}


/* Returns whether the volumes of the pool are files, which may have holes. For volume managers
 * a volume that is not fully allocated is a snapshot. */
static int
ferryVolumeAreFiles(virStoragePoolPtr pool,
                    bool *files)
{
    g_autofree char *xml = virStoragePoolGetXMLDesc(pool, /* flags= */ 0);
    g_autoptr(virStoragePoolDef) def = NULL;

    if (!xml || !(def = virStoragePoolDefParse(xml, /* filename= */ NULL, /* flags= */ 0)))
        return -1;

    *files = def->type == VIR_STORAGE_POOL_DIR || def->type == VIR_STORAGE_POOL_FS ||
             def->type == VIR_STORAGE_POOL_NETFS || def->type == VIR_STORAGE_POOL_VSTORAGE;
    return 0;
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
    if (files && spec->backing) {
        virBufferEscapeString(&buf, "<backingStore><path>%s</path>", spec->backing);
        virBufferAsprintf(&buf, "<format type='%s'/></backingStore>",
                          virStorageFileFormatTypeToString(spec->backingFormat));
    }
    virBufferAddLit(&buf, "</volume>");

    return virBufferContentAndReset(&buf);
}


/* Returns a record of the file that @vol is, or NULL. */
static ferryFile *
ferryVolumeFile(virStorageVolPtr vol)
{
    g_autofree char *path = virStorageVolGetPath(vol);
    g_autoptr(ferryFile) file = ferryFileNew();
    VIR_AUTOCLOSE fd = path ? ferryFileOpen(path, O_RDONLY | O_NOFOLLOW) : -1;
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || ferryFileLearn(file, fd) < 0)
        return NULL;

    return g_steal_pointer(&file);
}


static int
ferryVolumeMake(ferryVolumeCall *call,
                virStoragePoolPtr pool)
{
    g_autoptr(virStorageVol) vol = NULL;
    g_autofree char *xml = NULL;
    const char *key;
    bool files;

    if (ferryVolumeAreFiles(pool, &files) < 0)
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

    if (!(key = virStorageVolGetKey(vol))) {
        ignore_value(virStorageVolDelete(vol, /* flags= */ 0));
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
        (pool = ferryVolumePool(conn, call->src->srcpool->pool)))
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
 * of @vm, which may be NULL, is released meanwhile. */
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
        call->backing = g_strdup(spec->backing);
        call->spec.backing = call->backing;
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
                         "check the storage of the pool"), volume, pool);
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
    g_clear_pointer(&src->srcpool, virStorageSourcePoolDefFree);

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
 *
 * Turns volumes in @chain into the files or devices that they are. That is what the journal and
 * the definitions name: no storage driver has to be asked when QEMU or a driver has ended.
 *
 * Returns 0, or -1 with an error reported, also if there is no such volume.
 */
int
ferryVolumeResolve(virDomainObj *vm,
                   virStorageSource *chain,
                   const char *disk)
{
    virStorageSource *n;

    for (n = chain; virStorageSourceIsBacking(n); n = n->backingStore) {
        ferryVolumeCall *call;

        /* libvirt's parser lets a volume without pool and name pass */
        if (n->type == VIR_STORAGE_TYPE_VOLUME && !n->srcpool) {
            virReportError(VIR_ERR_XML_ERROR,
                           _("the volume for disk '%1$s' of domain '%2$s' has no 'pool' and 'volume'"),
                           disk, vm->def->name);
            return -1;
        }

        if (!ferryVolumeIs(n))
            continue;

        if (!(call = ferryVolumeAsk(vm, n, /* spec= */ NULL)))
            return -1;

        if (call->result == 0) {
            virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                           _("disk '%1$s' of domain '%2$s' is to be written to volume '%3$s' of pool '%4$s', "
                             "which does not exist: create it with 'virsh vol-create-as', and use "
                             "--reuse-external"),
                           disk, vm->def->name, n->srcpool->volume, n->srcpool->pool);
            ferryVolumeCallFree(call);
            return -1;
        }

        ferryVolumeTake(n, call->src);
        ferryVolumeCallFree(call);
    }

    return 0;
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
 * @src: a volume, by pool and name
 * @volume: its key and file are filled in
 *
 * Creates a volume through its pool. Fails if there is one of that name. Returns 0, or -1 with
 * an error reported.
 */
int
ferryVolumeCreate(virDomainObj *vm,
                  virStorageSource *src,
                  const ferryVolumeSpec *spec,
                  ferryVolume *volume)
{
    ferryVolumeCall *call = ferryVolumeAsk(vm, src, spec);

    if (!call)
        return -1;

    volume->key = g_steal_pointer(&call->made->key);
    volume->file = g_steal_pointer(&call->made->file);
    ferryVolumeCallFree(call);
    return 0;
}


/* Returns whether @vol still is @volume. */
static bool
ferryVolumeIsSame(const ferryVolume *volume,
                  virStorageVolPtr vol)
{
    g_autofree char *path = virStorageVolGetPath(vol);

    return STREQ_NULLABLE(virStorageVolGetKey(vol), volume->key) &&
           (!volume->file || (path && ferryFileIsAt(volume->file, path)));
}


/**
 * ferryVolumeDelete:
 *
 * Deletes @volume through its pool, if it still is the one that was created. May wait for
 * storage. Reports no error; the log says what was done.
 */
void
ferryVolumeDelete(const ferryVolume *volume)
{
    g_autoptr(virIdentity) identity = virIdentityGetSystem();
    g_autoptr(virConnect) conn = NULL;
    g_autoptr(virStoragePool) pool = NULL;
    g_autoptr(virStorageVol) vol = NULL;

    ignore_value(virIdentitySetCurrent(identity));

    if (!(conn = virGetConnectStorage()) ||
        !(pool = ferryVolumePool(conn, volume->pool)) ||
        !(vol = virStorageVolLookupByName(pool, volume->name))) {
        if (virGetLastErrorCode() != VIR_ERR_NO_STORAGE_VOL)
            VIR_WARN("volume '%s' of pool '%s' stays: %s; delete it if nobody needs it",
                     volume->name, volume->pool, virGetLastErrorMessage());
    } else if (!ferryVolumeIsSame(volume, vol)) {
        VIR_WARN("volume '%s' of pool '%s' stays: %s", volume->name, volume->pool,
                 volume->key ? "it is another one by now" :
                               "the journal does not say whether Ferry made it; delete it if nobody needs it");
    } else if (virStorageVolDelete(vol, /* flags= */ 0) < 0) {
        VIR_WARN("volume '%s' of pool '%s' cannot be deleted: %s", volume->name, volume->pool,
                 virGetLastErrorMessage());
    } else {
        VIR_WARN("deleted volume '%s' of pool '%s'", volume->name, volume->pool);
    }

    virResetLastError();
    ignore_value(virIdentitySetCurrent(NULL));
}


/**
 * ferryVolumeDeleteList:
 * @opaque: a GPtrArray of ferryVolume
 *
 * Like ferryVolumeDelete(), for ferryLeftoverRun() and others that call it in a thread of its
 * own.
 */
void
ferryVolumeDeleteList(void *opaque)
{
    GPtrArray *volumes = opaque;
    size_t i;

    for (i = 0; i < volumes->len; i++)
        ferryVolumeDelete(g_ptr_array_index(volumes, i));
}


/**
 * ferryVolumeDeleteAll:
 * @vm: domain, locked, whose lock is released meanwhile; or NULL
 * @volumes: of ferryVolume; taken over
 *
 * Deletes volumes. If the storage driver does not answer in time, that is done later. Keeps the
 * last error.
 */
void
ferryVolumeDeleteAll(virDomainObj *vm,
                     GPtrArray *volumes)
{
    virErrorPtr err = NULL;

    if (volumes->len == 0) {
        g_ptr_array_unref(volumes);
        return;
    }

    virErrorPreserveLast(&err);
    if (ferryBoundedRunUnlocked(vm, /* place= */ NULL, ferryVolumeDeleteList, volumes,
                                (GDestroyNotify) g_ptr_array_unref, FERRY_VOLUME_CREATE_MS))
        g_ptr_array_unref(volumes);
    virErrorRestore(&err);
}
