/*
 * bounded.h: calls that storage or a name server may keep waiting for ever
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include <sys/stat.h>

#include "qemu/qemu_domain.h"

/* How long storage may take to answer, in milliseconds. */
#define FERRY_BOUNDED_STORAGE_MS 5000

typedef void (*ferryBoundedFunc)(void *data);

bool ferryBoundedRun(const char *place,
                     ferryBoundedFunc func,
                     void *data,
                     GDestroyNotify clear,
                     unsigned int timeout);
bool ferryBoundedRunUnlocked(virDomainObj *vm,
                             const char *place,
                             ferryBoundedFunc func,
                             void *data,
                             GDestroyNotify clear,
                             unsigned int timeout);
int ferryBoundedStat(virDomainObj *vm, const char *path, struct stat *st);
int ferryBoundedAnswers(virDomainObj *vm, const char *const *paths);
