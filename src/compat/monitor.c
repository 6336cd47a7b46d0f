/*
 * monitor.c: events of QEMU's monitor
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "compat/have.h"
#include "compat/monitor.h"

/* All monitors have the same callbacks. */
static qemuMonitorDomainIOErrorCallback ferryMonitorStock;
static ferryMonitorIOError ferryMonitorWatch;


#ifdef FERRY_HAVE_IO_ERROR_NOSPACE
static void
ferryMonitorTell(qemuMonitor *mon,
                 virDomainObj *vm,
                 const char *device,
                 const char *qompath,
                 const char *node,
                 int action,
                 bool nospace,
                 const char *reason)
{
    ferryMonitorStock(mon, vm, device, qompath, node, action, nospace, reason);
    ferryMonitorWatch(vm);
}
#else
static void
ferryMonitorTell(qemuMonitor *mon,
                 virDomainObj *vm,
                 const char *device,
                 const char *node,
                 int action,
                 const char *reason)
{
    ferryMonitorStock(mon, vm, device, node, action, reason);
    ferryMonitorWatch(vm);
}
#endif


/**
 * ferryMonitorWatchIOErrors:
 * @callbacks: the stock driver's
 * @watch: called in the monitor's thread with the domain not locked, after the stock callback
 *
 * Makes QEMU's I/O errors known to @watch, too.
 */
void
ferryMonitorWatchIOErrors(qemuMonitorCallbacks *callbacks,
                          ferryMonitorIOError watch)
{
    ferryMonitorStock = callbacks->domainIOError;
    ferryMonitorWatch = watch;
    callbacks->domainIOError = ferryMonitorTell;
}
