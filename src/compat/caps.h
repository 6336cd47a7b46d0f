/*
 * caps.h: what QEMU can do at least
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "qemu/qemu_capabilities.h"

bool ferryCapsAreRecent(virQEMUCaps *caps);
