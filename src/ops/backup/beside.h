/*
 * beside.h: backup: whether it will be in the way of other calls for long
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "qemu/qemu_domain.h"

int ferryBackupLasts(virDomainObj *vm);
bool ferryBackupIsStuck(virDomainObj *vm);
