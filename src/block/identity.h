/*
 * identity.h: whether an image's name still leads to the file that QEMU has open
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "qemu/qemu_domain.h"

typedef enum {
    FERRY_IDENTITY_SAME,
    FERRY_IDENTITY_OTHER,   /* the name leads to another file, or to none */
    FERRY_IDENTITY_UNKNOWN, /* the driver may not look, or two names lead to one file */
    FERRY_IDENTITY_SILENT,  /* the storage does not answer */
} ferryIdentity;

void ferryIdentityLearn(virDomainObj *vm, virStorageSource *src);
void ferryIdentityLearnAll(virDomainObj *vm);
void ferryIdentityForget(qemuDomainObjPrivate *priv);
ferryIdentity ferryIdentityCheck(virDomainObj *vm, virStorageSource *src);
int ferryIdentityRequire(virDomainObj *vm, virStorageSource *src);
bool ferryIdentityStays(virDomainObj *vm, virStorageSource *src);
void ferryIdentityInherit(virDomainObj *vm);
virTristateBool ferryIdentityIsHeld(virDomainObj *vm, virStorageSource *src);
void ferryIdentitySetHeld(virDomainObj *vm, virStorageSource *src, bool held);
void ferryIdentityForgetNode(virDomainObj *vm, virStorageSource *src);
