/*
 * image.h: files and formats of new images
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "block/use.h"
#include "qemu/qemu_domain.h"

/* What was at a path before Ferry put an image there. */
typedef enum {
    FERRY_IMAGE_FOREIGN, /* not to be removed: a given image, a device, remote storage */
    FERRY_IMAGE_EMPTY,   /* an empty file, to be empty again */
    FERRY_IMAGE_ABSENT,  /* nothing */

    FERRY_IMAGE_LAST
} ferryImageOrigin;

VIR_ENUM_DECL(ferryImageOrigin);

/* What ferryImageTouch() returns. */
typedef enum {
    FERRY_IMAGE_FAILED = -1,   /* error reported */
    FERRY_IMAGE_READY = 0,     /* the file is there, and the journal has its inode */
    FERRY_IMAGE_UNWRITTEN = 1, /* the file is there; the caller must write the journal */
    FERRY_IMAGE_TAKEN = 2,     /* something else is there now; no error reported */
} ferryImageTouched;

int ferryImagePrepare(virDomainObj *vm,
                      virStorageSource *src,
                      ferryImageOrigin origin,
                      ferryFile **file);
ferryImageTouched ferryImageTouch(virDomainObj *vm, virStorageSource *src, ferryFile *file);
bool ferryImageRestore(ferryUse *use,
                       virDomainObj *vm,
                       virStorageSource *src,
                       ferryImageOrigin origin,
                       ferryFile *file);
int ferryImageCheckOurs(virDomainObj *vm, virStorageSource *src, const ferryFile *file);
void ferryImageCutToSize(virStorageSource *src, unsigned long long capacity);
bool ferryImageIsOpenable(virStorageSource *src);
int ferryImageFormatStart(virDomainObj *vm,
                          virStorageSource *src,
                          virStorageSource *backing,
                          bool storage,
                          const char *jobname);
bool ferryImageIsPlain(virStorageSource *src);
int ferryImageFormatProps(virStorageSource *src, virStorageSource *backing, virJSONValue **props);
int ferryImageCreateStart(virDomainObj *vm, const char *jobname, virJSONValue **props);
int ferryImageClone(virStorageSource *from,
                    virStorageSource *to,
                    const ferryFile *file,
                    bool direct);
void ferryImageSync(virStorageSource *src);
