/*
 * builds.h: the command "ferry": which Ferry is here, and whether the daemons use it
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

int ferryCliVersion(int argc, char **argv);
int ferryCliEnable(int argc, char **argv);
int ferryCliDisable(int argc, char **argv);
