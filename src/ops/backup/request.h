/*
 * request.h: is a backup possible, and what will it touch?
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "ops/backup/data.h"

ferryBackup *ferryBackupPrepare(virDomainObj *vm,
                                virDomainBackupDef *def,
                                const ferryBackupExtras *extras,
                                const char *checkpointXML,
                                unsigned int flags);
