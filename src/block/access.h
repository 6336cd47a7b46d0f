/*
 * access.h: a domain's access to images: locks, labels, cgroups, namespace
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "qemu/qemu_domain.h"

int ferryAccessGrant(virDomainObj *vm, virStorageSource *chain);
void ferryAccessRecall(virDomainObj *vm, virStorageSource *chain);
void ferryAccessAdopt(virDomainObj *vm, virStorageSource *chain);
int ferryAccessWrite(virDomainObj *vm, virStorageSource *below);
void ferryAccessRecallWrite(virDomainObj *vm, virStorageSource *below);
void ferryAccessLeave(virDomainObj *vm, virStorageSource *below);
int ferryAccessRead(virDomainObj *vm, virStorageSource *below);
void ferryAccessRevoke(virDomainObj *vm, virStorageSource *chain);
void ferryAccessDrop(virDomainObj *vm, virStorageSource *chain);
