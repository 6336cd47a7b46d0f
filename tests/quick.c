/*
 * quick.c: domains of the tests start in half the time
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Loaded with LD_PRELOAD into a process that runs the driver, Ferry's or the stock one. When a
 * domain starts, the driver asks QEMU for each of some 400 properties of its CPU, and QEMU reads
 * commands one byte at a time: that took more than a third of all the CPU time of the tests. No
 * test is about the guest's CPU.
 */

#include <config.h>

#include "cpu/cpu.h"
#include "qemu/qemu_monitor.h"


int
qemuMonitorGetGuestCPU(qemuMonitor *mon G_GNUC_UNUSED,
                       virArch arch G_GNUC_UNUSED,
                       const char *cpuQOMPath G_GNUC_UNUSED,
                       qemuMonitorCPUFeatureTranslationCallback translate G_GNUC_UNUSED,
                       virCPUData **enabled,
                       virCPUData **disabled)
{
    *enabled = NULL;
    *disabled = NULL;
    return 0;
}


/* The driver asks QEMU anew for all that it can do, seconds of CPU time, when the host's CPUID is not what it
 * was. Where libvirt does not know which of it varies from core to core, that is at every other start. */
virCPUData *
virCPUDataGetHost(void)
{
    return NULL;
}
