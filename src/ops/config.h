/*
 * config.h: the settings in ferry.conf
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "qemu/qemu_conf.h"

typedef struct _ferryConfig ferryConfig;
struct _ferryConfig {
    unsigned int migrateReconnect; /* longest outage of the network, in seconds */
};

void ferryConfigLoad(virQEMUDriver *driver);
const ferryConfig *ferryConfigGet(void);
