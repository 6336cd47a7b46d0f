/*
 * faults.h: what the parts of the library of faults share
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include <dlfcn.h>

#include "engine/op.h"

/* The step that runs, for the thread that talks to QEMU; and the one before it,
 * for the journal. There is one operation at a time in a test. */
typedef struct {
    ferryOp *op;
    const ferryPlan *plan;
    const ferryStep *step;
    pid_t qemu;
    bool undo;
    bool watched;
    bool saved;
    char *save;
    GString *images; /* which faults for an image can happen to it */
    char *image;
    unsigned long long thread;
    int yields;
    int commands;
} faultStep;

extern faultStep current G_GNUC_INTERNAL;

#define FAULT_REAL(name) \
    static typeof(name) *real; \
    if (!real) \
    real = (typeof(name) *) dlsym(RTLD_NEXT, #name)

void faultLog(const char *format, ...) G_GNUC_PRINTF(1, 2);
void faultPowerLoss(pid_t qemu);
char **faultRead(void);
char *faultFind(const ferryPlan *plan, const ferryStep *step, const char *when);
bool faultIsRecorded(void);
char *faultCommand(int fd);
char *faultRefused(const char *buf, size_t len);
void faultRemoval(void);
void faultAnswered(int fd, const char *what);
