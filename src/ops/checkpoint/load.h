/*
 * load.h: reads the checkpoints of an earlier driver
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "conf/checkpoint_conf.h"

virDomainCheckpointDef *ferryCheckpointRead(const char *text, virDomainXMLOption *xmlopt, void *parseOpaque);
