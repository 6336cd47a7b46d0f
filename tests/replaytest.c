/*
 * replaytest.c: operations against QMP transcripts of real QEMUs
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Every case in qemumonitorjsondata/ is a call that was made once, recorded by
 * record-copy: what the driver knew, what was said, how it ended. Here it is
 * made again with a monitor that gives the recorded replies and accepts no
 * other command than the recorded ones.
 */

#include <config.h>

#include <unistd.h>

#include "domain_event.h"
#include "engine/engine.h"
#include "engine/journal.h"
#include "locking/domain_lock.h"
#include "ops/copy.h"
#include "qemumonitortestutils.h"
#include "testutils.h"
#include "testutilsqemu.h"
#include "virfile.h"
#include "virthread.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

#define REPLAY_FOLDER "/tmp/ferry-replay"

static virQEMUDriver driver;

static const ferryOpClass *const replayClasses[] = { &ferryCopyClass, NULL };

typedef struct {
    const char *qemu;
    const char *name;
    const char *target;          /* start: what to copy to; NULL: another call */
    unsigned int flags;          /* of that call */
    bool mirror;                 /* is there a copy afterwards? */
    const char *source;          /* what the disk uses afterwards */
} replayCase;


static char *
replayPath(const replayCase *c,
           const char *what)
{
    return g_strdup_printf("%s/tests/qemumonitorjsondata/%s/%s.%s",
                           FERRY_TOP, c->qemu, c->name, what);
}


/* What the driver read at its start: the operations in the journal. */
static int
replayJournal(const replayCase *c,
              virDomainObj *vm)
{
    g_autofree char *from = replayPath(c, "journal.xml");
    g_autofree char *text = NULL;
    g_autofree char *dir = g_strdup_printf("%s/lib/ferry", REPLAY_FOLDER);
    g_autofree char *to = NULL;
    g_autoptr(GPtrArray) ops = g_ptr_array_new_with_free_func((GDestroyNotify) ferryOpUnref);
    char uuid[VIR_UUID_STRING_BUFLEN];
    size_t i;

    if (!virFileExists(from))
        return 0;

    virUUIDFormat(vm->def->uuid, uuid);
    to = g_strdup_printf("%s/%s.xml", dir, uuid);

    if (virFileReadAll(from, 1 << 20, &text) < 0 ||
        g_mkdir_with_parents(dir, 0700) < 0 ||
        virFileWriteStr(to, text, 0600) < 0 ||
        ferryJournalRead(&driver, vm->def->uuid, replayClasses, ops) < 0 ||
        ops->len == 0)
        return -1;

    for (i = 0; i < ops->len; i++) {
        ferryOp *read = g_ptr_array_index(ops, i);
        g_autoptr(ferryOp) op = ferryOpNew(vm, read->klass, read->name,
                                           g_steal_pointer(&read->data));
        ferryCopy *copy = op->data;

        memcpy(op->progress, read->progress, sizeof(op->progress));
        virObjectUnref(copy->target);
        copy->target = virObjectRef(ferryCopyDisk(op)->mirror);
    }

    return 0;
}


static int
replayCall(const replayCase *c,
           virDomainObj *vm)
{
    ferryOp *found = ferryOpFind(vm, "copy-vda");
    g_autoptr(ferryOp) op = found ? ferryOpRef(found) : NULL;
    g_autoptr(virStorageSource) target = NULL;
    ferryCopyRequest req = { .path = "vda", .flags = c->flags };

    if (!c->target) {
        if (!op) {
            virReportError(VIR_ERR_INTERNAL_ERROR, "%s", "the journal has no copy of vda");
            return -1;
        }

        return c->flags & VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT ? ferryCopyPivot(op, false) :
                                                             ferryCopyAbort(op, false);
    }

    if (c->flags & VIR_DOMAIN_BLOCK_COPY_REUSE_EXT &&
        virFileTouch(REPLAY_FOLDER "/target", 0600) < 0)
        return -1;

    if (!(target = virDomainDiskDefParseSource(c->target, driver.xmlopt,
                                               VIR_DOMAIN_DEF_PARSE_INACTIVE)))
        return -1;

    req.target = target;
    return ferryCopyStart(vm, &req);
}


/* "ok", or the error as python-libvirt shows it, which record-copy wrote. */
static int
replayCompareResult(const replayCase *c,
                    int rc)
{
    g_autofree char *path = replayPath(c, "result");
    g_autofree char *expected = NULL;
    const char *message = virGetLastErrorMessage();

    if (virFileReadAll(path, 1 << 16, &expected) < 0)
        return -1;
    g_strchomp(expected);

    if (rc == 0 ? STREQ(expected, "ok") : !!strstr(expected, message))
        return 0;

    fprintf(stderr, "%s/%s: expected '%s', got %d '%s'\n", c->qemu, c->name, expected, rc, message);
    return -1;
}


static int
replayCompareState(const replayCase *c,
                   virDomainObj *vm)
{
    virDomainDiskDef *disk = vm->def->disks[0];
    char uuid[VIR_UUID_STRING_BUFLEN];
    g_autofree char *journal = NULL;
    bool left;

    virUUIDFormat(vm->def->uuid, uuid);
    journal = g_strdup_printf("%s/lib/ferry/%s.xml", REPLAY_FOLDER, uuid);
    left = virFileExists(journal);

    if (STREQ(disk->src->path, c->source) &&
        c->mirror == !!disk->mirror &&
        c->mirror == !!ferryOpFind(vm, "copy-vda") &&
        c->mirror == left)
        return 0;

    fprintf(stderr, "%s/%s: source %s, mirror %d, journal %d\n",
            c->qemu, c->name, disk->src->path, !!disk->mirror, left);
    return -1;
}


static int
replayTest(const void *opaque)
{
    const replayCase *c = opaque;
    g_autofree char *status = replayPath(c, "status.xml");
    g_autofree char *replies = replayPath(c, "replies");
    qemuMonitorTest *test = NULL;
    virDomainObj *vm;
    qemuDomainObjPrivate *priv;
    int ret = -1;
    int rc;

    virFileDeleteTree(REPLAY_FOLDER);
    if (g_mkdir_with_parents(REPLAY_FOLDER, 0700) < 0)
        return -1;

    if (!(vm = virDomainObjParseFile(status, driver.xmlopt,
                                     VIR_DOMAIN_DEF_PARSE_STATUS |
                                     VIR_DOMAIN_DEF_PARSE_ACTUAL_NET |
                                     VIR_DOMAIN_DEF_PARSE_PCI_ORIG_STATES |
                                     VIR_DOMAIN_DEF_PARSE_SKIP_VALIDATE |
                                     VIR_DOMAIN_DEF_PARSE_ALLOW_POST_PARSE_FAIL)))
        return -1;

    priv = vm->privateData;
    vm->def->id = 1;

    if (!(test = qemuMonitorTestNewFromFileFull(replies, &driver, vm, NULL)))
        goto cleanup;

    priv->mon = qemuMonitorTestGetMonitor(test);
    virObjectUnlock(priv->mon);

    if (replayJournal(c, vm) < 0 ||
        virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0)
        goto cleanup;

    rc = replayCall(c, vm);
    ret = replayCompareResult(c, rc);
    virDomainObjEndJob(vm);

    if (ret == 0)
        ret = replayCompareState(c, vm);

 cleanup:
    if (ret < 0 && virGetLastErrorCode() != VIR_ERR_OK)
        fprintf(stderr, "%s/%s: %s\n", c->qemu, c->name, virGetLastErrorMessage());
    if (priv->mon)
        virObjectLock(priv->mon);
    priv->mon = NULL;
    vm->def->id = -1;
    ferryEngineStopped(priv);
    virDomainObjEndAPI(&vm);
    qemuMonitorTestFree(test);
    return ret;
}


#define TARGET(fmt) \
    "<disk type='file'><driver type='" fmt "'/><source file='" REPLAY_FOLDER "/target'/></disk>"
#define NOBODY \
    "<disk type='network'><driver type='raw'/><source protocol='nbd' name='x'>" \
    "<host transport='unix' socket='" REPLAY_FOLDER "/nobody'/></source></disk>"
#define SOURCE REPLAY_FOLDER "/source"

static const replayCase replayCases[] = {
    { NULL, "start-qcow2", TARGET("qcow2"), 0, true, SOURCE },
    { NULL, "start-raw", TARGET("raw"), 0, true, SOURCE },
    { NULL, "start-reuse", TARGET("qcow2"), VIR_DOMAIN_BLOCK_COPY_REUSE_EXT, true, SOURCE },
    { NULL, "start-refused", NOBODY, 0, false, SOURCE },
    { NULL, "start-size", TARGET("qcow2"), VIR_DOMAIN_BLOCK_COPY_REUSE_EXT, false, SOURCE },
    { NULL, "pivot-early", NULL, VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT, true, SOURCE },
    { NULL, "pivot", NULL, VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT, false, REPLAY_FOLDER "/target" },
    { NULL, "abort-streaming", NULL, 0, false, SOURCE },
    { NULL, "abort-ready", NULL, 0, false, SOURCE },
};


static int
replaySetup(void)
{
    if (virEventRegisterDefaultImpl() < 0 || qemuTestDriverInit(&driver) < 0)
        return -1;

    VIR_FREE(driver.config->libDir);
    driver.config->libDir = g_strdup(REPLAY_FOLDER "/lib/qemu");
    driver.lockManager = virLockManagerPluginNew("nop", "qemu", driver.config->configBaseDir, 0);
    driver.domainEventState = virObjectEventStateNew();
    /* so that the tests need not be root, nor libvirt-qemu exist */
    driver.config->user = geteuid();
    driver.config->group = getegid();

    return ferryEngineStart(&driver, replayClasses);
}


static int
replayMain(void)
{
    static const char *const qemus[] = { "7.2", "10.0" };
    size_t i;
    size_t j;
    int ret = 0;

    if (replaySetup() < 0)
        return EXIT_FAILURE;

    for (i = 0; i < G_N_ELEMENTS(qemus); i++) {
        for (j = 0; j < G_N_ELEMENTS(replayCases); j++) {
            replayCase c = replayCases[j];
            g_autofree char *name = g_strdup_printf("%s %s", qemus[i], c.name);

            c.qemu = qemus[i];
            if (virTestRun(name, replayTest, &c) < 0)
                ret = -1;
        }
    }

    ferryEngineStop();
    virObjectUnref(driver.domainEventState);
    virLockManagerPluginUnref(driver.lockManager);
    qemuTestDriverFree(&driver);
    virFileDeleteTree(REPLAY_FOLDER);

    return ret == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

VIR_TEST_MAIN(replayMain)
