/*
 * profile.h: what QEMU may use, for its AppArmor profile
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "conf/domain_conf.h"
#include "security/security_manager.h"

virSecurityManager *ferryProfileDriver(virSecurityManager *mgr);
bool ferryProfileGranted(virSecurityManager *mgr, virDomainDef *def, virStorageSource *src, bool chain);
void ferryProfileRevoked(virSecurityManager *mgr, virDomainDef *def, virStorageSource *src, bool chain);
void ferryProfileTakeBack(virDomainDef *def, virStorageSource *src);
void ferryProfileUse(virSecurityManager *mgr, virDomainDef *def, virStorageSource *chain, bool use);
void ferryProfileRecall(virSecurityManager *mgr, virDomainDef *def, virStorageSource *src);
void ferryProfileHold(virDomainDef *def, virStorageSource *src, bool held);
void ferryProfileForget(virDomainDef *def);
void ferryProfileTidy(virDomainDef *def);
GPtrArray *ferryProfileOthers(virDomainDef *def, virStorageSource *except);
bool ferryProfileIsWritten(virDomainDef *def, virDomainDiskDef *disk, virStorageSource *src);
bool ferryProfileHasPath(virStorageSource *src);
