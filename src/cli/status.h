/*
 * status.h: the command "ferry": shows the operations of all domains
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

int ferryCliStatus(int argc, char **argv);
