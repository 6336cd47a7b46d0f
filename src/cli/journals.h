/*
 * journals.h: the command "ferry": what the journals say of the operations of all domains
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include <stdbool.h>

#include <glib.h>

/* One operation of one domain, as its journal has it. A string is NULL where the journal says
 * nothing. */
typedef struct {
    char *domain;
    char *uuid;
    char *type;       /* the operation's class */
    char *name;       /* unique in the domain */
    char *leader;     /* the operation of its group whose mark counts for this one, too */
    char *goal;       /* of a copy: mirror, pivot or abort; of a backup its mode: push or pull */
    char *result;     /* of a backup: none, completed, failed or cancelled */
    char *target;     /* of a copy: where to */
    GPtrArray *disks; /* of char *, names; of checkpoints and snapshots: their names */
    char *plan;       /* the one that is furthest on */
    char *step;       /* the last step of @plan that may have acted */
    gint64 since;     /* seconds since 1970; 0: not known */
    bool committed;   /* the mark of the point of no return is set */
    bool withdrawn;   /* the call that asked for @goal was refused */
    bool pending;     /* of a copy: its mirrored snapshot is not complete */
    bool complete;    /* of a snapshot: it is taken, with all its mirrors */
    bool layered;     /* of a copy: images below the top one are copied first */
    bool stopped;     /* its QEMU was gone when the journal was written */
    bool started;     /* the journal says which QEMU it is about: that had been started */
    bool alive;       /* its QEMU runs */
    bool runs;        /* a driver takes care of it: set by status.c */
} ferryCliOp;

/* A journal that could not be understood. */
typedef struct {
    char *path;
    char *why; /* NULL: a driver has set it aside */
} ferryCliBad;

char *ferryCliFolder(void);
int ferryCliJournals(const char *folder, GPtrArray **ops, GPtrArray **bad, GError **err);
