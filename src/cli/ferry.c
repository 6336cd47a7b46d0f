/*
 * ferry.c: the command "ferry", for administrators: what runs, and whether Ferry is used
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A program of its own, which uses only public API of libvirt.
 */

#include <locale.h>
#include <stdlib.h>
#include <string.h>

#include <glib.h>

#include "cli/builds.h"
#include "cli/process.h"
#include "cli/status.h"
#include "cli/text.h"

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
} verbs[] = {
    { "status", ferryCliStatus, N_("status [--json] [DOMAIN]   the operations that run or were interrupted") },
    { "version", ferryCliVersion, N_("version                    which Ferry is here, and which daemon uses it") },
    { "enable", ferryCliEnable, N_("enable                     daemons use Ferry from their next start on") },
    { "disable", ferryCliDisable, N_("disable                    daemons use the stock driver") },
};


static void
ferryCliUsage(void (*print)(const char *format, ...))
{
    size_t i;

    print("%s\n\n", _("usage: ferry VERB [ARGUMENTS]"));
    for (i = 0; i < G_N_ELEMENTS(verbs); i++)
        print("  %s\n", _(verbs[i].help));
}


int
main(int argc,
     char **argv)
{
    g_autofree char *texts = ferryCliPrefix("share/locale");
    size_t i;

    setlocale(LC_ALL, "");

    if (texts)
        bindtextdomain(FERRY_TEXT_DOMAIN, texts);
    /* g_print() turns it into what the terminal has */
    bind_textdomain_codeset(FERRY_TEXT_DOMAIN, "UTF-8");
    /* to look must not start a daemon */
    g_setenv("LIBVIRT_AUTOSTART", "0", /* overwrite= */ TRUE);

    if (argc < 2 || strcmp(argv[1], "help") == 0 || strcmp(argv[1], "--help") == 0) {
        ferryCliUsage(argc < 2 ? g_printerr : g_print);
        return argc < 2 ? EXIT_FAILURE : EXIT_SUCCESS;
    }

    for (i = 0; i < G_N_ELEMENTS(verbs); i++) {
        if (strcmp(argv[1], verbs[i].name) == 0)
            return verbs[i].run(argc - 1, argv + 1);
    }

    g_printerr(_("ferry: there is no verb '%1$s'\n"), argv[1]);
    ferryCliUsage(g_printerr);
    return EXIT_FAILURE;
}
