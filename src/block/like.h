/*
 * like.h: properties that a new image takes over from a disk's image
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "qemu/qemu_domain.h"

/* What QEMU knows of the images of a domain. */
typedef struct _ferryLike ferryLike;

/* Properties of an image, all 0 unless it is qcow2. */
typedef struct _ferryLikeProps ferryLikeProps;
struct _ferryLikeProps {
    unsigned long long clusterSize; /* bytes; 0: unknown */
    bool subclusters;               /* "extended_l2" */
    bool old;                       /* "compat" is 0.10, and no image below has bitmaps, which need 1.1 */
    bool lazy;                      /* "lazy_refcounts" */
};

ferryLike *ferryLikeAsk(virDomainObj *vm);
void ferryLikeFree(ferryLike *like);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ferryLike, ferryLikeFree);
void ferryLikeGet(ferryLike *like, virStorageSource *src, ferryLikeProps *props);
int ferryLikeApply(ferryLike *like, virStorageSource *image, virStorageSource *from, bool lasting);
unsigned long long ferryLikeGranularity(GHashTable *nodes, const char *node);
