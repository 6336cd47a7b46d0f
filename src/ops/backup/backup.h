/*
 * backup.h: backup: the operation, and the request to begin one
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

extern const ferryOpClass ferryBackupClass;

int ferryBackupBegin(virDomainObj *vm,
                     const char *backupXML,
                     const char *checkpointXML,
                     unsigned int flags);
