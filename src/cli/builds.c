/*
 * builds.c: the command "ferry": which Ferry is here, and whether the daemons use it
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The layout of Ferry's folder is explained in hook/loader.c. What makes a daemon load it is a drop-in of
 * systemd that comes with Ferry (FERRY_CLI_DROPIN in the folder of each of the two services). A link of
 * the same name to /dev/null in /etc takes it away, which is systemd's own way.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <glib/gstdio.h>

#include "cli/builds.h"
#include "cli/process.h"
#include "cli/text.h"
#include "hook/buildid.h"
#include "hook/version.h"

#define FERRY_CLI_DRIVER_FILE "libferry_driver_qemu.so"
#define FERRY_CLI_DROPIN "ferry.conf"
#define FERRY_CLI_OWN "/etc/systemd/system"

static const char *const services[] = { "libvirtd.service.d", "virtqemud.service.d", NULL };


/* Shows the drivers that were built, and which of them is for the host's libvirt. */
static void
ferryCliShowBuilds(void)
{
    g_autofree char *folder = ferryCliPrefix("lib/ferry");
    g_autofree char *host = ferryBuildIdOfFile(FERRY_STOCK_DRIVER);
    GDir *dir = folder ? g_dir_open(folder, 0, NULL) : NULL;
    const char *id;
    bool fits = false;

    while (dir && (id = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, id, FERRY_CLI_DRIVER_FILE, NULL);

        if (!g_file_test(path, G_FILE_TEST_EXISTS))
            continue;

        if (g_strcmp0(id, host) == 0) {
            g_print(_("driver '%1$s': built for the QEMU driver of this host\n"), path);
            fits = true;
        } else {
            g_print(_("driver '%1$s': built for another one\n"), path);
        }
    }

    if (dir)
        g_dir_close(dir);

    if (!host)
        g_print(_("'%1$s', the stock QEMU driver, cannot be read, or has no build-id\n"), FERRY_STOCK_DRIVER);
    else if (!fits)
        g_print(_("No driver was built for the QEMU driver of this host: daemons use the stock driver.\n"));
}


/**
 * ferryCliVersion:
 *
 * "ferry version". Returns the command's exit status.
 */
int
ferryCliVersion(int argc,
                char **argv)
{
    ferryCliDaemon daemon = ferryCliDaemonFind();

    if (argc > 1) {
        g_printerr(_("ferry: '%1$s' has no arguments\n"), argv[0]);
        return EXIT_FAILURE;
    }

    g_print("ferry %s\n", FERRY_VERSION);
    ferryCliShowBuilds();
    ferryCliDaemonShow(&daemon);
    return EXIT_SUCCESS;
}


/* Reports what does not work with @path. Returns -1. */
static int
ferryCliFailed(const char *path)
{
    g_printerr("ferry: %s: %s\n", path, g_strerror(errno));
    return -1;
}


static bool
ferryCliIsMask(const char *path)
{
    g_autofree char *to = g_file_read_link(path, NULL);

    return g_strcmp0(to, "/dev/null") == 0;
}


/* Makes systemd look at the drop-ins again. Returns 0 or -1. */
static int
ferryCliReload(void)
{
    const char *const command[] = { "systemctl", "daemon-reload", NULL };
    g_autoptr(GError) err = NULL;
    int status = 0;

    if (g_spawn_sync(NULL, (char **) command, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, &status, &err) &&
        g_spawn_check_wait_status(status, &err))
        return 0;

    g_printerr("ferry: systemctl daemon-reload: %s\n", err->message);
    return -1;
}


/* Hides the drop-in of one service, or shows it again. Returns 0 or -1. */
static int
ferryCliMask(const char *service,
             bool hide)
{
    g_autofree char *shipped = ferryCliPrefix("lib/systemd/system");
    g_autofree char *dropin = g_build_filename(shipped, service, FERRY_CLI_DROPIN, NULL);
    g_autofree char *folder = g_build_filename(FERRY_CLI_OWN, service, NULL);
    g_autofree char *own = g_build_filename(folder, FERRY_CLI_DROPIN, NULL);

    if (!g_file_test(dropin, G_FILE_TEST_EXISTS)) {
        g_printerr(_("ferry: '%1$s' is missing: install Ferry in /usr or /usr/local with './ferry install'\n"), dropin);
        return -1;
    }

    if (hide == ferryCliIsMask(own))
        return 0;

    if (!hide)
        return g_unlink(own) == 0 ? 0 : ferryCliFailed(own);

    if (g_mkdir_with_parents(folder, 0755) < 0 || symlink("/dev/null", own) < 0)
        return ferryCliFailed(own);

    return 0;
}


/* Hides the drop-ins of both services, or shows them again. Returns the exit status. */
static int
ferryCliMaskAll(const char *verb,
                int argc,
                bool hide)
{
    int rc = 0;
    size_t i;

    if (argc > 1) {
        g_printerr(_("ferry: '%1$s' has no arguments\n"), verb);
        return EXIT_FAILURE;
    }

    for (i = 0; services[i]; i++) {
        if (ferryCliMask(services[i], hide) < 0)
            rc = -1;
    }

    if (!g_file_test("/run/systemd/system", G_FILE_TEST_IS_DIR)) {
        g_printerr(_("ferry: systemd does not run here: what starts the daemon decides, by LIBVIRT_DRIVER_DIR in its "
                     "environment\n"));
        rc = -1;
    } else if (ferryCliReload() < 0) {
        rc = -1;
    }

    return rc == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}


/**
 * ferryCliEnable:
 *
 * "ferry enable": takes back "ferry disable". Returns the exit status.
 */
int
ferryCliEnable(int argc,
               char **argv)
{
    int rc = ferryCliMaskAll(argv[0], argc, /* hide= */ false);

    if (rc == EXIT_SUCCESS)
        g_print(_("Ferry is used from the next start of the daemon on: 'systemctl restart libvirtd', or virtqemud. "
                  "Guests run on meanwhile.\n"));
    return rc;
}


/**
 * ferryCliDisable:
 *
 * "ferry disable": the daemons use the stock driver from their next start on. Returns the exit status.
 */
int
ferryCliDisable(int argc,
                char **argv)
{
    int rc = ferryCliMaskAll(argv[0], argc, /* hide= */ true);

    if (rc == EXIT_SUCCESS)
        g_print(_("The stock driver is used from the next start of the daemon on. Let copies, backups and migrations "
                  "end before that: 'ferry status' shows them.\n"));
    return rc;
}
