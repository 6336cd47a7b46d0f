/*
 * qmp.c: QMP commands that libvirt's monitor has no function for
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The commands use the pass-through that libvirt has for qemu-monitor-command. QEMU is
 * not trusted: a reply may have any content.
 */

#include <config.h>

#include "block/qmp.h"
#include "qemu/qemu_monitor.h"
#include "virerror.h"

#define VIR_FROM_THIS VIR_FROM_QEMU


/**
 * ferryQMP:
 * @args: arguments of @command, taken over; may be NULL
 * @reply: set to the value that QEMU returned; may be NULL
 *
 * Domain locked, job held. Returns 0, or -1 with an error reported that has QEMU's text.
 */
int
ferryQMP(virDomainObj *vm,
         const char *command,
         virJSONValue **args,
         virJSONValue **reply)
{
    g_autoptr(virJSONValue) cmd = NULL;
    g_autoptr(virJSONValue) answer = NULL;
    g_autoptr(virJSONValue) none = NULL;
    g_autofree char *cmdstr = NULL;
    g_autofree char *replystr = NULL;
    virJSONValue *error;
    int rc;

    if (virJSONValueObjectAdd(&cmd, "s:execute", command, "A:arguments", args ? args : &none,
                              NULL) < 0 ||
        !(cmdstr = virJSONValueToString(cmd, /* pretty= */ false)))
        return -1;

    qemuDomainObjEnterMonitor(vm);
    rc = qemuMonitorArbitraryCommand(qemuDomainGetMonitor(vm), cmdstr, /* fd= */ -1, &replystr,
                                     /* hmp= */ false);
    qemuDomainObjExitMonitor(vm);

    if (rc < 0 || !(answer = virJSONValueFromString(replystr)))
        return -1;

    if ((error = virJSONValueObjectGetObject(answer, "error"))) {
        virReportError(VIR_ERR_INTERNAL_ERROR,
                       _("unable to execute QEMU command '%1$s': %2$s"), command,
                       NULLSTR(virJSONValueObjectGetString(error, "desc")));
        return -1;
    }

    if (!virJSONValueObjectHasKey(answer, "return")) {
        virReportError(VIR_ERR_INTERNAL_ERROR,
                       _("QEMU's reply to '%1$s' has neither result nor error"), command);
        return -1;
    }

    if (reply && virJSONValueObjectRemoveKey(answer, "return", reply) < 0)
        return -1;

    return 0;
}


/**
 * ferryQMPMirror:
 *
 * Starts a mirror job. QEMU keeps an ended job until job-dismiss, so that we learn how it
 * ended. A decisive job also waits for job-finalize before it pivots, so that the pivot
 * can be written to the journal first.
 */
int
ferryQMPMirror(virDomainObj *vm,
               const char *jobname,
               const ferryMirrorParams *params)
{
    g_autoptr(virJSONValue) args = NULL;

    if (virJSONValueObjectAdd(&args,
                              "s:job-id", jobname,
                              "s:device", params->source,
                              "s:target", params->target,
                              "S:replaces", params->replaces,
                              "s:sync", params->shallow ? "top" : "full",
                              "S:copy-mode", params->synchronous ? "write-blocking" : NULL,
                              "P:speed", params->bandwidth,
                              "P:granularity", params->granularity,
                              "P:buf-size", params->bufSize,
                              "S:on-target-error", params->patient ? "stop" : NULL,
                              "B:target-is-zero", params->targetIsZero,
                              "b:auto-finalize", !params->decisive,
                              "b:auto-dismiss", false,
                              NULL) < 0)
        return -1;

    return ferryQMP(vm, "blockdev-mirror", &args, /* reply= */ NULL);
}


/**
 * ferryQMPMirrorBlockWrites:
 *
 * Makes a mirror job that runs write-blocking: from now on a write of the guest ends when both images
 * have it, so the job certainly catches up. QEMU cannot make it a background job again. Domain
 * locked, job held; QEMU has FERRY_FEATURE_COPY_MODE. Returns 0, or -1 with an error reported.
 */
int
ferryQMPMirrorBlockWrites(virDomainObj *vm,
                          const char *jobname)
{
    g_autoptr(virJSONValue) args = NULL;

    if (virJSONValueObjectAdd(&args, "s:id", jobname, "s:type", "mirror",
                              "s:copy-mode", "write-blocking", NULL) < 0)
        return -1;

    return ferryQMP(vm, "block-job-change", &args, /* reply= */ NULL);
}


/**
 * ferryQMPBackingDepth:
 *
 * Returns how many images QEMU has below that of @node; 0, without an error reported, if it does not
 * say.
 */
int
ferryQMPBackingDepth(virDomainObj *vm,
                     const char *node)
{
    g_autoptr(virJSONValue) nodes = NULL;
    size_t i;

    /* a "flat" answer has no depth */
    if (ferryQMP(vm, "query-named-block-nodes", /* args= */ NULL, &nodes) < 0)
        virResetLastError();

    for (i = 0; nodes && virJSONValueIsArray(nodes) && i < virJSONValueArraySize(nodes); i++) {
        virJSONValue *one = virJSONValueArrayGet(nodes, i);
        int depth;

        if (STREQ_NULLABLE(virJSONValueObjectGetString(one, "node-name"), node))
            return virJSONValueObjectGetNumberInt(one, "backing_file_depth", &depth) < 0 ? 0 : depth;
    }

    return 0;
}


/**
 * ferryQMPTransaction:
 * @actions: array of actions, taken over; nothing is done if it is empty
 *
 * Carries out all @actions or none. Domain locked, job held.
 */
int
ferryQMPTransaction(virDomainObj *vm,
                    virJSONValue **actions)
{
    int rc;

    if (virJSONValueArraySize(*actions) == 0)
        return 0;

    qemuDomainObjEnterMonitor(vm);
    rc = qemuMonitorTransaction(qemuDomainGetMonitor(vm), actions);
    qemuDomainObjExitMonitor(vm);

    return rc;
}


/**
 * ferryQMPAddAction:
 * @data: arguments of the action, taken over
 *
 * Adds an action of a kind that libvirt's monitor has no function for.
 */
int
ferryQMPAddAction(virJSONValue *actions,
                  const char *type,
                  virJSONValue **data)
{
    g_autoptr(virJSONValue) action = NULL;

    if (virJSONValueObjectAdd(&action, "s:type", type, "a:data", data, NULL) < 0)
        return -1;

    return virJSONValueArrayAppend(actions, &action);
}


/**
 * ferryQMPBackupAction:
 *
 * Adds the start of a backup job to @actions. QEMU keeps the ended job until
 * ferryJobDismiss(). If QEMU refuses params->workers, its error names FERRY_QMP_PERF.
 */
int
ferryQMPBackupAction(virJSONValue *actions,
                     const char *jobname,
                     const ferryBackupParams *params)
{
    g_autoptr(virJSONValue) data = NULL;
    g_autoptr(virJSONValue) perf = NULL;
    const char *sync = "full";

    if (params->onlyOverwritten)
        sync = "none";
    else if (params->bitmap)
        sync = "incremental";
    else if (params->shallow)
        sync = "top";

    if (params->workers > 0 &&
        virJSONValueObjectAdd(&perf, "u:max-workers", params->workers, NULL) < 0)
        return -1;

    if (virJSONValueObjectAdd(&data,
                              "s:job-id", jobname,
                              "s:device", params->source,
                              "s:target", params->target,
                              "s:sync", sync,
                              "S:bitmap", params->onlyOverwritten ? NULL : params->bitmap,
                              "A:" FERRY_QMP_PERF, &perf,
                              "P:speed", params->bandwidth,
                              "b:auto-dismiss", false,
                              NULL) < 0)
        return -1;

    return ferryQMPAddAction(actions, "blockdev-backup", &data);
}


/**
 * ferryQMPDiskNode:
 *
 * Asks QEMU which node the frontend of @disk is attached to. Only this shows whether a
 * pivot has happened. Returns the node's name, or NULL with an error reported.
 */
char *
ferryQMPDiskNode(virDomainObj *vm,
                 virDomainDiskDef *disk)
{
    g_autoptr(virJSONValue) blocks = NULL;
    const char *qomName = QEMU_DOMAIN_DISK_PRIVATE(disk)->qomName;
    size_t i;

    if (ferryQMP(vm, "query-block", /* args= */ NULL, &blocks) < 0)
        return NULL;

    for (i = 0; virJSONValueIsArray(blocks) && i < virJSONValueArraySize(blocks); i++) {
        virJSONValue *block = virJSONValueArrayGet(blocks, i);
        virJSONValue *inserted = virJSONValueObjectGetObject(block, "inserted");
        const char *qdev = virJSONValueObjectGetString(block, "qdev");
        const char *node = inserted ? virJSONValueObjectGetString(inserted, "node-name") : NULL;

        if (node && qdev && qomName && STREQ(qdev, qomName))
            return g_strdup(node);
    }

    virReportError(VIR_ERR_INTERNAL_ERROR,
                   _("cannot find out from QEMU which image disk '%1$s' of domain '%2$s' uses"),
                   disk->dst, vm->def->name);
    return NULL;
}


/**
 * ferryQMPYank:
 *
 * Cuts the connection of @node: no request shall wait for a lost host. Reports no error.
 */
void
ferryQMPYank(virDomainObj *vm,
             const char *node)
{
    g_autoptr(virJSONValue) args = NULL;
    g_autoptr(virJSONValue) instances = virJSONValueNewArray();
    g_autoptr(virJSONValue) instance = NULL;

    if (virJSONValueObjectAdd(&instance, "s:type", "block-node", "s:node-name", node, NULL) < 0 ||
        virJSONValueArrayAppend(instances, &instance) < 0 ||
        virJSONValueObjectAdd(&args, "a:instances", &instances, NULL) < 0 ||
        ferryQMP(vm, "yank", &args, /* reply= */ NULL) < 0)
        virResetLastError();
}
