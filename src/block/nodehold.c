/*
 * nodehold.c: makes QEMU keep a file open
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "block/node.h"
#include "block/nodehold.h"
#include "block/nodename.h"
#include "block/qmp.h"
#include "virerror.h"


/* The filter that holds the file of @src. At most 31 bytes: libvirt counts its nodes. */
static char *
ferryNodeHolder(virStorageSource *src)
{
    return g_strdup_printf("ferry-%s", ferryNodeStorage(src));
}


/**
 * ferryNodeHold:
 * @src: image that the guest writes to
 *
 * Makes QEMU keep the file of @src open that it has open, until ferryNodeRelease(). When a
 * mirror job ends, it lets go of the right to write for a moment. The storage node follows
 * ("auto-read-only"): QEMU opens the file by its name, first for reading, then for writing.
 * A copy-on-read filter on the storage node keeps that right. Nothing is read through it.
 * Returns 0, or -1 with an error reported.
 */
int
ferryNodeHold(virDomainObj *vm,
              virStorageSource *src)
{
    g_autofree char *name = ferryNodeHolder(src);
    g_autoptr(virJSONValue) args = NULL;

    if (virJSONValueObjectAdd(&args, "s:driver", "copy-on-read", "s:node-name", name,
                              "s:file", ferryNodeStorage(src), NULL) < 0)
        return -1;

    return ferryQMP(vm, "blockdev-add", &args, /* reply= */ NULL);
}


/**
 * ferryNodeIsHeld:
 *
 * Asks QEMU whether ferryNodeHold() holds @src; VIR_TRISTATE_BOOL_ABSENT: QEMU does not answer.
 * Keeps the last error.
 */
virTristateBool
ferryNodeIsHeld(virDomainObj *vm,
                virStorageSource *src)
{
    g_autofree char *name = ferryNodeHolder(src);
    g_autoptr(GHashTable) nodes = NULL;
    virErrorPtr err = NULL;

    virErrorPreserveLast(&err);
    nodes = ferryNodeData(vm);
    virErrorRestore(&err);

    if (!nodes)
        return VIR_TRISTATE_BOOL_ABSENT;

    return virTristateBoolFromBool(g_hash_table_contains(nodes, name));
}


/**
 * ferryNodeRelease:
 *
 * Undoes ferryNodeHold(). Reports no error.
 */
void
ferryNodeRelease(virDomainObj *vm,
                 virStorageSource *src)
{
    g_autofree char *name = ferryNodeHolder(src);

    ferryNodeDelete(vm, name);
}
