/*
 * feature.h: what only newer QEMU can do
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "domain_conf.h"

typedef enum {
    FERRY_FEATURE_COPY_MODE,      /* block-job-change makes a mirror write-blocking */
    FERRY_FEATURE_TARGET_IS_ZERO, /* blockdev-mirror is told that its target reads as zeroes */
    FERRY_FEATURE_SET_ACTIVE,     /* blockdev-set-active; QEMU is 10.0 or newer */

    FERRY_FEATURE_LAST
} ferryFeature;

bool ferryFeatureHas(virDomainObj *vm, ferryFeature feature);
