/*
 * checkpoint.h: checkpoints: create, delete
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/engine.h"
#include "ops/quiesce.h"
#include "checkpoint_conf.h"
#include "virdomaincheckpointobjlist.h"

/* What is created or deleted. All but the last group goes into the journal. */
typedef struct _ferryCheckpoint ferryCheckpoint;
struct _ferryCheckpoint {
    GPtrArray *names;     /* of checkpoints: the one to create, those to delete */
    bool metadataOnly;    /* leave bitmaps alone */
    ferryQuiesce quiesce;

    virDomainCheckpointDef *def; /* to create */
    bool started;         /* its bitmaps are there */
    GHashTable *writable; /* images that were opened for writing; NULL: not known */
};

extern const ferryOpClass ferryCheckpointClass;
extern const ferryPlan ferryCheckpointDeletePlan;

/* checkpoint_create.c: also for the checkpoint that a backup makes */
virDomainCheckpointDef *ferryCheckpointPrepare(virDomainObj *vm,
                                               const char *xml);
void ferryCheckpointDropOffline(virDomainObj *vm,
                                virDomainCheckpointDef *def,
                                const char *name,
                                bool chain);
int ferryCheckpointSave(virDomainObj *vm,
                        virDomainCheckpointDef *def);
int ferryCheckpointAddBitmaps(virDomainObj *vm,
                              virDomainCheckpointDef *def,
                              GHashTable *nodes,
                              virJSONValue *actions);
void ferryCheckpointDropBitmaps(virDomainObj *vm,
                                virDomainCheckpointDef *def);
int ferryCheckpointAdopt(virDomainObj *vm,
                         virDomainCheckpointDef *def);
virDomainCheckpointDef *ferryCheckpointFind(virDomainObj *vm,
                                            const char *name);

/* checkpoint_delete.c */
int ferryCheckpointRemoveAll(virDomainObj *vm,
                             GPtrArray *names);
void ferryCheckpointRemove(virDomainObj *vm,
                           const char *name);

/* checkpoint.c */
int ferryCheckpointCreate(virDomainObj *vm,
                          const char *xml,
                          bool quiesce,
                          char **name);
int ferryCheckpointDelete(virDomainObj *vm,
                          const char *name,
                          unsigned int flags);
