/*
 * quiesce.h: freeze and thaw the guest's file systems
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

/* Part of an operation that may freeze the guest. */
typedef struct _ferryQuiesce ferryQuiesce;
struct _ferryQuiesce {
    bool wanted;
    bool frozen;          /* the guest may be frozen. Recovery derives it from the plan */
    bool mute;            /* the agent did not answer the freeze in time */
    unsigned int timeout; /* seconds that freezing may take; 0: FERRY_QUIESCE_SECONDS */
};

#define FERRY_QUIESCE_SECONDS 10

extern const ferryOpClass ferryThawClass;

int ferryQuiesceCheck(virDomainObj *vm, ferryQuiesce *quiesce);
int ferryQuiesceFreeze(ferryOp *op, ferryQuiesce *quiesce);
int ferryQuiesceThaw(ferryOp *op, ferryQuiesce *quiesce);
void ferryQuiesceThawAlways(ferryOp *op, ferryQuiesce *quiesce);
void ferryQuiesceFormat(virBuffer *buf, const ferryQuiesce *quiesce);
int ferryQuiesceParse(xmlXPathContextPtr ctxt, ferryQuiesce *quiesce);
