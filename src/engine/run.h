/*
 * run.h: one run of one QEMU: which process a journal is about
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "virbuffer.h"
#include "virxml.h"

/* A process, told from every other one that has or had its number on this host. */
typedef struct _ferryRun ferryRun;
struct _ferryRun {
    pid_t pid;                /* 0: not known, or not started yet */
    unsigned long long start; /* clock ticks after the host's boot */
    char *boot;               /* ID of that boot; NULL: not known */
};

void ferryRunClear(ferryRun *run);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(ferryRun, ferryRunClear);
void ferryRunCopy(ferryRun *run, const ferryRun *from);
void ferryRunFormat(virBuffer *attrs, pid_t pid);
int ferryRunParse(xmlNodePtr node, ferryRun *run);
bool ferryRunIsOther(const ferryRun *run, pid_t pid);
