/*
 * node.c: QEMU's block nodes of one image
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * An image has two nodes: storage (file, device, connection) and format (raw, qcow2, ...).
 * A slice has a third between them. An unformatted image has at most a storage node. Newer libvirt
 * gives a raw image of the guest no format node; those that Ferry adds always have one.
 */

#include <config.h>

#include "block/identity.h"
#include "block/node.h"
#include "block/nodename.h"
#include "block/qmp.h"
#include "compat/block.h"
#include "qemu/qemu_blockjob.h"
#include "qemu/qemu_command.h"
#include "qemu/qemu_monitor.h"
#include "virerror.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.node");


/**
 * ferryNodePrepare:
 * @disk: of @src, or NULL
 *
 * Prepares @src for a storage and a format node in QEMU, and names them. Domain locked, job held.
 * Returns 0, or -1 with an error reported.
 */
int
ferryNodePrepare(virDomainObj *vm,
                 virDomainDiskDef *disk,
                 virStorageSource *src,
                 virQEMUDriverConfig *cfg)
{
    /* else libvirt takes an encrypted raw image for one that needs no format node */
    if (src->encryption && src->encryption->engine == VIR_STORAGE_ENCRYPTION_ENGINE_DEFAULT)
        src->encryption->engine = VIR_STORAGE_ENCRYPTION_ENGINE_QEMU;

    if (qemuDomainPrepareStorageSourceBlockdev(disk, src, vm->privateData, cfg) < 0)
        return -1;

    if (!qemuBlockStorageSourceGetFormatNodename(src))
        qemuBlockStorageSourceSetFormatNodename(src, g_strdup_printf("libvirt-%u-format", src->id));
    return 0;
}


/* Dismisses ended stream jobs. Between the end of such a job and its dismissal the job's
 * filter is a node without a child, and QEMU up to 7.2 crashes when asked for its nodes
 * then. The stock driver dismisses its jobs in a worker, which waits for the domain's job
 * that our caller holds. */
static void
ferryNodeSettleStreams(virDomainObj *vm)
{
    size_t i;

    for (i = 0; i < vm->def->ndisks; i++) {
        qemuBlockJobData *job = QEMU_DOMAIN_DISK_PRIVATE(vm->def->disks[i])->blockjob;
        g_autoptr(virJSONValue) reply = NULL;

        if (!job || job->type != QEMU_BLOCKJOB_TYPE_PULL)
            continue;

        /* QEMU sends events in order: with this reply, job->newstate is up to date. */
        virObjectRef(job);
        if (ferryQMP(vm, "query-jobs", /* args= */ NULL, &reply) == 0 &&
            job->newstate == QEMU_BLOCKJOB_STATE_CONCLUDED)
            qemuBlockJobUpdate(vm, job, VIR_ASYNC_JOB_NONE);
        virObjectUnref(job);
    }
}


/**
 * ferryNodeData:
 *
 * Asks QEMU for all its block nodes. Domain locked, modify job held.
 * Returns a table of qemuBlockNamedNodeData by node name, or NULL with an error reported.
 */
GHashTable *
ferryNodeData(virDomainObj *vm)
{
    ferryNodeSettleStreams(vm);

    return qemuBlockGetNamedNodeData(vm, VIR_ASYNC_JOB_NONE);
}


/**
 * ferryNodeList:
 *
 * Like ferryNodeData(), but returns QEMU's answer, which says more than libvirt's table.
 */
virJSONValue *
ferryNodeList(virDomainObj *vm)
{
    g_autoptr(virJSONValue) args = NULL;
    virJSONValue *nodes = NULL;

    ferryNodeSettleStreams(vm);

    if (virJSONValueObjectAdd(&args, "b:flat", true, NULL) < 0 ||
        ferryQMP(vm, "query-named-block-nodes", &args, &nodes) < 0)
        return NULL;

    return nodes;
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


/* Leaves out @option if its value is @value. */
static int
ferryNodeOmit(virJSONValue *props,
              const char *option,
              bool value)
{
    bool is;

    if (virJSONValueObjectGetBoolean(props, option, &is) < 0 || is != value)
        return 0;

    return virJSONValueObjectRemoveKey(props, option, /* value= */ NULL) < 0 ? -1 : 0;
}


/* Makes a storage node, @props, keep the right with which it is opened, whatever its users do. */
static int
ferryNodeStay(virJSONValue *props,
              virStorageSource *src)
{
    if (ferryNodeOmit(props, "auto-read-only", true) < 0)
        return -1;

    return src->readonly && !virJSONValueObjectHasKey(props, "read-only") ?
               virJSONValueObjectAppendBoolean(props, "read-only", true) :
               0;
}


/**
 * ferryNodeAddStorage:
 *
 * Adds the secrets and the storage node of @src, an image to write to. With "auto-read-only",
 * which libvirt sets, QEMU would open the file again, by its name, whenever a job lets go of
 * the right to write or takes it: at the end of a mirror QEMU aborts if it cannot, because
 * the name leads elsewhere by now. Domain locked, job held.
 * Returns 0, or -1 with an error reported and nothing added.
 */
int
ferryNodeAddStorage(virDomainObj *vm,
                    virStorageSource *src)
{
    g_autoptr(qemuBlockStorageSourceChainData) data = NULL;

    if (!(data = qemuBuildStorageSourceChainAttachPrepareBlockdevTop(src,
                                                                     /* backingStore= */ NULL)) ||
        ferryNodeStay(data->srcdata[0]->storageProps, src) < 0)
        return -1;

    g_clear_pointer(&data->srcdata[0]->formatProps, virJSONValueFree);

    return ferryNodeApply(vm, data->srcdata[0]);
}


/**
 * ferryNodeAddNBD:
 *
 * Adds the storage node of @src, a remote export where zeroes may become holes. When its
 * connection is reset, requests fail, and each new one connects again. If requests waited
 * in QEMU for a connection, they would block whatever drains the node, and the guest with
 * it. Domain locked, job held. Returns 0, or -1 with an error reported and nothing added.
 */
int
ferryNodeAddNBD(virDomainObj *vm,
                virStorageSource *src)
{
    g_autoptr(qemuBlockStorageSourceAttachData) data = NULL;

    if (!(data = qemuBlockStorageSourceAttachPrepareBlockdev(src, /* backingStore= */ NULL)) ||
        ferryNodeStay(data->storageProps, src) < 0)
        return -1;

    /* libvirt gives it to the format node, which there is none of */
    if (src->detect_zeroes != VIR_DOMAIN_DISK_DETECT_ZEROES_DEFAULT &&
        !virJSONValueObjectHasKey(data->storageProps, "detect-zeroes") &&
        virJSONValueObjectAppendString(data->storageProps, "detect-zeroes",
                                       virDomainDiskDetectZeroesTypeToString(src->detect_zeroes)) < 0)
        return -1;

    g_clear_pointer(&data->formatProps, virJSONValueFree);

    return ferryNodeApply(vm, data);
}


/**
 * ferryNodeDelete:
 *
 * Removes the node named. A node that stays would keep its image locked, so a failed blockdev-del is
 * repeated once. It also fails when the node does not exist; a repetition is harmless then. Reports
 * no error.
 */
void
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
 * Removes the storage node of @src if it exists and has no format node on top of it.
 * Reports no error.
 */
void
ferryNodeRemoveStorage(virDomainObj *vm,
                       virStorageSource *src)
{
    ferryNodeDelete(vm, ferryNodeStorage(src));
    ferryIdentityForgetNode(vm, src);
}


/**
 * ferryNodeAddFormat:
 * @backing: image whose format node becomes the backing node; NULL: QEMU opens the
 *           backing file that the image names; a chain terminator: no backing node
 *
 * Adds the format node of @src on top of its storage node. Domain locked, job held.
 * Returns 0, or -1 with an error reported and nothing added.
 */
int
ferryNodeAddFormat(virDomainObj *vm,
                   virStorageSource *src,
                   virStorageSource *backing)
{
    g_autoptr(qemuBlockStorageSourceAttachData) data = NULL;

    if (!(data = qemuBlockStorageSourceAttachPrepareBlockdev(src, backing)))
        return -1;

    g_clear_pointer(&data->storageProps, virJSONValueFree);
    g_clear_pointer(&data->storageSliceProps, virJSONValueFree);

    return ferryNodeApply(vm, data);
}


/**
 * ferryNodeInlineStorage:
 * @format: options for the format of @src, which refer to its storage node by name
 *
 * Replaces the name of the storage node by its options. So one command creates both
 * nodes, and both are removed together.
 */
int
ferryNodeInlineStorage(virStorageSource *src,
                       virJSONValue *format)
{
    g_autoptr(qemuBlockStorageSourceAttachData) data = NULL;

    if (!(data = qemuBlockStorageSourceAttachPrepareBlockdev(src, /* backingStore= */ NULL)) ||
        virJSONValueObjectRemoveKey(format, "file", /* value= */ NULL) < 0)
        return -1;

    return virJSONValueObjectAppend(format, "file", &data->storageProps);
}


/**
 * ferryNodeAddPlain:
 *
 * Adds the nodes of @src, a writable image that is plain (ferryImageIsPlain()), with one
 * command. @backing as for ferryNodeAddFormat().
 */
int
ferryNodeAddPlain(virDomainObj *vm,
                  virStorageSource *src,
                  virStorageSource *backing)
{
    g_autoptr(qemuBlockStorageSourceAttachData) data = NULL;
    virJSONValue *cache;
    virJSONValue *file;

    if (!(data = qemuBlockStorageSourceAttachPrepareBlockdev(src, backing)) ||
        ferryNodeInlineStorage(src, data->formatProps) < 0)
        return -1;

    cache = virJSONValueObjectGetObject(data->formatProps, "cache");
    file = virJSONValueObjectGetObject(data->formatProps, "file");

    /* A storage node defined inside its format node inherits the cache mode. What changes
     * nothing is left out: QEMU takes 5 us to read a byte of a command. */
    if (virJSONValueObjectRemoveKey(file, "cache", /* value= */ NULL) < 0 ||
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
 * Undoes ferryNodeAddPlain(). Reports no error.
 */
void
ferryNodeRemovePlain(virDomainObj *vm,
                     virStorageSource *src)
{
    ferryNodeDelete(vm, ferryNodeName(src));
}


/**
 * ferryNodeAddChain:
 *
 * Adds all nodes of @chain, lowest image first. Returns 0, or -1 with an error reported;
 * nodes may be left then, which ferryNodeRemove() removes.
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
        if (g_hash_table_contains(nodes, ferryNodeName(n)) ||
            g_hash_table_contains(nodes, ferryNodeStorage(n)))
            return true;
    }

    return false;
}


/**
 * ferryNodeRemove:
 *
 * Removes those nodes and secrets of @chain that exist. Keeps the last error.
 */
void
ferryNodeRemove(virDomainObj *vm,
                virStorageSource *chain)
{
    g_autoptr(qemuBlockStorageSourceChainData) data = NULL;
    virStorageSource *n;
    bool again = false;

    if (!(data = qemuBlockStorageSourceChainDetachPrepareBlockdev(chain)))
        return;

    do {
        qemuDomainObjEnterMonitor(vm);
        qemuBlockStorageSourceChainDetach(qemuDomainGetMonitor(vm), data);
        qemuDomainObjExitMonitor(vm);

        /* libvirt hides a failed blockdev-del: repeat once, as in ferryNodeDelete() */
        again = !again && ferryNodeAnyLeft(vm, chain);
    } while (again);

    for (n = chain; virStorageSourceIsBacking(n); n = n->backingStore)
        ferryIdentityForgetNode(vm, n);
}


/* QEMU has opened @src again. Nothing can send QEMU back to a file that was replaced
 * after we looked: whoever replaced the file must know. */
static int
ferryNodeCheckMoved(virDomainObj *vm,
                    virStorageSource *src)
{
    if (ferryIdentityStays(vm, src))
        return 0;

    virReportError(VIR_ERR_OPERATION_FAILED,
                   _("image '%1$s' was replaced while QEMU opened it again: domain '%2$s' uses the "
                     "other file now; shut it off and check which file is to be used"),
                   src->path, vm->def->name);
    VIR_ERROR("%s", virGetLastErrorMessage());
    return -1;
}


static int
ferryNodeReopenProps(virDomainObj *vm,
                     virStorageSource *src,
                     virStorageSource *backing,
                     bool storageOnly,
                     bool autoreadonly)
{
    g_autoptr(qemuBlockStorageSourceAttachData) data = NULL;
    g_autoptr(virJSONValue) options = virJSONValueNewArray();
    g_autoptr(virJSONValue) args = NULL;
    int rc;

    if (!(data = qemuBlockStorageSourceAttachPrepareBlockdev(src, backing)) ||
        (!autoreadonly && ferryNodeStay(data->storageProps, src) < 0))
        return -1;

    if (virJSONValueArrayAppend(options, &data->storageProps) < 0)
        return -1;

    if (!storageOnly) {
        if (data->storageSliceProps &&
            virJSONValueArrayAppend(options, &data->storageSliceProps) < 0)
            return -1;
        /* a raw image of the guest may have none */
        if (data->formatProps &&
            virJSONValueArrayAppend(options, &data->formatProps) < 0)
            return -1;
    }

    if (virJSONValueObjectAdd(&args, "a:options", &options, NULL) < 0)
        return -1;

    rc = ferryQMP(vm, "blockdev-reopen", &args, /* reply= */ NULL);

    return ferryNodeCheckMoved(vm, src) < 0 ? -1 : rc;
}


/**
 * ferryNodeReopen:
 * @src: its storage node was added by ferryNodeAddStorage()
 *
 * Applies the current options of @src to its nodes, all with one command, during which
 * QEMU flushes the image. @backing as for ferryNodeAddFormat(). QEMU may open the file
 * again by its name, so the name must still lead to it (block/identity.h).
 */
int
ferryNodeReopen(virDomainObj *vm,
                virStorageSource *src,
                virStorageSource *backing)
{
    if (ferryIdentityRequire(vm, src) < 0)
        return -1;

    /* as on a fresh start, QEMU opens a read-only disk's file for reading */
    return ferryNodeReopenProps(vm, src, backing, /* storageOnly= */ false,
                                /* autoreadonly= */ src->readonly);
}


/**
 * ferryNodeReopenStorage:
 * @autoreadonly: as libvirt sets it; false as ferryNodeAddStorage() does
 *
 * Like ferryNodeReopen(), but only for the storage node: enough to change the cache mode,
 * and the format driver keeps its caches. Nobody depends on the cache mode, so it stays
 * unless the name of the image certainly leads to the file that QEMU has open.
 */
int
ferryNodeReopenStorage(virDomainObj *vm,
                       virStorageSource *src,
                       bool autoreadonly)
{
    if (ferryIdentityCheck(vm, src) != FERRY_IDENTITY_SAME) {
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("it is not certain that this is the file that QEMU of domain '%1$s' has open"),
                       vm->def->name);
        return -1;
    }

    return ferryNodeReopenProps(vm, src, /* backing= */ NULL, /* storageOnly= */ true, autoreadonly);
}


/**
 * ferryNodeReopenWritable:
 * @writable: false: make it read-only again
 *
 * Makes the nodes of @src, an image below a guest's top one, writable. QEMU opens the file
 * again by its name, so the name must still lead to it (block/identity.h).
 */
int
ferryNodeReopenWritable(virDomainObj *vm,
                        virStorageSource *src,
                        bool writable)
{
    int rc;

    if (ferryIdentityRequire(vm, src) < 0)
        return -1;

    rc = writable ? qemuBlockReopenReadWrite(vm, src, VIR_ASYNC_JOB_NONE) :
                    qemuBlockReopenReadOnly(vm, src, VIR_ASYNC_JOB_NONE);

    return ferryNodeCheckMoved(vm, src) < 0 ? -1 : rc;
}


/**
 * ferryNodeCapacity:
 * @nodes: of ferryNodeData()
 *
 * Sets @capacity to that of the node named @name, in bytes.
 * Returns 0, or -1 with an error reported.
 */
int
ferryNodeCapacity(GHashTable *nodes,
                  const char *name,
                  unsigned long long *capacity)
{
    qemuBlockNamedNodeData *data = g_hash_table_lookup(nodes, name);

    if (!data) {
        virReportError(VIR_ERR_INTERNAL_ERROR, _("QEMU knows no block node '%1$s'"), name);
        return -1;
    }

    *capacity = data->capacity;
    return 0;
}
