/*
 * format.h: block copy: what the journal says of it
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

int ferryCopyFormat(ferryOp *op, virBuffer *buf);
void *ferryCopyParse(virQEMUDriver *driver, xmlXPathContextPtr ctxt);
