/*
 * replaytest.c: operations against QMP transcripts of real QEMUs
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Every case in qemumonitorjsondata/ is a call that was made once, recorded by
 * record-replies: what the driver knew, what was said, how it ended. Here it is
 * made again with a monitor that gives the recorded replies and accepts no
 * other command than the recorded ones. A restart of the driver counts as a call.
 */

#include <config.h>

#include <unistd.h>

#include "block/identity.h"
#include "domain_event.h"
#include "engine/engine.h"
#include "engine/journal.h"
#include "locking/domain_lock.h"
#include "ops/backup/backup.h"
#include "ops/backup/begin.h"
#include "ops/backup/data.h"
#include "ops/backup/recover.h"
#include "ops/classes.h"
#include "ops/checkpoint/checkpoint.h"
#include "ops/checkpoint/metadata.h"
#include "ops/blockjob.h"
#include "ops/copy/control.h"
#include "ops/copy/copy.h"
#include "ops/copy/data.h"
#include "ops/migration/destination.h"
#include "ops/migration/incoming.h"
#include "ops/migration/perform.h"
#include "ops/migration/prepare.h"
#include "ops/migration/ready.h"
#include "ops/migration/source.h"
#include "ops/quiesce.h"
#include "qemu/qemu_domainjob.h"
#include "qemumonitortestutils.h"
#include "testutils.h"
#include "testutilsqemu.h"
#include "virdomaincheckpointobjlist.h"
#include "virfile.h"
#include "virportallocator.h"
#include "virthread.h"
#include "virtime.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

#define REPLAY_FOLDER "/tmp/ferry-replay"

/* How long the workers of a new driver may take. */
#define REPLAY_RECOVER_MS (30 * 1000)

static virQEMUDriver driver;

ferryIdentity __wrap_ferryIdentityCheck(virDomainObj *vm, virStorageSource *src);


/* There is no QEMU that has files open. */
ferryIdentity
__wrap_ferryIdentityCheck(virDomainObj *vm G_GNUC_UNUSED,
                          virStorageSource *src G_GNUC_UNUSED)
{
    return FERRY_IDENTITY_SAME;
}


/* What becomes of a migration whose disks are the same on both sides. */
typedef enum {
    REPLAY_END_ARRIVED,
    REPLAY_END_ABORT,
} replayEndType;

typedef struct _replayCase replayCase;
struct _replayCase {
    const char *name;
    int (*call)(const replayCase *c, virDomainObj *vm); /* made without a job */
    const char *xml;                                    /* what that call shall do */
    const char *checkpoint;                             /* made with it */
    unsigned int flags;
    bool left;          /* is there an operation afterwards? */
    const char *source; /* what the disk uses afterwards */
    replayEndType end;
    virDomainDiskMirrorState mirror; /* of the copy afterwards, if there is one */
    bool c1;                         /* is there a checkpoint of this name afterwards? */
    const char *qemu;
};


static char *
replayPath(const replayCase *c,
           const char *what)
{
    return g_strdup_printf("%s/tests/qemumonitorjsondata/%s/%s.%s",
                           FERRY_TOP, c->qemu, c->name, what);
}


/* Does, or will, a worker carry on an operation of @vm? */
static bool
replayBusy(virDomainObj *vm)
{
    GPtrArray *ops = ferryOpList(vm);
    size_t i;

    for (i = 0; ops && i < ops->len; i++) {
        ferryOp *op = g_ptr_array_index(ops, i);

        if (op->driven || g_atomic_int_get(&op->queued))
            return true;
    }

    return vm->job->active != VIR_JOB_NONE;
}


/* What the reconnecting thread of a new driver does, and then the workers. */
static int
replayRecover(const replayCase *c G_GNUC_UNUSED,
              virDomainObj *vm)
{
    g_auto(virDomainJobObj) old = { 0 };
    unsigned long long now;
    unsigned long long end;

    if (virDomainObjPreserveJob(vm->job, &old) < 0 ||
        virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0)
        return -1;

    ferryIdentityInherit(vm);
    ferryEngineReconnected(vm);
    ferryBackupReconnected(vm);
    virDomainObjEndJob(vm);

    if (virTimeMillisNow(&end) < 0)
        return -1;
    end += REPLAY_RECOVER_MS;

    while (replayBusy(vm)) {
        if (virTimeMillisNow(&now) < 0)
            return -1;

        if (now > end) {
            virReportError(VIR_ERR_INTERNAL_ERROR, "%s", "a worker does not end");
            return -1;
        }

        virObjectUnlock(vm);
        g_usleep(10 * 1000);
        virObjectLock(vm);
    }

    return 0;
}


/* Makes @read, which a journal has, an operation of the driver that began it. */
static void
replayAdopt(virDomainObj *vm,
            ferryOp *read)
{
    g_autoptr(ferryOp) op = ferryOpNew(vm, read->klass, read->name,
                                       g_steal_pointer(&read->data));

    memcpy(op->progress, read->progress, sizeof(op->progress));

    if (op->klass == &ferryCopyClass) {
        ferryCopy *copy = op->data;

        virObjectUnref(copy->target);
        copy->target = virObjectRef(ferryCopyDisk(op)->mirror);
    } else {
        ferryBackup *backup = op->data;

        backup->started = true;
        backup->serving = backup->def->type == VIR_DOMAIN_BACKUP_TYPE_PULL;
        ferryBackupPublish(op);
        qemuDomainObjSetAsyncJobMask(vm, FERRY_BACKUP_JOB_MASK);
    }
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
        ferryJournalRead(&driver, vm->def->uuid, ferryClasses, ops) < 0 ||
        ops->len == 0)
        return -1;

    for (i = 0; i < ops->len; i++) {
        ferryOp *read = g_ptr_array_index(ops, i);

        if (c->call == replayRecover)
            ferryOpAdd(vm, read);
        else
            replayAdopt(vm, read);
    }

    return 0;
}


/* The checkpoint that the driver read at its start. */
static int
replayCheckpoint(const replayCase *c,
                 virDomainObj *vm)
{
    g_autofree char *path = replayPath(c, "checkpoint.xml");
    g_autofree char *text = NULL;
    virDomainCheckpointDef *def;

    if (!virFileExists(path))
        return 0;

    if (virFileReadAll(path, 1 << 20, &text) < 0 ||
        !(def = virDomainCheckpointDefParseString(text, driver.xmlopt,
                                                  QEMU_DOMAIN_PRIVATE(vm)->qemuCaps,
                                                  VIR_DOMAIN_CHECKPOINT_PARSE_REDEFINE)) ||
        ferryCheckpointSave(vm, def) < 0 || ferryCheckpointAdopt(vm, def) < 0)
        return -1;

    virObjectUnref(def);
    return 0;
}


static int
replayCopyStart(const replayCase *c,
                virDomainObj *vm)
{
    /* of a qcow2 image: what a driver looks at */
    static const char header[112] = { 'Q', 'F', 'I', '\xfb', [7] = 3 };
    g_autoptr(virStorageSource) target = NULL;
    ferryCopyRequest req = { .path = "vda", .flags = c->flags };
    int rc;

    if (c->flags & VIR_DOMAIN_BLOCK_COPY_REUSE_EXT &&
        !g_file_set_contents(REPLAY_FOLDER "/target", header, sizeof(header), /* error= */ NULL))
        return -1;

    if (!(target = virDomainDiskDefParseSource(c->xml, driver.xmlopt,
                                               VIR_DOMAIN_DEF_PARSE_INACTIVE)) ||
        virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0)
        return -1;

    req.target = target;
    rc = ferryCopyStart(vm, &req);
    virDomainObjEndJob(vm);
    return rc;
}


/* Ends what is there: a copy with or without pivot, a backup. */
static int
replayEnd(const replayCase *c,
          virDomainObj *vm)
{
    g_auto(ferryBlockJob) job = { 0 };
    int rc = -1;

    if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0)
        return -1;

    ferryBlockJobFind(vm, "vda", &job);

    if (!job.op)
        virReportError(VIR_ERR_INTERNAL_ERROR, "%s", "the journal has nothing for vda");
    else if (c->flags & VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
        rc = ferryCopyPivot(job.op, false);
    else
        rc = job.handler->abort(job.op, false);

    virDomainObjEndJob(vm);
    return rc;
}


/* Ends the copies of two disks together. */
static int
replayEndGroup(const replayCase *c,
               virDomainObj *vm)
{
    g_autoptr(GPtrArray) ops = g_ptr_array_new_with_free_func((GDestroyNotify) ferryOpUnref);
    const ferryBlockJobHandler *handler;
    int rc = -1;

    if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0)
        return -1;

    if (!(handler = ferryBlockJobGroup(vm, "vda,vdb", ops)))
        virReportError(VIR_ERR_INTERNAL_ERROR, "%s", "the journal has nothing for vda and vdb");
    else
        rc = handler->group(ops, c->flags & VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT, /* async= */ false);

    virDomainObjEndJob(vm);
    return rc;
}


static int
replayBackupBegin(const replayCase *c,
                  virDomainObj *vm)
{
    return ferryBackupBegin(vm, c->xml, c->checkpoint, c->flags);
}


static int
replayCheckpointCreate(const replayCase *c,
                       virDomainObj *vm)
{
    g_autofree char *name = NULL;

    return ferryCheckpointCreate(vm, c->checkpoint, false, &name);
}


static int
replayCheckpointDelete(const replayCase *c,
                       virDomainObj *vm)
{
    return ferryCheckpointDelete(vm, "c1", c->flags);
}


/* @host, @port: of the recorded destination, or where to listen in its stead. */
static ferryMigrationRequest
replayMigrationRequest(const char *host,
                       unsigned int port)
{
    return (ferryMigrationRequest) {
        .flags = VIR_MIGRATE_LIVE | VIR_MIGRATE_NON_SHARED_DISK,
        .address = {
            .transport = VIR_STORAGE_NET_HOST_TRANS_TCP,
            .name = (char *) host,
            .port = port,
        },
        .nodelay = true,
    };
}


/* What the stock driver's perform phase calls, while the memory moves as @vm says. */
static int
replayPerform(const replayCase *c,
              virDomainObj *vm)
{
    g_autoptr(qemuMigrationParams) params = qemuMigrationParamsNew();

    if (ferryMigrationCopyStorage(vm, params) < 0)
        return -1;

    if (c->end == REPLAY_END_ABORT) {
        virReportError(VIR_ERR_OPERATION_ABORTED, "%s", "job 'migration out' canceled by client");
        ferryMigrationGiveUp(vm);
        return -1;
    }

    vm->job->current->status = VIR_DOMAIN_JOB_STATUS_PAUSED;
    virDomainObjSetState(vm, VIR_DOMAIN_PAUSED, VIR_DOMAIN_PAUSED_MIGRATION);

    /* the first is a question */
    if (ferryMigrationSwitchOver(vm) < 0 || ferryMigrationSwitchOver(vm) < 0)
        return -1;

    return ferryMigrationMaySwitchOver();
}


/* As the stock driver does: ours is let in. */
static int
replayBeginMigrationJob(virDomainObj *vm,
                        virDomainAsyncJob job,
                        virDomainJobOperation operation)
{
    if (virDomainObjBeginAsyncJob(vm, job, operation, 0) < 0)
        return -1;

    qemuDomainObjSetAsyncJobMask(vm, JOB_MASK(VIR_JOB_MODIFY_MIGRATION_SAFE));
    return 0;
}


static int
replayMigrateOut(const replayCase *c,
                 virDomainObj *vm)
{
    ferryMigrationRequest req = replayMigrationRequest("ferry-b", 10809);
    int rc;

    if (replayBeginMigrationJob(vm, VIR_ASYNC_JOB_MIGRATION_OUT,
                                VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT) < 0)
        return -1;

    if (c->end == REPLAY_END_ABORT)
        QEMU_DOMAIN_PRIVATE(vm)->migMaxBandwidth = 1;

    ferryMigrationPerformBegin(&req);
    rc = ferryMigrationPerformEnd(replayPerform(c, vm));
    virDomainObjEndAsyncJob(vm);
    return rc;
}


/* prepare and finish phase */
static int
replayMigrateIn(const replayCase *c G_GNUC_UNUSED,
                virDomainObj *vm)
{
    ferryMigrationRequest req = replayMigrationRequest("127.0.0.1", 0);
    char *listen[] = { req.address.name, NULL };
    /* the stock driver's */
    g_autofree char *cookie = g_strdup("<qemu-migration/>");
    int len = strlen(cookie) + 1;
    int rc = -1;
    g_autoptr(ferryOp) op = NULL;
    size_t i;

    req.listen = listen;

    for (i = 0; i < vm->def->ndisks; i++) {
        if (virFileTouch(vm->def->disks[i]->src->path, 0600) < 0)
            return -1;
    }

    if (!(req.disks = virHashNew(NULL)) ||
        replayBeginMigrationJob(vm, VIR_ASYNC_JOB_MIGRATION_IN,
                                VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN) < 0)
        goto cleanup;

    ferryIncomingPrepareBegin(&req);
    if (ferryIncomingCreateImages(vm) == 0)
        rc = ferryIncomingServe(vm);
    rc = ferryIncomingPrepareEnd(rc, &cookie, &len);

    if (rc == 0) {
        op = ferryOpRef(ferryIncomingFind(vm));
        if ((rc = ferryIncomingClose(op)) == 0)
            ferryIncomingArrived(op, vm);
    }

    virDomainObjEndAsyncJob(vm);
cleanup:
    g_clear_pointer(&req.disks, g_hash_table_unref);
    return rc;
}


/* "ok", or the error as python-libvirt shows it, which record-replies wrote. */
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

    /* which of the two drivers notices first that a client wants no more, that depends */
    if (c->end == REPLAY_END_ABORT && g_str_has_suffix(message, "canceled by client"))
        message = "canceled by client";

    if (rc == 0 ? STREQ(expected, "ok") : !!strstr(expected, message))
        return 0;

    fprintf(stderr, "%s/%s: expected '%s', got %d '%s'\n", c->qemu, c->name, expected, rc, message);
    return -1;
}


/* Returns journal @text without the time when an operation began. */
static char *
replayTimeless(const char *text)
{
    g_autoptr(GRegex) since = g_regex_new(" since='[0-9]+'", 0, 0, NULL);

    return g_regex_replace_literal(since, text, -1, 0, "", 0, NULL);
}


/* What the recorded driver left in its journal, this one must have left there, too, and
 * have in memory. */
static int
replayCompareJournal(const replayCase *c,
                     virDomainObj *vm,
                     const char *journal)
{
    g_autofree char *path = replayPath(c, "after.xml");
    g_autofree char *expected = NULL;
    g_autofree char *left = NULL;
    g_autofree char *known = NULL;
    g_autofree char *expectedAnyTime = NULL;
    g_autofree char *leftAnyTime = NULL;
    g_autofree char *knownAnyTime = NULL;

    if (virFileReadAll(path, 1 << 20, &expected) < 0 ||
        virFileReadAll(journal, 1 << 20, &left) < 0 ||
        ferryJournalWrite(vm, /* durable= */ false) < 0 ||
        virFileReadAll(journal, 1 << 20, &known) < 0)
        return -1;

    expectedAnyTime = replayTimeless(expected);
    leftAnyTime = replayTimeless(left);
    knownAnyTime = replayTimeless(known);
    if (STREQ(leftAnyTime, expectedAnyTime) && STREQ(knownAnyTime, expectedAnyTime))
        return 0;

    fprintf(stderr, "%s/%s: expected the journal %s, got %s and then %s\n",
            c->qemu, c->name, expected, left, known);
    return -1;
}


static int
replayCompareState(const replayCase *c,
                   virDomainObj *vm)
{
    virDomainDiskDef *disk = vm->def->disks[0];
    ferryOp *copy = ferryOpFind(vm, "copy-vda");
    bool backup = !!QEMU_DOMAIN_PRIVATE(vm)->backup;
    bool c1 = !!virDomainCheckpointFindByName(vm->checkpoints, "c1");
    g_autofree char *c1file = g_strdup_printf("%s/%s/c1.xml", driver.config->checkpointDir,
                                              vm->def->name);
    char uuid[VIR_UUID_STRING_BUFLEN];
    g_autofree char *journal = NULL;
    bool left;

    virUUIDFormat(vm->def->uuid, uuid);
    journal = g_strdup_printf("%s/lib/ferry/%s.xml", REPLAY_FOLDER, uuid);
    left = virFileExists(journal);

    if (STREQ(disk->src->path, c->source) &&
        c->left == (disk->mirror || backup) &&
        c->left == (ferryOpList(vm) && ferryOpList(vm)->len > 0) &&
        c->left == left &&
        c->mirror == disk->mirrorState &&
        (!copy || ferryCopyOf(copy)->target == disk->mirror) &&
        backup == !!QEMU_DOMAIN_DISK_PRIVATE(disk)->blockjob &&
        backup == (vm->job->asyncJob == VIR_ASYNC_JOB_BACKUP) &&
        c->c1 == c1 && c->c1 == virFileExists(c1file))
        return left && c->call == replayRecover ? replayCompareJournal(c, vm, journal) : 0;

    fprintf(stderr, "%s/%s: not as expected: source %s, mirror %d (%s), copy %d, backup %d, "
                    "block job %d, job %s, journal %d, checkpoint %d, its file %d\n",
            c->qemu, c->name, disk->src->path, !!disk->mirror,
            virDomainDiskMirrorStateTypeToString(disk->mirrorState), !!copy, backup,
            !!QEMU_DOMAIN_DISK_PRIVATE(disk)->blockjob,
            virDomainAsyncJobTypeToString(vm->job->asyncJob), left, c1, virFileExists(c1file));
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

    virFileDeleteTree(REPLAY_FOLDER);
    if (g_mkdir_with_parents(REPLAY_FOLDER, 0700) < 0)
        return -1;

    if (!(vm = virDomainObjParseFile(status, driver.xmlopt,
                                     VIR_DOMAIN_DEF_PARSE_STATUS |
                                         VIR_DOMAIN_DEF_PARSE_SKIP_VALIDATE)))
        return -1;

    priv = vm->privateData;
    vm->def->id = 1;
    vm->pid = 0; /* no process of this host is its QEMU */

    if (!(test = qemuMonitorTestNewFromFileFull(replies, &driver, vm, NULL)))
        goto cleanup;

    priv->mon = qemuMonitorTestGetMonitor(test);
    virObjectUnlock(priv->mon);

    if (replayJournal(c, vm) == 0 && replayCheckpoint(c, vm) == 0 &&
        replayCompareResult(c, c->call(c, vm)) == 0)
        ret = replayCompareState(c, vm);

cleanup:
    if (ret < 0 && virGetLastErrorCode() != VIR_ERR_OK)
        fprintf(stderr, "%s/%s: %s\n", c->qemu, c->name, virGetLastErrorMessage());
    if (priv->mon)
        virObjectLock(priv->mon);
    priv->mon = NULL;
    vm->def->id = -1;
    ferryEngineStopped(priv);
    /* the next domain may lie at the same place */
    ferryIdentityForget(priv);
    virDomainObjEndAPI(&vm);
    qemuMonitorTestFree(test);
    return ret;
}


#define TARGET_FILE REPLAY_FOLDER "/target"
#define TARGET(fmt) \
    "<disk type='file'><driver type='" fmt "'/><source file='" TARGET_FILE "'/></disk>"
#define PARTIAL \
    "<disk type='file'><driver type='qcow2'/><source file='" TARGET_FILE "'/>" \
    "<backingStore type='file'><format type='qcow2'/><source file='" REPLAY_FOLDER "/base'/></backingStore></disk>"
#define NOBODY \
    "<disk type='network'><driver type='raw'/><source protocol='nbd' name='x'>" \
    "<host transport='unix' socket='" REPLAY_FOLDER "/nobody'/></source></disk>"
#define SOURCE REPLAY_FOLDER "/source"
#define VDA REPLAY_FOLDER "/vda"

#define BACKUP(what, extra, names) \
    "<domainbackup mode='" what "'>" extra "<disks>" names "</disks></domainbackup>"
#define STORE(disk, what, attrs) \
    "<disk name='" disk "' type='file'" attrs "><" what " file='" REPLAY_FOLDER "/" disk ".backup'/></disk>"
#define STORES(what, attrs) STORE("vda", what, attrs) STORE("vdb", what, attrs)
#define SLOW "<f:bandwidth xmlns:f='urn:ferry:domainbackup:1.0'>1</f:bandwidth>"
#define SERVER "<server transport='unix' socket='" REPLAY_FOLDER "/nbd'/>"
#define CHECKPOINT(name) "<domaincheckpoint><name>" name "</name></domaincheckpoint>"

#define SHALLOW VIR_DOMAIN_BLOCK_COPY_SHALLOW
#define REUSE VIR_DOMAIN_BLOCK_COPY_REUSE_EXT
#define PIVOT VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT
#define READY VIR_DOMAIN_DISK_MIRROR_STATE_READY

static const replayCase replayCases[] = {
    { "start-qcow2", replayCopyStart, TARGET("qcow2"), NULL, 0, true, SOURCE },
    { "start-raw", replayCopyStart, TARGET("raw"), NULL, 0, true, SOURCE },
    { "start-reuse", replayCopyStart, TARGET("qcow2"), NULL, REUSE, true, SOURCE },
    { "start-refused", replayCopyStart, NOBODY, NULL, 0, false, SOURCE },
    { "start-size", replayCopyStart, TARGET("qcow2"), NULL, REUSE, false, SOURCE },
    { "start-partial", replayCopyStart, PARTIAL, NULL, SHALLOW, true, SOURCE },
    { "pivot-partial", replayEnd, NULL, NULL, PIVOT, false, TARGET_FILE },
    { "pivot-early", replayEnd, NULL, NULL, PIVOT, true, SOURCE },
    { "pivot", replayEnd, NULL, NULL, PIVOT, false, TARGET_FILE },
    { "group-pivot", replayEndGroup, NULL, NULL, PIVOT, false, TARGET_FILE },
    { "group-abort", replayEndGroup, NULL, NULL, 0, false, SOURCE },
    { "abort-streaming", replayEnd, NULL, NULL, 0, false, SOURCE },
    { "abort-ready", replayEnd, NULL, NULL, 0, false, SOURCE },
    { "backup-push", replayBackupBegin, BACKUP("push", SLOW, STORES("target", "")),
      CHECKPOINT("c1"), 0, true, SOURCE, .c1 = true },
    { "backup-push-unstable", replayBackupBegin, BACKUP("push", SLOW, STORES("target", "")),
      NULL, 0, true, SOURCE },
    { "backup-pull", replayBackupBegin,
      BACKUP("pull", "<incremental>c1</incremental>" SERVER, STORES("scratch", "")),
      CHECKPOINT("c2"), 0, true, SOURCE, .c1 = true },
    { "backup-clash", replayBackupBegin,
      BACKUP("pull", SERVER, STORES("scratch", " exportname='same'")),
      CHECKPOINT("c1"), 0, false, SOURCE },
    { "backup-abort-push", replayEnd, NULL, NULL, 0, false, SOURCE },
    { "backup-abort-pull", replayEnd, NULL, NULL, 0, false, SOURCE },
    { "checkpoint-create", replayCheckpointCreate, NULL, CHECKPOINT("c1"), 0, false, SOURCE,
      .c1 = true },
    { "checkpoint-delete", replayCheckpointDelete, NULL, NULL, 0, false, SOURCE },
    { "recover-copy", replayRecover, NULL, NULL, 0, true, SOURCE },
    { "recover-copy-ready", replayRecover, NULL, NULL, 0, true, SOURCE, .mirror = READY },
    { "recover-copy-meanwhile", replayRecover, NULL, NULL, 0, true, SOURCE, .mirror = READY },
    { "recover-copy-start", replayRecover, NULL, NULL, 0, false, SOURCE },
    { "recover-copy-abort", replayRecover, NULL, NULL, 0, false, SOURCE },
    { "recover-copy-lost", replayRecover, NULL, NULL, 0, true, SOURCE, .mirror = READY },
    { "recover-partial", replayRecover, NULL, NULL, 0, true, SOURCE },
    { "recover-partial-meanwhile", replayRecover, NULL, NULL, 0, true, SOURCE },
    { "recover-partial-next", replayRecover, NULL, NULL, 0, true, SOURCE },
    { "recover-partial-start", replayRecover, NULL, NULL, 0, false, SOURCE },
    { "recover-snapshot-copies", replayRecover, NULL, NULL, 0, false, SOURCE },
    { "recover-snapshot-taken", replayRecover, NULL, NULL, 0, false, SOURCE },
    { "recover-snapshot-mirrors", replayRecover, NULL, NULL, 0, false, SOURCE },
    { "recover-pivot-flushed", replayRecover, NULL, NULL, 0, false, TARGET_FILE },
    { "recover-pivot-drained", replayRecover, NULL, NULL, 0, false, TARGET_FILE },
    { "recover-pivot-committed", replayRecover, NULL, NULL, 0, false, TARGET_FILE },
    { "recover-pivot-moved", replayRecover, NULL, NULL, 0, false, TARGET_FILE },
    { "recover-pivot-adopted", replayRecover, NULL, NULL, 0, false, TARGET_FILE },
    { "recover-pivot-lost", replayRecover, NULL, NULL, 0, false, TARGET_FILE },
    { "recover-group-flushed", replayRecover, NULL, NULL, 0, false, TARGET_FILE },
    { "recover-group-drained", replayRecover, NULL, NULL, 0, false, TARGET_FILE },
    { "recover-group-committed", replayRecover, NULL, NULL, 0, false, TARGET_FILE },
    { "recover-group-abort", replayRecover, NULL, NULL, 0, false, SOURCE },
    { "recover-push", replayRecover, NULL, NULL, 0, true, SOURCE, .c1 = true },
    { "recover-push-meanwhile", replayRecover, NULL, NULL, 0, false, SOURCE, .c1 = true },
    { "recover-pull", replayRecover, NULL, NULL, 0, true, SOURCE, .c1 = true },
    { "recover-pull-begin", replayRecover, NULL, NULL, 0, false, SOURCE },
    { "recover-pull-end", replayRecover, NULL, NULL, 0, false, SOURCE, .c1 = true },
    { "recover-pull-lost", replayRecover, NULL, NULL, 0, false, SOURCE, .c1 = true },
    { "recover-create", replayRecover, NULL, NULL, 0, false, SOURCE },
    { "recover-delete-opened", replayRecover, NULL, NULL, 0, false, SOURCE, .c1 = true },
    { "recover-delete-begun", replayRecover, NULL, NULL, 0, false, SOURCE },
    { "recover-delete-done", replayRecover, NULL, NULL, 0, false, SOURCE },
    { "migrate-source", replayMigrateOut, NULL, NULL, 0, false, VDA },
    { "migrate-destination", replayMigrateIn, NULL, NULL, 0, false, VDA },
    { "migrate-size-source", replayMigrateOut, NULL, NULL, 0, false, VDA },
    { "migrate-abort-source", replayMigrateOut, NULL, NULL, 0, false, VDA, REPLAY_END_ABORT },
};


/* How the mirrors of a migration share its bandwidth, when there is none of them, too. */
static int
replayShare(const void *opaque G_GNUC_UNUSED)
{
    static const struct {
        unsigned long long bandwidth;
        size_t ndisks;
        size_t ready;
        unsigned long long share;
    } cases[] = {
        { 0, 0, 0, 0 },
        { 0, 3, 1, 0 },
        { 12, 0, 0, 12 },
        { 12, 0, 2, 12 },
        { 12, 3, 0, 4 },
        { 12, 3, 1, 6 },
        { 12, 3, 3, 4 },
        { 12, 3, 4, 4 },
        { 2, 3, 0, 1 },
    };
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(cases); i++) {
        unsigned long long share = ferryMigrationShare(cases[i].bandwidth, cases[i].ndisks,
                                                       cases[i].ready);

        if (share != cases[i].share) {
            VIR_TEST_VERBOSE("case %zu: the share is %llu, expected %llu", i, share, cases[i].share);
            return -1;
        }
    }

    return 0;
}


static int
replaySetup(void)
{
    /* what a run that failed may have left */
    if (virFileDeleteTree(REPLAY_FOLDER) < 0 ||
        virEventRegisterDefaultImpl() < 0 || qemuTestDriverInit(&driver) < 0)
        return -1;

    VIR_FREE(driver.config->libDir);
    driver.config->libDir = g_strdup(REPLAY_FOLDER "/lib/qemu");
    VIR_FREE(driver.config->checkpointDir);
    driver.config->checkpointDir = g_strdup(REPLAY_FOLDER "/checkpoint");
    driver.lockManager = virLockManagerPluginNew("nop", "qemu", driver.config->configBaseDir, 0);
    driver.domainEventState = virObjectEventStateNew();
    driver.migrationPorts = virPortAllocatorRangeNew("replay", 49152, 49215);
    /* so that the tests need not be root, nor libvirt-qemu exist */
    driver.config->user = geteuid();
    driver.config->group = getegid();

    return ferryEngineStart(&driver, ferryClasses);
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

    if (virTestRun("migration: shares of the bandwidth", replayShare, NULL) < 0)
        ret = -1;

    ferryEngineStop();
    virObjectUnref(driver.domainEventState);
    virLockManagerPluginUnref(driver.lockManager);
    qemuTestDriverFree(&driver);
    virFileDeleteTree(REPLAY_FOLDER);

    return ret == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

VIR_TEST_MAIN(replayMain)
