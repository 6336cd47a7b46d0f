/*
 * process.h: the command "ferry": processes: QEMUs, daemons, and this one
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include <stdbool.h>
#include <sys/types.h>

/* Which QEMU driver a daemon has loaded. */
typedef enum {
    FERRY_CLI_DRIVER_UNKNOWN, /* its memory map cannot be read, or it has none */
    FERRY_CLI_DRIVER_STOCK,
    FERRY_CLI_DRIVER_FERRY,
} ferryCliDriver;

typedef struct {
    const char *name; /* NULL: none runs */
    pid_t pid;
    ferryCliDriver driver;
} ferryCliDaemon;

bool ferryCliProcessIs(const char *pid, const char *start, const char *boot);
char *ferryCliPrefix(const char *name);
ferryCliDaemon ferryCliDaemonFind(void);
const char *ferryCliDaemonUri(const ferryCliDaemon *daemon);
void ferryCliDaemonShow(const ferryCliDaemon *daemon);
