/*
 * event.h: events sent to clients
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "qemu/qemu_domain.h"

void ferryEventBlockJob(virDomainObj *vm,
                        virDomainDiskDef *disk,
                        virDomainBlockJobType type,
                        virConnectDomainEventBlockJobStatus status);
void ferryEventBlockJobNamed(virDomainObj *vm,
                             const char *dst,
                             virDomainBlockJobType type,
                             virConnectDomainEventBlockJobStatus status);
