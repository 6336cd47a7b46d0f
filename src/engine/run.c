/*
 * run.c: one run of one QEMU: which process a journal is about
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A driver without Ferry may have stopped the domain and started it again since a journal
 * was written. The steps in the journal are then those of a QEMU that is gone, and must
 * not be undone in the one that runs. A journal therefore names its QEMU by process ID,
 * start time and the host's boot: a process ID alone is used again.
 */

#include <config.h>

#include "engine/run.h"
#include "virfile.h"
#include "virprocess.h"
#include "virstring.h"

#define FERRY_RUN_BOOT_FILE "/proc/sys/kernel/random/boot_id"
#define FERRY_RUN_BOOT_MAX 64


void
ferryRunClear(ferryRun *run)
{
    g_clear_pointer(&run->boot, g_free);
    run->pid = 0;
    run->start = 0;
}


/**
 * ferryRunCopy:
 *
 * Makes @run, which is zeroed or has been cleared, the same as @from.
 */
void
ferryRunCopy(ferryRun *run,
             const ferryRun *from)
{
    *run = *from;
    run->boot = g_strdup(from->boot);
}


/* Returns the ID of the host's boot, or NULL if it cannot be read. It is read once: each entry of the
 * journal has it. */
static const char *
ferryRunBoot(void)
{
    static gsize read;
    static char *boot;

    if (g_once_init_enter(&read)) {
        if (virFileReadAllQuiet(FERRY_RUN_BOOT_FILE, FERRY_RUN_BOOT_MAX, &boot) >= 0)
            virStringTrimOptionalNewline(boot);
        g_once_init_leave(&read, 1);
    }

    return boot;
}


/* Returns the start time of process @pid, or 0 if there is no such process. */
static unsigned long long
ferryRunStart(pid_t pid)
{
    g_auto(GStrv) stat = virProcessGetStat(pid, /* tid= */ 0);
    unsigned long long start;

    if (!stat || g_strv_length(stat) <= VIR_PROCESS_STAT_STARTTIME ||
        virStrToLong_ull(stat[VIR_PROCESS_STAT_STARTTIME], NULL, 10, &start) < 0)
        return 0;

    return start;
}


/**
 * ferryRunFormat:
 *
 * Writes to @attrs which run process @pid is; nothing if it cannot be told, because QEMU
 * has not been started yet, for example.
 */
void
ferryRunFormat(virBuffer *attrs,
               pid_t pid)
{
    unsigned long long start = pid > 0 ? ferryRunStart(pid) : 0;
    const char *boot;

    if (start == 0 || !(boot = ferryRunBoot()))
        return;

    virBufferAsprintf(attrs, " pid='%lld' start='%llu'", (long long) pid, start);
    virBufferEscapeString(attrs, " boot='%s'", boot);
}


/**
 * ferryRunParse:
 *
 * Reads what ferryRunFormat() wrote to @node; an older journal has none of it. Returns 0,
 * or -1 with an error reported.
 */
int
ferryRunParse(xmlNodePtr node,
              ferryRun *run)
{
    int pid = 0;

    if (virXMLPropInt(node, "pid", 10, VIR_XML_PROP_NONE, &pid, 0) < 0 ||
        virXMLPropULongLong(node, "start", 10, VIR_XML_PROP_NONE, &run->start) < 0)
        return -1;

    run->pid = pid;
    run->boot = virXMLPropString(node, "boot");
    return 0;
}


/**
 * ferryRunIsOther:
 *
 * Returns whether it is certain that process @pid, which the driver takes for the domain's
 * QEMU, is not the one of @run. A process that has ended in the meantime is no other one.
 */
bool
ferryRunIsOther(const ferryRun *run,
                pid_t pid)
{
    unsigned long long start;
    const char *boot;

    if (run->pid == 0 || !run->boot)
        return false;

    if (run->pid != pid)
        return true;

    start = ferryRunStart(pid);
    boot = ferryRunBoot();

    return (start != 0 && start != run->start) || (boot && STRNEQ(boot, run->boot));
}
