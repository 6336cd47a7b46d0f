/*
 * inode.h: which file a name leads to, and which files a process has open
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "internal.h"

/* A file by its device and inode; a block device by its device number, without inode. */
typedef struct _ferryInode ferryInode;
struct _ferryInode {
    dev_t dev;
    ino_t ino;
};

bool ferryInodeIsSame(const ferryInode *a, const ferryInode *b);
bool ferryInodeIsHeld(GArray *held, const ferryInode *file);
GArray *ferryInodeListHeld(pid_t pid);
int ferryInodeAt(const char *path, ferryInode *file);
int ferryInodeLookUp(int root, const char *path, ferryInode *file);
