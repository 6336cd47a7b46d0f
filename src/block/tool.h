/*
 * tool.h: run qemu-img on a file
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "vircommand.h"

int ferryToolRun(virCommand *cmd, int fd, bool lend, uid_t uid, gid_t gid);
char *ferryToolPath(int fd);
