/*
 * journal.c: the steps that the operations of a domain may have run, on disk
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Each domain has one file, which is replaced as a whole before a step runs. The file
 * says for each operation which steps may have acted, and has the data to undo them.
 * Since undo checks before it acts, "may have" is enough.
 *
 * The files lie beside the QEMU driver's lib folder, not in it: the lib folder belongs to
 * the user QEMU runs as, and a guest that breaks out of QEMU must not be able to choose
 * which files the driver removes. They do not lie under /run, because the images that
 * operations create survive a crash of the host.
 */

#include <config.h>

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include "block/durable.h"
#include "engine/journal.h"
#include "virerror.h"
#include "virfile.h"
#include "virhash.h"
#include "virlog.h"
#include "virstring.h"
#include "virxml.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.journal");

#define FERRY_JOURNAL_VERSION 1
#define FERRY_JOURNAL_SUFFIX ".xml"
#define FERRY_JOURNAL_UNFINISHED ".new"
#define FERRY_JOURNAL_SIZE_MAX (16 * 1024 * 1024)

/* The mark that ferryJournalCommit() and ferryJournalWithdraw() overwrite in place. Its
 * length is fixed, so that nothing moves. A mark that is only half on the disk counts as
 * "no ". */
#define FERRY_JOURNAL_OPEN "no "
#define FERRY_JOURNAL_COMMITTED "yes"
#define FERRY_JOURNAL_WITHDRAWN "off"


static char *
ferryJournalDir(virQEMUDriver *driver)
{
    g_autoptr(virQEMUDriverConfig) cfg = virQEMUDriverGetConfig(driver);
    g_autofree char *parent = g_path_get_dirname(cfg->libDir);

    return g_strdup_printf("%s/ferry", parent);
}


static char *
ferryJournalPath(virQEMUDriver *driver,
                 const unsigned char *uuid)
{
    g_autofree char *dir = ferryJournalDir(driver);
    char uuidstr[VIR_UUID_STRING_BUFLEN];

    virUUIDFormat(uuid, uuidstr);

    return g_strdup_printf("%s/%s" FERRY_JOURNAL_SUFFIX, dir, uuidstr);
}


static int
ferryJournalFormatOp(ferryOp *op,
                     virBuffer *buf)
{
    g_auto(virBuffer) attrs = VIR_BUFFER_INITIALIZER;
    g_auto(virBuffer) children = VIR_BUFFER_INIT_CHILD(buf);
    size_t i;

    virBufferEscapeString(&attrs, " type='%s'", op->klass->name);
    virBufferEscapeString(&attrs, " name='%s'", op->name);
    virBufferAddLit(&attrs, " committed='" FERRY_JOURNAL_OPEN "'");
    virBufferEscapeString(&attrs, " leader='%s'", op->leader);
    if (op->since > 0)
        virBufferAsprintf(&attrs, " since='%lld'", op->since);
    if (op->stopped)
        virBufferAddLit(&attrs, " stopped='yes'");

    for (i = 0; op->klass->plans[i]; i++) {
        if (op->progress[i] == 0)
            continue;
        virBufferAsprintf(&children, "<plan name='%s' last='%s'/>\n",
                          op->klass->plans[i]->name,
                          op->klass->plans[i]->steps[op->progress[i] - 1].name);
    }

    if (op->klass->format && op->klass->format(op, &children) < 0)
        return -1;

    virXMLFormatElement(buf, "operation", &attrs, &children);
    return 0;
}


/* virFileRewrite() and GLib cannot replace a file atomically without waiting for disk.
 * Most steps need no wait: they change only QEMU, which does not survive a host crash. */
static int
ferryJournalStore(const char *path,
                  const char *text,
                  bool durable)
{
    g_autofree char *dir = g_path_get_dirname(path);
    g_autofree char *tmp = g_strdup_printf("%s" FERRY_JOURNAL_UNFINISHED, path);
    VIR_AUTOCLOSE fd = -1;

    if (ferryDurableMkdir(dir, 0700) < 0)
        return -1;

    if ((fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600)) < 0 ||
        safewrite(fd, text, strlen(text)) < 0 ||
        (durable && g_fsync(fd) < 0) ||
        rename(tmp, path) < 0) {
        virReportSystemError(errno, _("cannot write journal '%1$s'; the step that it was to record "
                                      "is not taken; check the space there"),
                             path);
        if (fd >= 0)
            unlink(tmp);
        return -1;
    }

    if (durable && ferryDurableFolder(dir) < 0) {
        g_autofree char *why = g_strdup(virGetLastErrorMessage());

        virReportError(virGetLastErrorCode(), _("cannot write journal '%1$s': %2$s"), path, why);
        return -1;
    }

    return 0;
}


/**
 * ferryJournalWrite:
 * @vm: domain, locked; NULL for operations whose domain is gone
 * @durable: the journal must survive a crash of the host, not only of the driver
 *
 * Replaces the journal of @vm atomically by one with the current state of its operations,
 * or removes the journal when there is no operation.
 *
 * Returns 0, or -1 with an error reported and the old journal in place. If syncing the
 * folder failed, the new one is in place, but a host crash may restore the old one.
 */
int
ferryJournalWrite(virDomainObj *vm,
                  bool durable)
{
    g_auto(virBuffer) buf = VIR_BUFFER_INITIALIZER;
    g_auto(virBuffer) attrs = VIR_BUFFER_INITIALIZER;
    g_auto(virBuffer) children = VIR_BUFFER_INIT_CHILD(&buf);
    g_autofree char *path = NULL;
    GPtrArray *ops;
    char uuidstr[VIR_UUID_STRING_BUFLEN];
    size_t i;

    if (!vm)
        return 0;

    ops = ferryOpList(vm);

    if (!ops || ops->len == 0) {
        ferryJournalRemove(QEMU_DOMAIN_PRIVATE(vm)->driver, vm->def->uuid, durable);
        return 0;
    }

    virUUIDFormat(vm->def->uuid, uuidstr);
    virBufferAsprintf(&attrs, " version='%d'", FERRY_JOURNAL_VERSION);
    virBufferEscapeString(&attrs, " name='%s'", vm->def->name);
    virBufferAsprintf(&attrs, " uuid='%s'", uuidstr);
    ferryRunFormat(&attrs, vm->pid);

    for (i = 0; i < ops->len; i++) {
        if (ferryJournalFormatOp(g_ptr_array_index(ops, i), &children) < 0)
            return -1;
    }

    virXMLFormatElement(&buf, "ferry", &attrs, &children);
    path = ferryJournalPath(QEMU_DOMAIN_PRIVATE(vm)->driver, vm->def->uuid);

    for (i = 0; i < ops->len; i++)
        ((ferryOp *) g_ptr_array_index(ops, i))->synced = false;

    if (ferryJournalStore(path, virBufferCurrentContent(&buf), durable) < 0)
        return -1;

    for (i = 0; i < ops->len; i++) {
        ferryOp *op = g_ptr_array_index(ops, i);

        op->durable = op->durable || durable;
        op->synced = durable;
    }

    return 0;
}


static int
ferryJournalMark(int fd,
                 const char *mark,
                 off_t offset)
{
    ssize_t len = strlen(mark);

    return pwrite(fd, mark, len, offset) == len && fdatasync(fd) == 0 ? 0 : -1;
}


/* Gives @op its mark in the journal on the disk, in a block that the file already has. On an
 * error, which is reported, the mark is as it was if the disk allows it. */
static int
ferryJournalOverwrite(ferryOp *op,
                      const char *mark)
{
    g_autofree char *path = ferryJournalPath(op->driver, op->vm->def->uuid);
    g_autofree char *text = NULL;
    g_autofree char *start = g_strdup_printf(" name='%s' committed='", op->name);
    const char *old;
    VIR_AUTOCLOSE fd = -1;
    off_t offset;

    if (virFileReadAll(path, FERRY_JOURNAL_SIZE_MAX, &text) < 0)
        return -1;

    if (!(old = strstr(text, start))) {
        virReportError(VIR_ERR_INTERNAL_ERROR,
                       _("journal '%1$s' does not have operation '%2$s'"), path, op->name);
        return -1;
    }

    offset = old + strlen(start) - text;

    if ((fd = open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW)) < 0 ||
        ferryJournalMark(fd, mark, offset) < 0) {
        virReportSystemError(errno, _("cannot write journal '%1$s'; the step that it was to record "
                                      "is not taken"),
                             path);
        /* the mark may be in the file although syncing it failed: reset the mark, unless
         * it was set before this call */
        if (fd >= 0 && STRPREFIX(text + offset, FERRY_JOURNAL_OPEN))
            ignore_value(ferryJournalMark(fd, FERRY_JOURNAL_OPEN, offset));
        return -1;
    }

    return 0;
}


/**
 * ferryJournalCommit:
 * @op: about to run its plan's point of no return. op->synced is true: the journal on the
 *      disk is the latest one and names the step before. Domain locked.
 *
 * Marks @op, and with it the operations that it leads, as committed. A new journal would need the file
 * system's log: the guest would wait ten times as long.
 *
 * Returns 0, or -1 with an error reported.
 */
int
ferryJournalCommit(ferryOp *op)
{
    return ferryJournalOverwrite(op, FERRY_JOURNAL_COMMITTED);
}


/**
 * ferryJournalWithdraw:
 * @op: a journal that no longer says what its client asked for could not be written.
 *      Domain locked.
 *
 * Marks @op as withdrawn (op->withdrawn in the next driver), which needs no space on the
 * disk. The next journal that is written has no such mark.
 *
 * Returns 0, or -1 with an error reported.
 */
int
ferryJournalWithdraw(ferryOp *op)
{
    return ferryJournalOverwrite(op, FERRY_JOURNAL_WITHDRAWN);
}


/**
 * ferryJournalRemove:
 * @durable: the journal must not come back after a crash of the host
 */
void
ferryJournalRemove(virQEMUDriver *driver,
                   const unsigned char *uuid,
                   bool durable)
{
    g_autofree char *dir = ferryJournalDir(driver);
    g_autofree char *path = ferryJournalPath(driver, uuid);

    if (unlink(path) < 0) {
        if (errno != ENOENT)
            VIR_WARN("cannot remove journal '%s': %s", path, g_strerror(errno));
    } else if (durable && ferryDurableFolder(dir) < 0) {
        VIR_WARN("%s", virGetLastErrorMessage());
        virResetLastError();
    }
}


static const ferryPlan *
ferryJournalFindPlan(ferryOp *op,
                     const char *name)
{
    size_t i;

    for (i = 0; op->klass->plans[i]; i++) {
        if (STREQ(op->klass->plans[i]->name, name))
            return op->klass->plans[i];
    }

    virReportError(VIR_ERR_XML_DETAIL, _("unknown plan '%1$s' in operation '%2$s'"), name, op->name);
    return NULL;
}


/* Steps are found by name, since their numbers may differ in another version of Ferry. If
 * this version does not know the step, all steps may have acted, and undo checks each.
 * A plan with a point of no return cannot be undone like that: this is an error. */
static int
ferryJournalParsePlan(ferryOp *op,
                      xmlNodePtr node)
{
    g_autofree char *name = virXMLPropStringRequired(node, "name");
    g_autofree char *last = virXMLPropStringRequired(node, "last");
    const ferryPlan *plan;

    if (!name || !last || !(plan = ferryJournalFindPlan(op, name)))
        return -1;

    ferryPlanAssume(op, plan, last);

    if (!ferryPlanReached(op, plan, last) && ferryPlanPastReturn(op, plan)) {
        virReportError(VIR_ERR_XML_DETAIL, _("unknown step '%1$s' of plan '%2$s' in operation '%3$s'"),
                       last, name, op->name);
        return -1;
    }

    return 0;
}


static int
ferryJournalParsePlans(ferryOp *op,
                       xmlXPathContextPtr ctxt)
{
    g_autofree xmlNodePtr *nodes = NULL;
    int n = virXPathNodeSet("./plan", ctxt, &nodes);
    int i;

    for (i = 0; i < n; i++) {
        if (ferryJournalParsePlan(op, nodes[i]) < 0)
            return -1;
    }

    return MIN(n, 0);
}


/* @op, or its leader, is marked as committed: if the step after the last recorded one is the point of no
 * return, that step has begun. Journals that are written later record the step itself. */
static void
ferryJournalApplyCommit(ferryOp *op)
{
    size_t i;

    for (i = 0; op->klass->plans[i]; i++) {
        const ferryStep *steps = op->klass->plans[i]->steps;
        const ferryStep *next;

        if (op->progress[i] == 0)
            continue;

        next = ferryStepNextRecorded(&steps[op->progress[i] - 1]);
        if (ferryStepIsReturn(next))
            op->progress[i] = next - steps + 1;
    }
}


/* @op is marked as withdrawn: it failed at its point of no return, if it got there. */
static void
ferryJournalApplyWithdrawal(ferryOp *op)
{
    size_t i;

    for (i = 0; op->klass->plans[i]; i++) {
        while (ferryPlanPastReturn(op, op->klass->plans[i]))
            op->progress[i]--;
    }
}


static ferryOp *
ferryJournalParseOp(virQEMUDriver *driver,
                    const ferryOpClass *const *classes,
                    xmlNodePtr node,
                    xmlXPathContextPtr ctxt,
                    bool *isCommitted)
{
    VIR_XPATH_NODE_AUTORESTORE(ctxt)
    g_autoptr(ferryOp) op = NULL;
    g_autofree char *type = virXMLPropStringRequired(node, "type");
    g_autofree char *name = virXMLPropStringRequired(node, "name");
    g_autofree char *committed = virXMLPropString(node, "committed");
    g_autofree char *stopped = virXMLPropString(node, "stopped");

    if (!type || !name)
        return NULL;

    while (*classes && STRNEQ((*classes)->name, type))
        classes++;

    if (!*classes) {
        virReportError(VIR_ERR_XML_DETAIL, _("unknown operation type '%1$s'"), type);
        return NULL;
    }

    ctxt->node = node;
    op = ferryOpNew(/* vm= */ NULL, *classes, name, /* data= */ NULL);
    op->driver = driver;
    op->durable = true;
    op->stopped = STREQ_NULLABLE(stopped, "yes");
    op->withdrawn = STREQ_NULLABLE(committed, FERRY_JOURNAL_WITHDRAWN);
    op->leader = virXMLPropString(node, "leader");
    op->since = 0;

    if (virXMLPropLongLong(node, "since", 10, VIR_XML_PROP_NONE, &op->since, 0) < 0 ||
        ferryJournalParsePlans(op, ctxt) < 0 ||
        !(op->data = op->klass->parse(driver, ctxt)))
        return NULL;

    if (op->withdrawn && !op->stopped)
        ferryJournalApplyWithdrawal(op);

    *isCommitted = STREQ_NULLABLE(committed, FERRY_JOURNAL_COMMITTED);
    return g_steal_pointer(&op);
}


static int
ferryJournalParse(virQEMUDriver *driver,
                  const char *path,
                  const ferryOpClass *const *classes,
                  GPtrArray *ops)
{
    g_autoptr(xmlDoc) xml = NULL;
    g_autoptr(xmlXPathContext) ctxt = NULL;
    g_autofree xmlNodePtr *nodes = NULL;
    g_autofree char *text = NULL;
    g_autoptr(GHashTable) committed = virHashNew(NULL);
    g_auto(ferryRun) run = { 0 };
    unsigned int version;
    int n;
    int i;

    if (virFileReadAll(path, FERRY_JOURNAL_SIZE_MAX, &text) < 0 ||
        !(xml = virXMLParse(/* filename= */ NULL, text, _("(operation journal)"), "ferry", &ctxt,
                            /* schemafile= */ NULL, /* validate= */ false)) ||
        virXMLPropUInt(ctxt->node, "version", 10, VIR_XML_PROP_REQUIRED, &version) < 0)
        return -1;

    if (version > FERRY_JOURNAL_VERSION) {
        virReportError(VIR_ERR_XML_DETAIL, _("journal version %1$u is newer than %2$d"),
                       version, FERRY_JOURNAL_VERSION);
        return -1;
    }

    if (ferryRunParse(ctxt->node, &run) < 0 ||
        (n = virXPathNodeSet("./operation", ctxt, &nodes)) < 0)
        return -1;

    for (i = 0; i < n; i++) {
        bool isCommitted = false;
        ferryOp *op = ferryJournalParseOp(driver, classes, nodes[i], ctxt, &isCommitted);

        if (!op)
            return -1;
        ferryRunCopy(&op->run, &run);
        g_ptr_array_add(ops, op);
        if (isCommitted)
            g_hash_table_insert(committed, g_strdup(op->name), op);
    }

    for (i = 0; i < n; i++) {
        ferryOp *op = g_ptr_array_index(ops, ops->len - n + i);

        /* what has outlived its QEMU has recorded the step; a mark is that of an operation of this name
         * in the next QEMU */
        if (op->stopped || op->withdrawn)
            continue;

        if (g_hash_table_contains(committed, op->name) ||
            (op->leader && g_hash_table_contains(committed, op->leader)))
            ferryJournalApplyCommit(op);
    }

    return 0;
}


/**
 * ferryJournalRead:
 * @classes: all operation classes; ends with NULL
 * @ops: filled with the operations in the journal
 *
 * A journal that cannot be understood must stop neither the driver nor the guest: it is
 * renamed to *.bad, and the log says what to check.
 *
 * Returns 0 (also when there is no journal), or -1 with the error logged, not reported.
 */
int
ferryJournalRead(virQEMUDriver *driver,
                 const unsigned char *uuid,
                 const ferryOpClass *const *classes,
                 GPtrArray *ops)
{
    g_autofree char *path = ferryJournalPath(driver, uuid);
    g_autofree char *bad = g_strdup_printf("%s.bad", path);

    if (!virFileExists(path))
        return 0;

    if (ferryJournalParse(driver, path, classes, ops) == 0)
        return 0;

    VIR_ERROR(_("journal '%1$s' cannot be understood (%2$s) and was set aside as '%3$s'; "
                "look there for images and jobs that may be left over"),
              path, virGetLastErrorMessage(), bad);
    virResetLastError();
    g_ptr_array_set_size(ops, 0);

    if (rename(path, bad) < 0)
        VIR_ERROR(_("cannot rename journal '%1$s': %2$s"), path, g_strerror(errno));

    return -1;
}


/**
 * ferryJournalForEach:
 *
 * Calls @reader with the UUID of every domain that has a journal; @reader may remove that
 * journal. Removes the unfinished files that a killed driver has left.
 */
int
ferryJournalForEach(virQEMUDriver *driver,
                    ferryJournalReader reader,
                    void *opaque)
{
    g_autofree char *path = ferryJournalDir(driver);
    g_autoptr(DIR) dir = NULL;
    struct dirent *entry;
    int rc;

    if ((rc = virDirOpenIfExists(&dir, path)) <= 0)
        return rc;

    while ((rc = virDirRead(dir, &entry, path)) > 0) {
        g_autofree char *name = g_strdup(entry->d_name);
        unsigned char uuid[VIR_UUID_BUFLEN];

        if (virStringStripSuffix(name, FERRY_JOURNAL_SUFFIX FERRY_JOURNAL_UNFINISHED)) {
            g_autofree char *unfinished = g_build_filename(path, entry->d_name, NULL);

            unlink(unfinished);
        } else if (virStringStripSuffix(name, FERRY_JOURNAL_SUFFIX) &&
                   virUUIDParse(name, uuid) == 0) {
            reader(uuid, name, opaque);
        }
    }

    return rc;
}
