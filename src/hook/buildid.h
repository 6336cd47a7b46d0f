/*
 * buildid.h: build-ids: which build of a library a file is
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include <glib.h>

char *ferryBuildIdOfNotes(const char *notes, guint64 len);
char *ferryBuildIdOfFile(const char *path);
