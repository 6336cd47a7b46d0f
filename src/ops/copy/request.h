/*
 * request.h: block copy: the request and its checks
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "ops/copy/data.h"

/* What a client asked for, unchecked. */
typedef struct _ferryCopyRequest ferryCopyRequest;
struct _ferryCopyRequest {
    const char *path;             /* the disk's name in the guest, or the path of its source */
    virStorageSource *target;     /* borrowed; after ferryVolumeResolve() */
    bool keepLabel;               /* the target gets the source's seclabels */
    unsigned long long bandwidth; /* bytes/s */
    unsigned int granularity;     /* bytes */
    unsigned long long bufSize;   /* bytes */
    unsigned int flags;           /* virDomainBlockCopyFlags */
    bool overlay;                 /* copy the overlay that a snapshot is about to add to the disk */
    GPtrArray *aliases;           /* of the target, and of what may be below it (block/alias.c),
                                   * borrowed; NULL: not known */
};

ferryCopy *ferryCopyPrepare(virDomainObj *vm, const ferryCopyRequest *req);
