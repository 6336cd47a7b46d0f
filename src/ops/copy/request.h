/*
 * request.h: is a block copy possible, and what will it touch?
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "ops/copy/data.h"

/* What a client asked for, before any of it is checked. */
typedef struct _ferryCopyRequest ferryCopyRequest;
struct _ferryCopyRequest {
    const char *path;             /* disk: target, or path of its source */
    virStorageSource *target;     /* borrowed */
    bool keepLabel;               /* target takes the source's seclabels */
    unsigned long long bandwidth; /* bytes/s */
    unsigned int granularity;     /* bytes */
    unsigned long long bufSize;   /* bytes */
    unsigned int flags;           /* virDomainBlockCopyFlags */
};

ferryCopy *ferryCopyPrepare(virDomainObj *vm, const ferryCopyRequest *req);
