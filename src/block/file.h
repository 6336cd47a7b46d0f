/*
 * file.h: files by descriptor and inode, not by name
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "internal.h"
#include "virbuffer.h"
#include "virxml.h"

/* A file that Ferry made or found. The journal holds all fields but the descriptor. */
typedef struct _ferryFile ferryFile;
struct _ferryFile {
    unsigned long long dev;
    unsigned long long ino;  /* 0: there is no such file yet */
    unsigned long long born; /* ns since 1970; 0: the file system does not tell */
    int fd;                  /* of a file without a name; else -1 */
};

ferryFile *ferryFileNew(void);
void ferryFileFree(ferryFile *file);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ferryFile, ferryFileFree);
int ferryFileLearn(ferryFile *file, int fd);
bool ferryFileIsOpen(const ferryFile *file, int fd);
bool ferryFileIsLocked(const char *path);
bool ferryFileIsAt(const ferryFile *file, const char *path);
void ferryFileFormat(virBuffer *attrs, const ferryFile *file);
int ferryFileParse(xmlNodePtr node, ferryFile **file);

int ferryFileOpen(const char *path, int flags);
bool ferryFileIsPinned(int fd, const char *path);
int ferryFileCreate(ferryFile *file, const char *path, uid_t uid, gid_t gid);
int ferryFileLink(ferryFile *file, const char *path);
int ferryFileCreateNamed(ferryFile *file, const char *path, uid_t uid, gid_t gid);
int ferryFileRename(const char *from, const char *to);
int ferryFileRemove(const ferryFile *file, const char *path, uid_t uid, gid_t gid);
int ferryFileEmpty(const ferryFile *file, const char *path, uid_t uid, gid_t gid);
