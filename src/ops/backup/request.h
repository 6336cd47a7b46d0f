/*
 * request.h: backup: checks of a request
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "ops/backup/data.h"

ferryBackup *ferryBackupPrepare(virDomainObj *vm,
                                virDomainBackupDef *def,
                                const ferryBackupExtras *extras,
                                GPtrArray *aliases,
                                const char *checkpointXML,
                                unsigned int flags);
