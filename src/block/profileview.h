/*
 * profileview.h: a domain as its AppArmor profile is made from it
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "conf/domain_conf.h"
#include "security/security_manager.h"

typedef struct _ferryProfileView ferryProfileView;

ferryProfileView *ferryProfileViewNew(virSecurityManager *mgr,
                                      virDomainDef *def,
                                      bool tidy,
                                      virStorageSource *except);
void ferryProfileViewFree(ferryProfileView *view);
virDomainDef *ferryProfileViewDef(ferryProfileView *view, virDomainDef *def);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(ferryProfileView, ferryProfileViewFree);
