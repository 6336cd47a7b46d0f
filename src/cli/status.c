/*
 * status.c: the command "ferry": shows the operations of all domains
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What runs is in the journals, whether or not a daemon runs. If one with Ferry does, it is asked how
 * far each operation is. Otherwise the operations are interrupted, and this says what the next driver
 * will do.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <json-c/json.h>

#include "cli/journals.h"
#include "cli/outlook.h"
#include "cli/process.h"
#include "cli/progress.h"
#include "cli/status.h"
#include "cli/text.h"

#define FERRY_CLI_COLUMN 12

/* What is known of all operations. */
typedef struct {
    ferryCliDaemon daemon;
    GPtrArray *ops;             /* of ferryCliOp * */
    GPtrArray *bad;             /* of ferryCliBad * */
    ferryCliProgress *progress; /* one for each of @ops */
    const char *folder;         /* the one whose journals were asked for, or NULL */
    const char *domain;         /* the only one that was asked for, or NULL */
} ferryCliView;

static const char *const driverNames[] = { "unknown", "stock", "ferry" };


/* Returns whether a driver takes care of @op. One that prepares a QEMU which is not started yet counts. */
static bool
ferryCliRuns(const ferryCliView *view,
             const ferryCliOp *op)
{
    return view->daemon.driver == FERRY_CLI_DRIVER_FERRY && (op->alive || (!op->started && !op->stopped));
}


/* Returns @text as it can be shown on a terminal: a name may have characters that control one, or turn the
 * direction of what is written. The caller frees it. */
static char *
ferryCliPrintable(const char *text)
{
    g_autofree char *valid = g_utf8_make_valid(text ? text : "", -1);
    GString *shown = g_string_new(NULL);
    const char *at;

    for (at = valid; *at; at = g_utf8_next_char(at)) {
        gunichar c = g_utf8_get_char(at);

        if (g_unichar_iscntrl(c) || g_unichar_type(c) == G_UNICODE_FORMAT)
            g_string_append_printf(shown, "\\u%04x", c);
        else
            g_string_append_unichar(shown, c);
    }

    return g_string_free(shown, FALSE);
}


/* Returns the names of disks, or of checkpoints, with commas. The caller frees it. */
static char *
ferryCliNames(const ferryCliOp *op)
{
    GString *all = g_string_new(NULL);
    size_t i;

    for (i = 0; i < op->disks->len; i++) {
        g_autofree char *name = ferryCliPrintable(g_ptr_array_index(op->disks, i));

        g_string_append_printf(all, "%s%s", i > 0 ? ", " : "", name);
    }

    return g_string_free(all, FALSE);
}


/* Returns what @op is. The caller frees it. */
static char *
ferryCliTitle(const ferryCliOp *op)
{
    g_autofree char *names = ferryCliNames(op);
    g_autofree char *name = ferryCliPrintable(op->domain);
    g_autofree char *target = ferryCliPrintable(op->target);

    if (strcmp(op->type, "copy") == 0)
        return g_strdup_printf(_("copy of disk '%1$s' of domain '%2$s' to '%3$s'"), names, name, target);
    if (strcmp(op->type, "backup") == 0)
        return g_strdup_printf(_("backup of disks %1$s of domain '%2$s'"), names, name);
    if (strcmp(op->type, "checkpoint") == 0 && g_strcmp0(op->plan, "delete") == 0)
        return g_strdup_printf(_("deletion of checkpoint '%1$s' of domain '%2$s'"), names, name);
    if (strcmp(op->type, "checkpoint") == 0)
        return g_strdup_printf(_("creation of checkpoint '%1$s' of domain '%2$s'"), names, name);
    if (strcmp(op->type, "snapshot") == 0)
        return g_strdup_printf(_("creation of snapshot '%1$s' of domain '%2$s'"), names, name);
    if (strcmp(op->type, "thaw") == 0)
        return g_strdup_printf(_("thaw of domain '%1$s'"), name);
    if (strcmp(op->type, "migration") == 0)
        return g_strdup_printf(_("migration of disks %1$s of domain '%2$s'"), names, name);

    return g_strdup_printf(_("incoming migration of domain '%1$s'"), name);
}


/* Returns how many columns of a terminal @text takes. */
static int
ferryCliWidth(const char *text)
{
    int width = 0;

    for (; *text; text = g_utf8_next_char(text))
        width += g_unichar_iswide(g_utf8_get_char(text)) ? 2 : 1;

    return width;
}


/* One line: what it says, and the text behind it. */
static void
ferryCliLine(const char *label,
             const char *text)
{
    g_print("  %s%*s%s\n", label, MAX(FERRY_CLI_COLUMN - ferryCliWidth(label), 1), "", text);
}


/* Returns the local time of @seconds since 1970, in ISO 8601. The caller frees it. */
static char *
ferryCliTime(gint64 seconds)
{
    g_autoptr(GDateTime) when = g_date_time_new_from_unix_local(seconds);

    return when ? g_date_time_format(when, "%Y-%m-%d %H:%M:%S %z") : g_strdup("-");
}


/* Returns a duration as hours:minutes:seconds. The caller frees it. */
static char *
ferryCliDuration(gint64 seconds)
{
    return g_strdup_printf("%" G_GINT64_FORMAT ":%02d:%02d", seconds / 3600, (int) (seconds / 60 % 60),
                           (int) (seconds % 60));
}


static void
ferryCliPrintProgress(const ferryCliProgress *progress)
{
    GString *text;
    g_autofree char *done = g_format_size_full(progress->done, G_FORMAT_SIZE_IEC_UNITS);
    g_autofree char *total = g_format_size_full(progress->total, G_FORMAT_SIZE_IEC_UNITS);

    if (progress->total == 0)
        return;

    text = g_string_new(NULL);
    g_string_append_printf(text, _("%1$.0f %% (%2$s of %3$s)"), 100.0 * progress->done / progress->total, done, total);

    if (progress->rate > 0) {
        g_autofree char *rate = g_format_size_full(progress->rate, G_FORMAT_SIZE_IEC_UNITS);

        g_string_append_printf(text, _(", %1$s a second"), rate);
    }

    if (progress->left >= 0) {
        g_autofree char *left = ferryCliDuration(progress->left);

        g_string_append_printf(text, _(", %1$s left"), left);
    }

    ferryCliLine(_("progress"), text->str);
    g_string_free(text, TRUE);
}


static void
ferryCliPrintOp(const ferryCliView *view,
                size_t i)
{
    const ferryCliOp *op = g_ptr_array_index(view->ops, i);
    g_autofree char *title = ferryCliTitle(op);

    g_print("\n%s\n", title);

    if (op->since > 0) {
        g_autofree char *time = ferryCliTime(op->since);
        g_autofree char *lasts = ferryCliDuration(MAX(g_get_real_time() / G_USEC_PER_SEC - op->since, 0));
        g_autofree char *text = g_strdup_printf("%s (%s)", time, lasts);

        ferryCliLine(_("since"), text);
    }

    if (op->plan && op->step) {
        g_autofree char *step = ferryCliPrintable(op->step);
        g_autofree char *text = g_strdup_printf("%s/%s", op->plan, step);

        ferryCliLine(_("step"), text);
    }

    ferryCliPrintProgress(&view->progress[i]);

    if (op->runs)
        ferryCliLine(_("state"), _("runs"));
    else if (view->daemon.driver == FERRY_CLI_DRIVER_FERRY)
        ferryCliLine(_("state"), _("its QEMU is gone, and not all can be tidied up yet: the daemon's log says why"));
    else
        ferryCliLine(_("state"), op->alive   ? _("interrupted: no driver takes care of it; its QEMU runs") :
                                 op->started ? _("interrupted, and its QEMU is gone") :
                                               _("interrupted, before its QEMU was started"));

    if (!op->runs)
        ferryCliLine(_("next start"), ferryCliOutlookText(op));
}


static void
ferryCliPrint(const ferryCliView *view)
{
    size_t i;

    ferryCliDaemonShow(&view->daemon);

    for (i = 0; i < view->ops->len; i++)
        ferryCliPrintOp(view, i);

    for (i = 0; i < view->bad->len; i++) {
        const ferryCliBad *bad = g_ptr_array_index(view->bad, i);
        g_autofree char *path = ferryCliPrintable(bad->path);

        if (bad->why)
            g_print(_("\njournal '%1$s' cannot be understood: %2$s\n"), path, bad->why);
        else
            g_print(_("\njournal '%1$s' was set aside, since it could not be understood: look there for images and "
                      "jobs that may be left over, then remove it\n"),
                    path);
    }

    if (view->ops->len == 0 && view->bad->len == 0 && view->domain)
        g_print(_("No operation of domain '%1$s' runs, and none was interrupted.\n"), view->domain);
    else if (view->ops->len == 0 && view->bad->len == 0)
        g_print(_("No operation runs, and none was interrupted.\n"));

    if (geteuid() != 0 && !view->folder)
        g_print(_("These are the operations of your own driver; root sees those of the system's.\n"));
}


static void
ferryCliAddText(struct json_object *object,
                const char *key,
                const char *text)
{
    g_autofree char *valid = text ? g_utf8_make_valid(text, -1) : NULL;

    if (valid)
        json_object_object_add(object, key, json_object_new_string(valid));
}


static void
ferryCliAddNumber(struct json_object *object,
                  const char *key,
                  gint64 number)
{
    json_object_object_add(object, key, json_object_new_int64(number));
}


static struct json_object *
ferryCliJsonOp(const ferryCliView *view,
               size_t i)
{
    const ferryCliOp *op = g_ptr_array_index(view->ops, i);
    const ferryCliProgress *progress = &view->progress[i];
    struct json_object *object = json_object_new_object();
    struct json_object *names = json_object_new_array();
    size_t j;

    ferryCliAddText(object, "domain", op->domain);
    ferryCliAddText(object, "uuid", op->uuid);
    ferryCliAddText(object, "type", op->type);
    ferryCliAddText(object, "name", op->name);
    for (j = 0; j < op->disks->len; j++)
        json_object_array_add(names, json_object_new_string(g_ptr_array_index(op->disks, j))); /* of an XML document */
    json_object_object_add(object, "of", names);
    ferryCliAddText(object, "target", op->target);
    ferryCliAddText(object, "plan", op->plan);
    ferryCliAddText(object, "step", op->step);
    if (op->since > 0)
        ferryCliAddNumber(object, "since", op->since);
    ferryCliAddText(object, "state", op->runs ? "runs" : op->alive || !op->started ? "interrupted" :
                                                                                     "stopped");

    if (progress->total > 0) {
        ferryCliAddNumber(object, "bytes-done", progress->done);
        ferryCliAddNumber(object, "bytes-total", progress->total);
        ferryCliAddNumber(object, "bytes-per-second", progress->rate);
        ferryCliAddNumber(object, "limit-bytes-per-second", progress->limit);
        if (progress->left >= 0)
            ferryCliAddNumber(object, "seconds-left", progress->left);
    }

    if (!op->runs)
        ferryCliAddText(object, "next-start", ferryCliOutlookName(ferryCliOutlookOf(op)));

    return object;
}


static void
ferryCliPrintJson(const ferryCliView *view)
{
    struct json_object *all = json_object_new_object();
    struct json_object *daemon = NULL;
    struct json_object *ops = json_object_new_array();
    struct json_object *aside = json_object_new_array();
    size_t i;

    if (view->daemon.name) {
        daemon = json_object_new_object();
        ferryCliAddText(daemon, "name", view->daemon.name);
        ferryCliAddNumber(daemon, "pid", view->daemon.pid);
        ferryCliAddText(daemon, "driver", driverNames[view->daemon.driver]);
    }

    for (i = 0; i < view->ops->len; i++)
        json_object_array_add(ops, ferryCliJsonOp(view, i));

    for (i = 0; i < view->bad->len; i++) {
        const ferryCliBad *bad = g_ptr_array_index(view->bad, i);
        g_autofree char *path = g_utf8_make_valid(bad->path, -1);

        json_object_array_add(aside, json_object_new_string(path));
    }

    json_object_object_add(all, "daemon", daemon);
    json_object_object_add(all, "operations", ops);
    json_object_object_add(all, "set-aside", aside);
    /* UTF-8, whatever the locale is */
    puts(json_object_to_json_string_ext(all, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(all);
}


/* Keeps the operations of one domain, by name or UUID. */
static void
ferryCliSelect(GPtrArray *ops,
               const char *domain)
{
    size_t i = 0;

    while (i < ops->len) {
        const ferryCliOp *op = g_ptr_array_index(ops, i);

        if (g_strcmp0(op->domain, domain) == 0 || g_strcmp0(op->uuid, domain) == 0)
            i++;
        else
            g_ptr_array_remove_index(ops, i);
    }
}


/**
 * ferryCliStatus:
 *
 * "ferry status". Returns the command's exit status.
 */
int
ferryCliStatus(int argc,
               char **argv)
{
    gboolean json = FALSE;
    g_autofree char *wanted = NULL;
    g_autofree char *folder = NULL;
    bool answered;
    size_t i;
    int rc;
    const GOptionEntry options[] = {
        { "json", 0, 0, G_OPTION_ARG_NONE, &json, N_("print JSON, for programs"), NULL },
        { "journals", 0, 0, G_OPTION_ARG_FILENAME, &wanted,
          N_("read the journals in this folder, of a driver that does not run"), N_("FOLDER") },
        { NULL }
    };
    g_autoptr(GOptionContext) context = g_option_context_new(N_("[DOMAIN]"));
    g_autoptr(GError) err = NULL;
    ferryCliView view = { .daemon = { .name = NULL } };

    g_option_context_set_translation_domain(context, FERRY_TEXT_DOMAIN);
    g_option_context_add_main_entries(context, options, FERRY_TEXT_DOMAIN);

    if (!g_option_context_parse(context, &argc, &argv, &err) || argc > 2) {
        g_printerr("ferry: %s\n", err ? err->message : _("more than one domain is named"));
        return EXIT_FAILURE;
    }

    folder = wanted ? g_strdup(wanted) : ferryCliFolder();
    view.folder = wanted;
    if (!wanted)
        view.daemon = ferryCliDaemonFind();

    if (ferryCliJournals(folder, &view.ops, &view.bad, &err) < 0) {
        g_printerr("ferry: %s\n", err->message);
        return EXIT_FAILURE;
    }

    if (argc == 2) {
        view.domain = argv[1];
        ferryCliSelect(view.ops, view.domain);
    }

    for (i = 0; i < view.ops->len; i++) {
        ferryCliOp *op = g_ptr_array_index(view.ops, i);

        op->runs = ferryCliRuns(&view, op);
    }

    view.progress = ferryCliProgressOfAll(ferryCliDaemonUri(&view.daemon), view.ops, &answered);

    if (json)
        ferryCliPrintJson(&view);
    else
        ferryCliPrint(&view);

    rc = fflush(stdout) == 0 && !ferror(stdout) ? EXIT_SUCCESS : EXIT_FAILURE;
    if (rc != EXIT_SUCCESS)
        perror("ferry");

    /* a thread that waits for a daemon must not meet the end of the libraries */
    if (!answered)
        _exit(rc);

    g_free(view.progress);
    g_ptr_array_unref(view.ops);
    g_ptr_array_unref(view.bad);
    return rc;
}
