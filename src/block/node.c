/*
 * node.c: QEMU's block nodes of one image
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * An image is two nodes: storage (the file, device or connection) and format
 * (raw, qcow2, ...), with a third between them for a slice. An image that is
 * still to be formatted has only the first for a while.
 */

#include <config.h>

#include <sys/stat.h>

#include "block/node.h"
#include "block/qmp.h"
#include "qemu/qemu_block.h"
#include "qemu/qemu_blockjob.h"
#include "qemu/qemu_command.h"
#include "qemu/qemu_monitor.h"
#include "virerror.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

/* That direct I/O may need, in bytes. */
#define FERRY_SECTOR_MAX 4096

VIR_LOG_INIT("ferry.node");


/* QEMU up to 7.2 dies when it is asked for its nodes between the end of a stream
 * job and its dismissal: the job's filter is a node without a child then. The
 * stock driver dismisses its jobs in a worker that waits for the domain's job,
 * which we hold. */
static void
ferryNodeSettleStreams(virDomainObj *vm)
{
    size_t i;

    for (i = 0; i < vm->def->ndisks; i++) {
        qemuBlockJobData *job = QEMU_DOMAIN_DISK_PRIVATE(vm->def->disks[i])->blockjob;
        g_autoptr(virJSONValue) reply = NULL;

        if (!job || job->type != QEMU_BLOCKJOB_TYPE_PULL)
            continue;

        /* the events of what has happened come before the reply to anything */
        virObjectRef(job);
        if (ferryQMP(vm, "query-jobs", NULL, &reply) == 0 &&
            job->newstate == QEMU_BLOCKJOB_STATE_CONCLUDED)
            qemuBlockJobUpdate(vm, job, VIR_ASYNC_JOB_NONE);
        virObjectUnref(job);
    }
}


/**
 * ferryNodeData:
 *
 * Asks QEMU what it knows of its nodes. Domain locked, modify job held.
 *
 * Returns a table of qemuBlockNamedNodeData by node name, or NULL with an error
 * reported.
 */
GHashTable *
ferryNodeData(virDomainObj *vm)
{
    ferryNodeSettleStreams(vm);

    return qemuBlockGetNamedNodeData(vm, VIR_ASYNC_JOB_NONE);
}


static int
ferryNodeApply(virDomainObj *vm,
               qemuBlockStorageSourceAttachData *data)
{
    int rc;

    qemuDomainObjEnterMonitor(vm);
    if ((rc = qemuBlockStorageSourceAttachApply(qemuDomainGetMonitor(vm), data)) < 0)
        qemuBlockStorageSourceAttachRollback(qemuDomainGetMonitor(vm), data);
    qemuDomainObjExitMonitor(vm);

    return rc;
}


/**
 * ferryNodeAddStorage:
 *
 * Adds the secrets and the storage node of @src. Domain locked, job held.
 * Returns 0, or -1 with an error reported and nothing added.
 */
int
ferryNodeAddStorage(virDomainObj *vm,
                    virStorageSource *src)
{
    g_autoptr(qemuBlockStorageSourceChainData) data = NULL;

    if (!(data = qemuBuildStorageSourceChainAttachPrepareBlockdevTop(src, NULL)))
        return -1;

    g_clear_pointer(&data->srcdata[0]->formatProps, virJSONValueFree);

    return ferryNodeApply(vm, data->srcdata[0]);
}


/**
 * ferryNodeAddNBD:
 *
 * Adds the storage node of @src, a remote export where zeroes may become holes. When
 * its connection is reset requests fail, and each new one connects again: one that
 * waited for that in QEMU would hold up whatever drains the node, the guest with it.
 * Domain locked, job held.
 * Returns 0, or -1 with an error reported and nothing added.
 */
int
ferryNodeAddNBD(virDomainObj *vm,
                virStorageSource *src)
{
    g_autoptr(qemuBlockStorageSourceAttachData) data = NULL;

    if (!(data = qemuBlockStorageSourceAttachPrepareBlockdev(src, NULL, false)))
        return -1;

    g_clear_pointer(&data->formatProps, virJSONValueFree);

    return ferryNodeApply(vm, data);
}


/* A node that stays would keep its image locked: QEMU is told again when it did
 * not do it, which it also says when there is no such node. */
static void
ferryNodeDelete(virDomainObj *vm,
                const char *node)
{
    qemuDomainObjEnterMonitor(vm);
    if (qemuMonitorBlockdevDel(qemuDomainGetMonitor(vm), node) < 0)
        ignore_value(qemuMonitorBlockdevDel(qemuDomainGetMonitor(vm), node));
    qemuDomainObjExitMonitor(vm);

    virResetLastError();
}


/**
 * ferryNodeRemoveStorage:
 *
 * Removes the storage node of @src, if it exists and is all there is of it.
 * Reports no error.
 */
void
ferryNodeRemoveStorage(virDomainObj *vm,
                       virStorageSource *src)
{
    ferryNodeDelete(vm, src->nodestorage);
}


/**
 * ferryNodeAddFormat:
 * @backing: image whose nodes are used as backing file; NULL for what the
 *           image itself says, a terminator for none
 *
 * Adds the format node of @src on top of its storage node.
 */
int
ferryNodeAddFormat(virDomainObj *vm,
                   virStorageSource *src,
                   virStorageSource *backing)
{
    g_autoptr(qemuBlockStorageSourceAttachData) data = NULL;

    if (!(data = qemuBlockStorageSourceAttachPrepareBlockdev(src, backing, true)))
        return -1;

    g_clear_pointer(&data->storageProps, virJSONValueFree);
    g_clear_pointer(&data->storageSliceProps, virJSONValueFree);

    return ferryNodeApply(vm, data);
}


/**
 * ferryNodeInlineStorage:
 * @format: options of the format of @src, which name its storage node
 *
 * Puts the options of the storage node in the place of its name: both are
 * created and go away together, and one command does for two.
 */
int
ferryNodeInlineStorage(virStorageSource *src,
                       virJSONValue *format)
{
    g_autoptr(qemuBlockStorageSourceAttachData) data = NULL;

    if (!(data = qemuBlockStorageSourceAttachPrepareBlockdev(src, NULL, true)) ||
        virJSONValueObjectRemoveKey(format, "file", NULL) < 0)
        return -1;

    return virJSONValueObjectAppend(format, "file", &data->storageProps);
}


/* QEMU takes 5 us to read a byte of a command: what goes without saying is left
 * out. */
static int
ferryNodeOmit(virJSONValue *props,
              const char *option,
              bool value)
{
    bool is;

    if (virJSONValueObjectGetBoolean(props, option, &is) < 0 || is != value)
        return 0;

    return virJSONValueObjectRemoveKey(props, option, NULL) < 0 ? -1 : 0;
}


/**
 * ferryNodeAddPlain:
 *
 * Adds the nodes of @src, an image to write to of which ferryImageIsPlain() is
 * true, at once.
 */
int
ferryNodeAddPlain(virDomainObj *vm,
                  virStorageSource *src,
                  virStorageSource *backing)
{
    g_autoptr(qemuBlockStorageSourceAttachData) data = NULL;
    virJSONValue *cache;
    virJSONValue *file;

    if (!(data = qemuBlockStorageSourceAttachPrepareBlockdev(src, backing, true)) ||
        ferryNodeInlineStorage(src, data->formatProps) < 0)
        return -1;

    cache = virJSONValueObjectGetObject(data->formatProps, "cache");
    file = virJSONValueObjectGetObject(data->formatProps, "file");

    /* what is defined within a node inherits its cache mode */
    if (virJSONValueObjectRemoveKey(file, "cache", NULL) < 0 ||
        (cache && ferryNodeOmit(cache, "no-flush", false) < 0) ||
        ferryNodeOmit(data->formatProps, "read-only", false) < 0 ||
        ferryNodeOmit(file, "auto-read-only", true) < 0)
        return -1;

    g_clear_pointer(&data->storageProps, virJSONValueFree);

    return ferryNodeApply(vm, data);
}


/**
 * ferryNodeRemovePlain:
 *
 * Takes back ferryNodeAddPlain(). Reports no error.
 */
void
ferryNodeRemovePlain(virDomainObj *vm,
                     virStorageSource *src)
{
    ferryNodeDelete(vm, src->nodeformat);
}


/**
 * ferryNodeAddChain:
 *
 * Adds all nodes of @chain, lowest image first. Nodes may be left on failure:
 * ferryNodeRemove() takes them away.
 */
int
ferryNodeAddChain(virDomainObj *vm,
                  virStorageSource *chain)
{
    g_autoptr(qemuBlockStorageSourceChainData) data = NULL;
    int rc;

    if (!(data = qemuBuildStorageSourceChainAttachPrepareBlockdev(chain)))
        return -1;

    qemuDomainObjEnterMonitor(vm);
    rc = qemuBlockStorageSourceChainAttach(qemuDomainGetMonitor(vm), data);
    qemuDomainObjExitMonitor(vm);

    return rc;
}


static bool
ferryNodeAnyLeft(virDomainObj *vm,
                 virStorageSource *chain)
{
    g_autoptr(GHashTable) nodes = NULL;
    virErrorPtr err = NULL;
    virStorageSource *n;

    virErrorPreserveLast(&err);
    nodes = ferryNodeData(vm);
    virResetLastError();
    virErrorRestore(&err);

    for (n = chain; nodes && virStorageSourceIsBacking(n); n = n->backingStore) {
        if (g_hash_table_contains(nodes, n->nodeformat) ||
            g_hash_table_contains(nodes, n->nodestorage))
            return true;
    }

    return false;
}


/**
 * ferryNodeRemove:
 *
 * Removes the nodes and secrets of @chain as far as they exist. Keeps the
 * last error.
 */
void
ferryNodeRemove(virDomainObj *vm,
                virStorageSource *chain)
{
    g_autoptr(qemuBlockStorageSourceChainData) data = NULL;
    bool again = false;

    if (!(data = qemuBlockStorageSourceChainDetachPrepareBlockdev(chain)))
        return;

    do {
        qemuDomainObjEnterMonitor(vm);
        qemuBlockStorageSourceChainDetach(qemuDomainGetMonitor(vm), data);
        qemuDomainObjExitMonitor(vm);

        /* libvirt does not say whether QEMU did it: told again, as above */
        again = !again && ferryNodeAnyLeft(vm, chain);
    } while (again);
}


static int
ferryNodeReopenProps(virDomainObj *vm,
                     virStorageSource *src,
                     virStorageSource *backing,
                     bool storageOnly)
{
    g_autoptr(qemuBlockStorageSourceAttachData) data = NULL;
    g_autoptr(virJSONValue) options = virJSONValueNewArray();
    g_autoptr(virJSONValue) args = NULL;
    int rc;

    if (!(data = qemuBlockStorageSourceAttachPrepareBlockdev(src, backing, true)))
        return -1;

    if (virJSONValueArrayAppend(options, &data->storageProps) < 0)
        return -1;

    if (!storageOnly) {
        if (data->storageSliceProps &&
            virJSONValueArrayAppend(options, &data->storageSliceProps) < 0)
            return -1;
        if (virJSONValueArrayAppend(options, &data->formatProps) < 0)
            return -1;
    }

    if (virJSONValueObjectAdd(&args, "a:options", &options, NULL) < 0)
        return -1;

    qemuDomainObjEnterMonitor(vm);
    rc = qemuMonitorBlockdevReopen(qemuDomainGetMonitor(vm), &args);
    qemuDomainObjExitMonitor(vm);

    return rc;
}


/**
 * ferryNodeReopen:
 *
 * Gives the nodes of @src, all in one command, the options that @src says
 * now. QEMU flushes the image while it does so.
 */
int
ferryNodeReopen(virDomainObj *vm,
                virStorageSource *src,
                virStorageSource *backing)
{
    return ferryNodeReopenProps(vm, src, backing, false);
}


/**
 * ferryNodeReopenStorage:
 *
 * The same for the storage node alone: enough for the cache mode, and leaves
 * the format driver's caches in peace.
 */
int
ferryNodeReopenStorage(virDomainObj *vm,
                       virStorageSource *src)
{
    return ferryNodeReopenProps(vm, src, NULL, true);
}


/**
 * ferryNodeCapacities:
 * @source: node name
 * @target: node name
 * @sizes: set to the sizes in bytes that they show, source first
 *
 * Returns 0, or -1 with an error reported.
 */
int
ferryNodeCapacities(virDomainObj *vm,
                    const char *source,
                    const char *target,
                    unsigned long long sizes[2])
{
    g_autoptr(GHashTable) nodes = ferryNodeData(vm);
    const char *names[] = { source, target };
    size_t i;

    if (!nodes)
        return -1;

    for (i = 0; i < G_N_ELEMENTS(names); i++) {
        qemuBlockNamedNodeData *data = g_hash_table_lookup(nodes, names[i]);

        if (!data) {
            virReportError(VIR_ERR_INTERNAL_ERROR, _("QEMU knows no block node '%1$s'"), names[i]);
            return -1;
        }

        sizes[i] = data->capacity;
    }

    return 0;
}


/**
 * ferryNodeIsDirect:
 *
 * Returns true when the cache mode of @src makes QEMU bypass the host's page
 * cache.
 */
bool
ferryNodeIsDirect(virStorageSource *src)
{
    bool direct = false;

    return src->cachemode != VIR_DOMAIN_DISK_CACHE_DEFAULT &&
           qemuDomainDiskCachemodeFlags(src->cachemode, NULL, &direct, NULL) == 0 && direct;
}


/**
 * ferryNodeMayBypassCache:
 *
 * Returns true when it makes sense to open @src with direct I/O although its cache
 * mode does not ask for that. Direct I/O is done in whole sectors, which may be of 4
 * KiB: QEMU lets nobody write to an image that does not end with one, unless it may
 * grow it, as its formats do and raw does not.
 */
bool
ferryNodeMayBypassCache(virStorageSource *src)
{
    struct stat st;

    if (!virStorageSourceIsLocalStorage(src) || virStorageSourceIsFD(src) || ferryNodeIsDirect(src))
        return false;

    return src->format != VIR_STORAGE_FILE_RAW || stat(src->path, &st) < 0 ||
           !S_ISREG(st.st_mode) || st.st_size % FERRY_SECTOR_MAX == 0;
}


/**
 * ferryNodeBypassCache:
 * @disk: disk that @src is an image of, or will be
 * @direct: bypass the page cache; or be as @disk says
 *
 * Changes the cache mode of @src, which QEMU has only just opened, for a while, where
 * that makes sense and the storage can. Reports no error. Returns true when QEMU
 * bypasses the page cache now.
 */
bool
ferryNodeBypassCache(virDomainObj *vm,
                     virDomainDiskDef *disk,
                     virStorageSource *src,
                     bool direct)
{
    int rc;

    /* a reconnecting driver does not fill these in */
    src->cachemode = disk->cachemode;
    src->iomode = disk->iomode;

    if (!ferryNodeMayBypassCache(src))
        return ferryNodeIsDirect(src);

    if (direct)
        src->cachemode = VIR_DOMAIN_DISK_CACHE_DISABLE;

    /* not every file system can bypass it; all can go back */
    if ((rc = ferryNodeReopenStorage(vm, src)) < 0 &&
        (direct || ferryNodeReopenStorage(vm, src) < 0)) {
        VIR_INFO("'%s' keeps its cache mode: %s", src->path, virGetLastErrorMessage());
    }
    virResetLastError();

    src->cachemode = disk->cachemode;
    return direct && rc == 0;
}


/* QEMU remembers, to the byte, where data end in a file that it has had open for
 * a while, and ends itself when that is not the end of a sector as direct I/O has
 * them. File systems and raw images have blocks of that size; what a format puts
 * down at the end of a file has any. It remembers nothing of devices. */
static bool
ferryNodeMayReadDirect(virStorageSource *src)
{
    struct stat st;

    if (!ferryNodeMayBypassCache(src))
        return false;

    if (virStorageSourceIsBlockLocal(src))
        return true;

    return src->format == VIR_STORAGE_FILE_RAW &&
           (stat(src->path, &st) < 0 || st.st_blksize % FERRY_SECTOR_MAX == 0);
}


/**
 * ferryNodeReadDirect:
 * @disk: of a guest that runs
 * @shallow: its top image only, not those below
 * @direct: bypass the page cache; or be as @disk says
 *
 * Like ferryNodeBypassCache() for the images of @disk, which are going to be read
 * as a whole.
 */
void
ferryNodeReadDirect(virDomainObj *vm,
                    virDomainDiskDef *disk,
                    bool shallow,
                    bool direct)
{
    virStorageSource *n;

    for (n = disk->src; virStorageSourceIsBacking(n); n = shallow ? NULL : n->backingStore) {
        if (!direct || ferryNodeMayReadDirect(n))
            ferryNodeBypassCache(vm, disk, n, direct);
    }
}
