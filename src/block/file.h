/*
 * file.h: which file a name leads to, and which files a process has open
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "internal.h"

/* A file by its device and inode; a block device by its device number, without inode. */
typedef struct _ferryFile ferryFile;
struct _ferryFile {
    dev_t dev;
    ino_t ino;
};

bool ferryFileIsSame(const ferryFile *a, const ferryFile *b);
bool ferryFileIsHeld(GArray *held, const ferryFile *file);
GArray *ferryFileListHeld(pid_t pid);
int ferryFileLookUp(int root, const char *path, ferryFile *file);
