/*
 * profile.h: the AppArmor profile of a domain's QEMU
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "conf/domain_conf.h"
#include "security/security_manager.h"

typedef struct _ferryProfileView ferryProfileView;

virSecurityManager *ferryProfileDriver(virSecurityManager *mgr);
bool ferryProfileGranted(virSecurityManager *mgr, virDomainDef *def, virStorageSource *src, bool chain);
void ferryProfileRevoked(virSecurityManager *mgr, virDomainDef *def, virStorageSource *src, bool chain);
void ferryProfileHold(virDomainDef *def, virStorageSource *src);
void ferryProfileForget(virDomainDef *def);

ferryProfileView *ferryProfileViewNew(virSecurityManager *mgr, virDomainDef *def, bool tidy);
void ferryProfileViewFree(ferryProfileView *view);
virDomainDef *ferryProfileViewDef(ferryProfileView *view, virDomainDef *def);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(ferryProfileView, ferryProfileViewFree);
