/*
 * node.h: QEMU's block nodes of one image
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "qemu/qemu_domain.h"

int ferryNodePrepare(virDomainObj *vm, virDomainDiskDef *disk, virStorageSource *src, virQEMUDriverConfig *cfg);
GHashTable *ferryNodeData(virDomainObj *vm);
virJSONValue *ferryNodeList(virDomainObj *vm);
int ferryNodeAddStorage(virDomainObj *vm, virStorageSource *src);
int ferryNodeAddNBD(virDomainObj *vm, virStorageSource *src);
void ferryNodeDelete(virDomainObj *vm, const char *node);
void ferryNodeRemoveStorage(virDomainObj *vm, virStorageSource *src);
int ferryNodeAddFormat(virDomainObj *vm, virStorageSource *src, virStorageSource *backing);
int ferryNodeInlineStorage(virStorageSource *src, virJSONValue *format);
int ferryNodeAddPlain(virDomainObj *vm, virStorageSource *src, virStorageSource *backing);
void ferryNodeRemovePlain(virDomainObj *vm, virStorageSource *src);
int ferryNodeAddChain(virDomainObj *vm, virStorageSource *chain);
void ferryNodeRemove(virDomainObj *vm, virStorageSource *chain);
int ferryNodeReopen(virDomainObj *vm, virStorageSource *src, virStorageSource *backing);
int ferryNodeReopenStorage(virDomainObj *vm,
                           virStorageSource *src,
                           bool autoreadonly);
int ferryNodeReopenWritable(virDomainObj *vm, virStorageSource *src, bool writable);
int ferryNodeCapacity(GHashTable *nodes, const char *name, unsigned long long *capacity);
