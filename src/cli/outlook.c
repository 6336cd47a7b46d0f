/*
 * outlook.c: the command "ferry": what becomes of an operation that was interrupted
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The next driver decides: recover() and stopped() of the operation's class (docs/architecture.rst).
 * Here is what they do, in short, for each class; tests/faultmatrix.py compares it with what they do.
 */

#include <string.h>

#include "cli/outlook.h"
#include "cli/text.h"

/* Returns whether the plan that is furthest on is @plan and has come to one of @steps, which ends with
 * NULL. */
static bool
ferryCliReached(const ferryCliOp *op,
                const char *plan,
                const char *const *steps)
{
    return g_strcmp0(op->plan, plan) == 0 && op->step && g_strv_contains(steps, op->step);
}


static ferryCliOutlook
ferryCliOutlookCopy(const ferryCliOp *op)
{
    static const char *const moved[] = { "finalize", "unpause", "thaw", "adopt", "release", NULL };
    static const char *const started[] = { "mirror", NULL };
    static const char *const layered[] = { "layer", "mirror", NULL };
    bool pivot = g_strcmp0(op->plan, "pivot") == 0;

    if (!op->withdrawn && (op->committed || ferryCliReached(op, "pivot", moved)))
        return FERRY_CLI_FORWARD;

    if (!op->alive || op->pending || (!op->withdrawn && g_strcmp0(op->goal, "abort") == 0) ||
        (!pivot && !ferryCliReached(op, "start", op->layered ? layered : started)))
        return FERRY_CLI_BACK;

    if (op->withdrawn || g_strcmp0(op->goal, "pivot") != 0)
        return FERRY_CLI_GOES_ON;

    /* a group moves as a whole, or not at all */
    return op->leader ? FERRY_CLI_DEPENDS : FERRY_CLI_FORWARD;
}


static ferryCliOutlook
ferryCliOutlookBackup(const ferryCliOp *op)
{
    static const char *const begun[] = { "begun", NULL };
    static const char *const early[] = { "publish", "files", "access", "create", NULL };
    bool forward = false;

    /* QEMU writes the last data of a pushed image when it closes that */
    if (g_strcmp0(op->result, "completed") == 0)
        forward = op->alive || g_strcmp0(op->goal, "pull") == 0 || ferryCliReached(op, "begin", early) || !op->plan;
    else if (op->alive && g_strcmp0(op->result, "none") == 0 && ferryCliReached(op, "begin", begun))
        return FERRY_CLI_GOES_ON;

    return forward ? FERRY_CLI_FORWARD : FERRY_CLI_BACK;
}


static ferryCliOutlook
ferryCliOutlookCheckpoint(const ferryCliOp *op)
{
    static const char *const deleted[] = { "bitmaps", "close", "metadata", NULL };
    static const char *const created[] = { "adopt", NULL };

    if (op->committed || ferryCliReached(op, "delete", deleted) || ferryCliReached(op, "checkpoint", created))
        return FERRY_CLI_FORWARD;
    return FERRY_CLI_BACK;
}


static ferryCliOutlook
ferryCliOutlookSnapshot(const ferryCliOp *op)
{
    static const char *const taken[] = { "take", "thaw", "mirrors", NULL };

    if (op->complete)
        return FERRY_CLI_FORWARD;

    return !op->alive && ferryCliReached(op, "create", taken) ? FERRY_CLI_DEPENDS : FERRY_CLI_BACK;
}


static ferryCliOutlook
ferryCliOutlookThaw(const ferryCliOp *op)
{
    return op->alive ? FERRY_CLI_FORWARD : FERRY_CLI_BACK;
}


static ferryCliOutlook
ferryCliOutlookMigration(const ferryCliOp *op G_GNUC_UNUSED)
{
    return FERRY_CLI_BACK;
}


static ferryCliOutlook
ferryCliOutlookIncoming(const ferryCliOp *op)
{
    static const char *const kept[] = { "keep", "close", NULL };

    if (op->alive)
        return FERRY_CLI_DEPENDS;

    return op->committed || ferryCliReached(op, "serve", kept) ? FERRY_CLI_FORWARD : FERRY_CLI_BACK;
}


/* clang-format off */
static const struct {
    const char *type;
    ferryCliOutlook (*of)(const ferryCliOp *op);
    /* what it comes to: N_() for those that are possible */
    const char *text[FERRY_CLI_OUTLOOKS];
} ferryCliClasses[] = {
    { "copy", ferryCliOutlookCopy, {
        [FERRY_CLI_GOES_ON] = N_("the copy goes on"),
        [FERRY_CLI_FORWARD] = N_("the guest is moved to the copy, for good; do not start the domain without Ferry "
                                 "before that"),
        [FERRY_CLI_BACK] = N_("the copy is ended; the guest stays where it is"),
        [FERRY_CLI_DEPENDS] = N_("the guest is moved to all copies of the group, or to none") } },
    { "backup", ferryCliOutlookBackup, {
        [FERRY_CLI_GOES_ON] = N_("the backup goes on"),
        [FERRY_CLI_FORWARD] = N_("the backup was completed; what it has made stays"),
        [FERRY_CLI_BACK] = N_("the backup has failed; what must not stay of it is removed") } },
    { "checkpoint", ferryCliOutlookCheckpoint, {
        [FERRY_CLI_FORWARD] = N_("it is carried through"),
        [FERRY_CLI_BACK] = N_("it is taken back") } },
    { "snapshot", ferryCliOutlookSnapshot, {
        [FERRY_CLI_FORWARD] = N_("the snapshot stays"),
        [FERRY_CLI_BACK] = N_("the snapshot is taken back"),
        [FERRY_CLI_DEPENDS] = N_("the snapshot stays if the configuration names it by now; the daemon's log says "
                                 "so, and what to do") } },
    { "thaw", ferryCliOutlookThaw, {
        [FERRY_CLI_FORWARD] = N_("the guest is thawed"),
        [FERRY_CLI_BACK] = N_("nothing: its QEMU is gone") } },
    { "migration", ferryCliOutlookMigration, {
        [FERRY_CLI_BACK] = N_("the disks are not migrated; the guest stays on this host, unless it runs on the "
                              "other one already") } },
    { "incoming", ferryCliOutlookIncoming, {
        [FERRY_CLI_FORWARD] = N_("the images stay, since the guest has arrived, or may have"),
        [FERRY_CLI_BACK] = N_("images that were created for the guest are removed"),
        [FERRY_CLI_DEPENDS] = N_("if the guest has arrived, it stays; else images that were created for it are "
                                 "removed") } },
};
/* clang-format on */


/* Returns the place of the class of @op, which is known (journals.c). */
static size_t
ferryCliClassOf(const ferryCliOp *op)
{
    size_t i = 0;

    while (strcmp(op->type, ferryCliClasses[i].type) != 0)
        i++;

    return i;
}


/**
 * ferryCliOutlookOf:
 *
 * Returns what the next driver will do with @op.
 */
ferryCliOutlook
ferryCliOutlookOf(const ferryCliOp *op)
{
    return ferryCliClasses[ferryCliClassOf(op)].of(op);
}


/* Returns the name of @outlook for programs; it does not change. */
const char *
ferryCliOutlookName(ferryCliOutlook outlook)
{
    static const char *const names[] = { "goes-on", "forward", "back", "depends" };

    return names[outlook];
}


/* Returns the same for readers: translated; it is not to be freed. */
const char *
ferryCliOutlookText(const ferryCliOp *op)
{
    return _(ferryCliClasses[ferryCliClassOf(op)].text[ferryCliOutlookOf(op)]);
}
