/*
 * progress.h: the command "ferry": how far an operation is, as a running daemon says
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "cli/journals.h"

/* Bytes; @total is 0 if nothing is known. */
typedef struct {
    unsigned long long done;
    unsigned long long total;
    unsigned long long rate;  /* per second, on average since it began; 0: not known */
    unsigned long long limit; /* per second; 0: none, or not known */
    gint64 left;              /* seconds; -1: not known */
} ferryCliProgress;

ferryCliProgress *ferryCliProgressOfAll(const char *uri, GPtrArray *ops, bool *answered);
