/*
 * xml.h: backup: the XML of the client's request and of the journal
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "ops/backup/data.h"

virDomainBackupDef *ferryBackupParseXML(virQEMUDriver *driver,
                                        const char *xml,
                                        ferryBackupExtras *extras);
int ferryBackupFormat(ferryOp *op, virBuffer *buf);
void *ferryBackupParse(virQEMUDriver *driver, xmlXPathContextPtr ctxt);
