/*
 * qmp.h: QMP commands that libvirt's monitor has no function for
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "qemu/qemu_domain.h"

typedef struct _ferryMirrorParams ferryMirrorParams;
struct _ferryMirrorParams {
    const char *source;             /* node name of what the frontend is attached to */
    const char *replaces;           /* node below source that a pivot replaces; NULL: source */
    const char *target;             /* node name */
    bool shallow;                   /* copy the top image only */
    bool synchronous;               /* a guest write ends when both images have it */
    unsigned long long bandwidth;   /* bytes/s, 0: unlimited */
    unsigned long long granularity; /* bytes, 0: QEMU chooses */
    unsigned long long bufSize;     /* bytes, 0: QEMU chooses */
    bool decisive;                  /* the job waits for job-finalize before it ends */
    bool patient;                   /* a target error pauses the job, does not end it */
    bool targetIsZero;              /* the target reads as zeroes; FERRY_FEATURE_TARGET_IS_ZERO */
};

/* Experimental in QEMU (since 6.0), so it may be removed. */
#define FERRY_QMP_PERF "x-perf"

typedef struct _ferryBackupParams ferryBackupParams;
struct _ferryBackupParams {
    const char *source;           /* node name of the disk's image */
    const char *target;           /* node name */
    const char *bitmap;           /* copy only what it marks; NULL: everything */
    unsigned int workers;         /* parallel requests; 0: QEMU chooses */
    bool onlyOverwritten;         /* copy only the old data of what the guest overwrites */
    bool shallow;                 /* copy only what the image holds itself, not those below */
    unsigned long long bandwidth; /* bytes/s, 0: unlimited */
};

int ferryQMP(virDomainObj *vm, const char *command, virJSONValue **args, virJSONValue **reply);
int ferryQMPMirror(virDomainObj *vm, const char *jobname, const ferryMirrorParams *params);
int ferryQMPMirrorBlockWrites(virDomainObj *vm, const char *jobname);
void ferryQMPYank(virDomainObj *vm, const char *node);
char *ferryQMPDiskNode(virDomainObj *vm, virDomainDiskDef *disk);
int ferryQMPBackingDepth(virDomainObj *vm, const char *node);
int ferryQMPTransaction(virDomainObj *vm, virJSONValue **actions);
int ferryQMPAddAction(virJSONValue *actions, const char *type, virJSONValue **data);
int ferryQMPBackupAction(virJSONValue *actions,
                         const char *jobname,
                         const ferryBackupParams *params);
