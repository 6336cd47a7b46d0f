/*
 * monitor.h: events of QEMU's monitor
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "qemu/qemu_monitor.h"

typedef void (*ferryMonitorIOError)(virDomainObj *vm);

void ferryMonitorWatchIOErrors(qemuMonitorCallbacks *callbacks, ferryMonitorIOError watch);
