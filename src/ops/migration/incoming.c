/*
 * incoming.c: the destination's data of a storage migration
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "compat/host.h"
#include "ops/migration/incoming.h"


void
ferryIncomingFree(void *opaque)
{
    ferryIncoming *incoming = opaque;
    size_t i;

    for (i = 0; i < incoming->ndisks; i++) {
        g_free(incoming->disks[i].dst);
        virObjectUnref(incoming->disks[i].image);
        ferryFileFree(incoming->disks[i].file);
        ferryVolumeFree(incoming->disks[i].volume);
    }

    ferryVolumeRemovalUnref(incoming->removal);
    ferrySyncStop(incoming->sync);
    virFreeError(incoming->error);
    g_free(incoming->disks);
    g_free(incoming->domain);
    g_free(incoming->tlsAlias);
    g_free(incoming->bitmaps);
    g_strfreev(incoming->checkpoints);
    ferryFileFree(incoming->server.file);
    ferryHostClear(&incoming->address);
    g_strfreev(incoming->server.hosts);
    g_free(incoming);
}


/**
 * ferryIncomingFind:
 *
 * Returns the storage migration to @vm, borrowed, or NULL. @vm is locked.
 */
ferryOp *
ferryIncomingFind(virDomainObj *vm)
{
    ferryOp *op = ferryOpFind(vm, FERRY_INCOMING_NAME);

    return op && op->klass->dataFree == ferryIncomingFree ? op : NULL;
}
