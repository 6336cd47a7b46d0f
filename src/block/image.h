/*
 * image.h: files and formats of new images
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "qemu/qemu_domain.h"

/* What was at a path before Ferry put an image there. */
typedef enum {
    FERRY_IMAGE_FOREIGN, /* not to be removed: a given image, a device, remote storage */
    FERRY_IMAGE_EMPTY,   /* an empty file */
    FERRY_IMAGE_ABSENT,  /* nothing */

    FERRY_IMAGE_LAST
} ferryImageOrigin;

VIR_ENUM_DECL(ferryImageOrigin);

int ferryImageTouch(virDomainObj *vm, virStorageSource *src);
void ferryImageRestore(virQEMUDriver *driver,
                       virDomainObj *vm,
                       virStorageSource *src,
                       ferryImageOrigin origin);
int ferryImageFormatStart(virDomainObj *vm,
                          virStorageSource *src,
                          virStorageSource *backing,
                          bool storage,
                          const char *jobname);
bool ferryImageIsPlain(virStorageSource *src);
int ferryImageFormatProps(virStorageSource *src, virStorageSource *backing, virJSONValue **props);
int ferryImageCreateStart(virDomainObj *vm, const char *jobname, virJSONValue **props);
int ferryImageClone(virStorageSource *from, virStorageSource *to, bool direct);
void ferryImageSync(virStorageSource *src);
