/*
 * metadata.h: the definitions of a domain's checkpoints: the list, and a file for each
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"
#include "checkpoint_conf.h"

virDomainCheckpointDef *ferryCheckpointFind(virDomainObj *vm, const char *name);
virDomainCheckpointDef *ferryCheckpointPrepare(virDomainObj *vm, const char *xml);
int ferryCheckpointCheckDisk(virDomainObj *vm,
                             virDomainCheckpointDef *def,
                             virDomainCheckpointDiskDef *chkdisk);
int ferryCheckpointSave(virDomainObj *vm, virDomainCheckpointDef *def);
int ferryCheckpointAdopt(virDomainObj *vm, virDomainCheckpointDef *def);
int ferryCheckpointRemoveAll(virDomainObj *vm, GPtrArray *names);
int ferryCheckpointRemove(virDomainObj *vm, const char *name);
