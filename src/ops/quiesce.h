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
    bool optional;        /* what cannot be frozen is not frozen: a line in the log */
    bool frozen;          /* the guest may be frozen, by this operation; in the journal */
    bool guess;           /* the journal, an older one, does not say whether it is frozen */
    bool mute;            /* the agent did not answer the freeze in time */
    unsigned int timeout; /* seconds that freezing may take; 0: FERRY_QUIESCE_SECONDS */
};

#define FERRY_QUIESCE_SECONDS 10

/* The most that a client may ask for. Other clients wait for the agent meanwhile. */
#define FERRY_QUIESCE_SECONDS_MAX 60

extern const ferryOpClass ferryThawClass;

int ferryQuiesceCheck(virDomainObj *vm, ferryQuiesce *quiesce);
int ferryQuiesceFreeze(ferryOp *op, ferryQuiesce *quiesce);
int ferryQuiesceThaw(ferryOp *op, ferryQuiesce *quiesce);
void ferryQuiesceThawAlways(ferryOp *op, ferryQuiesce *quiesce);
void ferryQuiesceFormat(virBuffer *buf, const ferryQuiesce *quiesce);
void ferryQuiesceRecover(ferryQuiesce *quiesce, bool frozen);
int ferryQuiesceParse(xmlXPathContextPtr ctxt, ferryQuiesce *quiesce);
