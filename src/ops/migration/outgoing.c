/*
 * outgoing.c: the source's data of a storage migration
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "block/nodename.h"
#include "block/qmp.h"
#include "compat/host.h"
#include "ops/migration/outgoing.h"


void
ferryMigrationFree(void *opaque)
{
    ferryMigration *migration = opaque;
    size_t i;

    for (i = 0; i < migration->ndisks; i++) {
        g_free(migration->disks[i].dst);
        virObjectUnref(migration->disks[i].target);
    }

    g_free(migration->disks);
    ferryHostClear(&migration->server);
    virFreeError(migration->error);
    g_free(migration);
}


/**
 * ferryMigrationFind:
 *
 * Returns the storage migration from @vm, borrowed, or NULL. @vm is locked.
 */
ferryOp *
ferryMigrationFind(virDomainObj *vm)
{
    ferryOp *op = ferryOpFind(vm, FERRY_MIGRATION_NAME);

    return op && op->klass->dataFree == ferryMigrationFree ? op : NULL;
}


/**
 * ferryMigrationTargetNew:
 *
 * Returns a new source for the destination's export of disk @dst, without its address.
 */
virStorageSource *
ferryMigrationTargetNew(const char *dst)
{
    virStorageSource *target = virStorageSourceNew();

    target->type = VIR_STORAGE_TYPE_NETWORK;
    target->protocol = VIR_STORAGE_NET_PROTOCOL_NBD;
    target->format = VIR_STORAGE_FILE_RAW;
    target->discard = VIR_DOMAIN_DISK_DISCARD_UNMAP; /* zeroes become holes */
    ferryNodeSetNames(target, g_strdup_printf("ferry-%s-nbd", dst), g_strdup_printf("ferry-%s-nbd-raw", dst));

    return target;
}


/**
 * ferryMigrationYank:
 *
 * Cuts the connections of all mirrors. Requests to a lost destination would last until
 * TCP's timeout, and QEMU's main loop would wait for them to drain or close a node.
 */
void
ferryMigrationYank(ferryOp *op)
{
    ferryMigration *migration = ferryMigrationOf(op);
    size_t i;

    for (i = 0; i < migration->ndisks; i++)
        ferryQMPYank(op->vm, ferryNodeStorage(migration->disks[i].target));
}
