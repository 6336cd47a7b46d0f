/*
 * outlook.h: the command "ferry": what becomes of an operation that was interrupted
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "cli/journals.h"

typedef enum {
    FERRY_CLI_GOES_ON, /* it runs on as before */
    FERRY_CLI_FORWARD, /* what was asked for is finished */
    FERRY_CLI_BACK,    /* it is taken back */
    FERRY_CLI_DEPENDS, /* on what the journal does not say: QEMU, the configuration */
    FERRY_CLI_OUTLOOKS
} ferryCliOutlook;

ferryCliOutlook ferryCliOutlookOf(const ferryCliOp *op);
const char *ferryCliOutlookName(ferryCliOutlook outlook);
const char *ferryCliOutlookText(const ferryCliOp *op);
