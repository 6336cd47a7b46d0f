/*
 * data.c: the data of an operation on checkpoints
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "ops/checkpoint/data.h"


ferryCheckpoint *
ferryCheckpointNew(void)
{
    ferryCheckpoint *data = g_new0(ferryCheckpoint, 1);

    data->names = g_ptr_array_new_with_free_func(g_free);
    return data;
}


void
ferryCheckpointFree(void *opaque)
{
    ferryCheckpoint *data = opaque;

    g_ptr_array_unref(data->names);
    virObjectUnref(data->def);
    g_clear_pointer(&data->writable, g_hash_table_unref);
    g_free(data);
}
