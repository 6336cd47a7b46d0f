/*
 * peer.h: storage migration: peer to peer
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "qemu/qemu_domain.h"

void ferryMigrationPeerConfirm(virDomainObj *vm);
int ferryMigrationPeer(virDomainPtr dom,
                       virDomainObj *vm,
                       const char *uri,
                       virTypedParameterPtr params,
                       int nparams,
                       unsigned int flags);
