/*
 * journal.h: the steps that the operations of a domain may have run, on disk
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

typedef void (*ferryJournalReader)(const unsigned char *uuid, const char *name, void *opaque);

int ferryJournalWrite(virDomainObj *vm, bool durable) G_NO_INLINE;
int ferryJournalCommit(ferryOp *op) G_NO_INLINE;
int ferryJournalWithdraw(ferryOp *op);
int ferryJournalRead(virQEMUDriver *driver,
                     const unsigned char *uuid,
                     const ferryOpClass *const *classes,
                     GPtrArray *ops);
int ferryJournalForEach(virQEMUDriver *driver, ferryJournalReader reader, void *opaque);
void ferryJournalRemove(virQEMUDriver *driver, const unsigned char *uuid, bool durable);
