/*
 * classes.h: the table of all operation classes
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "engine/op.h"

extern const ferryOpClass *const ferryClasses[];
