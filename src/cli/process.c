/*
 * process.c: the command "ferry": processes: QEMUs, daemons, and this one
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <glib.h>

#include "cli/process.h"
#include "cli/text.h"

/* Fields of /proc/PID/stat behind the command, which is in parentheses and may have spaces. */
#define FERRY_CLI_STAT_STATE 1
#define FERRY_CLI_STAT_START 20


/* Returns the start time of process @pid as /proc has it, or NULL if it has ended. The caller frees it. */
static char *
ferryCliProcessStart(const char *pid)
{
    g_autofree char *path = g_build_filename("/proc", pid, "stat", NULL);
    g_autofree char *text = NULL;
    g_auto(GStrv) fields = NULL;
    const char *behind;

    if (!g_file_get_contents(path, &text, NULL, NULL) || !(behind = strrchr(text, ')')))
        return NULL;

    fields = g_strsplit(behind, " ", -1);
    if (g_strv_length(fields) <= FERRY_CLI_STAT_START || strcmp(fields[FERRY_CLI_STAT_STATE], "Z") == 0)
        return NULL;

    return g_strdup(fields[FERRY_CLI_STAT_START]);
}


/**
 * ferryCliProcessIs:
 * @pid, @start, @boot: which run of a process; NULL: not known
 *
 * Returns whether that process runs. See engine/run.c.
 */
bool
ferryCliProcessIs(const char *pid,
                  const char *start,
                  const char *boot)
{
    g_autofree char *now = NULL;
    g_autofree char *started = NULL;

    if (!pid || !start || !boot || strspn(pid, "0123456789") != strlen(pid) ||
        !g_file_get_contents("/proc/sys/kernel/random/boot_id", &now, NULL, NULL))
        return false;

    started = ferryCliProcessStart(pid);
    return strcmp(g_strchomp(now), boot) == 0 && g_strcmp0(started, start) == 0;
}


/**
 * ferryCliPrefix:
 *
 * Returns the folder PREFIX/@name of the Ferry that this command belongs to, which is PREFIX/bin/ferry; or
 * NULL. The caller frees it.
 */
char *
ferryCliPrefix(const char *name)
{
    g_autofree char *self = g_file_read_link("/proc/self/exe", NULL);
    g_autofree char *bin = self ? g_path_get_dirname(self) : NULL;
    g_autofree char *prefix = bin ? g_path_get_dirname(bin) : NULL;

    return prefix ? g_build_filename(prefix, name, NULL) : NULL;
}


/* Returns the process that holds the PID file @path locked, as a daemon does; 0: none. */
static pid_t
ferryCliLocker(const char *path)
{
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0)
        return 0;

    if (fcntl(fd, F_GETLK, &lock) < 0 || lock.l_type == F_UNLCK)
        lock.l_pid = 0;

    close(fd);
    return lock.l_pid;
}


static ferryCliDriver
ferryCliDriverOf(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%lld/maps", (long long) pid);
    g_autofree char *maps = NULL;

    if (!g_file_get_contents(path, &maps, NULL, NULL))
        return FERRY_CLI_DRIVER_UNKNOWN;

    /* with the stock driver, Ferry's loader may be there, too */
    if (strstr(maps, "/libferry_driver_qemu.so"))
        return FERRY_CLI_DRIVER_FERRY;

    return strstr(maps, "/libvirt_driver_qemu.so") ? FERRY_CLI_DRIVER_STOCK : FERRY_CLI_DRIVER_UNKNOWN;
}


/**
 * ferryCliDaemonFind:
 *
 * Returns this user's daemon that has the QEMU driver. To connect would start one where systemd
 * listens for it, and the new one would settle what this command is to show: so its PID file is
 * looked at.
 */
ferryCliDaemon
ferryCliDaemonFind(void)
{
    static const char *const names[] = { "virtqemud", "libvirtd", NULL };
    ferryCliDaemon none = { .name = NULL };
    size_t i;

    for (i = 0; names[i]; i++) {
        g_autofree char *path = geteuid() == 0 ?
                                    g_strdup_printf("/run/%s.pid", names[i]) :
                                    g_strdup_printf("%s/libvirt/%s.pid", g_get_user_runtime_dir(), names[i]);
        pid_t pid = ferryCliLocker(path);

        if (pid > 0) {
            ferryCliDaemon found = { .name = names[i], .pid = pid, .driver = ferryCliDriverOf(pid) };

            if (found.driver != FERRY_CLI_DRIVER_UNKNOWN || strcmp(names[i], "libvirtd") == 0)
                return found;
        }
    }

    return none;
}


/**
 * ferryCliDaemonUri:
 *
 * Returns the URI that leads to @daemon and to no other one; NULL if there is none. Static.
 */
const char *
ferryCliDaemonUri(const ferryCliDaemon *daemon)
{
    bool modular = g_strcmp0(daemon->name, "virtqemud") == 0;

    if (!daemon->name)
        return NULL;

    if (geteuid() == 0)
        return modular ? "qemu:///system?mode=direct" : "qemu:///system?mode=legacy";

    return modular ? "qemu:///session?mode=direct" : "qemu:///session?mode=legacy";
}


/**
 * ferryCliDaemonShow:
 *
 * Prints which driver @daemon has.
 */
void
ferryCliDaemonShow(const ferryCliDaemon *daemon)
{
    if (!daemon->name)
        g_print(_("No daemon runs.\n"));
    else if (daemon->driver == FERRY_CLI_DRIVER_FERRY)
        g_print(_("Ferry's driver runs in %1$s (process %2$d).\n"), daemon->name, (int) daemon->pid);
    else if (daemon->driver == FERRY_CLI_DRIVER_STOCK)
        g_print(_("The stock driver runs in %1$s (process %2$d), without Ferry.\n"), daemon->name, (int) daemon->pid);
    else
        g_print(_("It cannot be told which driver runs in %1$s (process %2$d).\n"), daemon->name, (int) daemon->pid);
}
