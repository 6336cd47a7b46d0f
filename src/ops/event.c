/*
 * event.c: events sent to clients
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "domain_event.h"
#include "ops/event.h"


/**
 * ferryEventBlockJob:
 *
 * Sends both block job events. BLOCK_JOB names the path of the image and is sent only for
 * local images; BLOCK_JOB_2 names the disk's target (vda). virsh waits for the event with
 * the name that the user typed. Domain locked.
 */
void
ferryEventBlockJob(virDomainObj *vm,
                   virDomainDiskDef *disk,
                   virDomainBlockJobType type,
                   virConnectDomainEventBlockJobStatus status)
{
    virObjectEventState *queue = QEMU_DOMAIN_PRIVATE(vm)->driver->domainEventState;

    if (virStorageSourceIsLocalStorage(disk->src) && !virStorageSourceIsEmpty(disk->src))
        virObjectEventStateQueue(queue,
                                 virDomainEventBlockJobNewFromObj(vm,
                                                                  virDomainDiskGetSource(disk),
                                                                  type, status));

    virObjectEventStateQueue(queue,
                             virDomainEventBlockJob2NewFromObj(vm, disk->dst, type, status));
}


/**
 * ferryEventBlockJobNamed:
 *
 * Sends the block job events of the disk with target @dst. The disk may be gone: then
 * only BLOCK_JOB_2 is sent, which needs no path. Domain locked.
 */
void
ferryEventBlockJobNamed(virDomainObj *vm,
                        const char *dst,
                        virDomainBlockJobType type,
                        virConnectDomainEventBlockJobStatus status)
{
    virObjectEventState *queue = QEMU_DOMAIN_PRIVATE(vm)->driver->domainEventState;
    virDomainDiskDef *disk = virDomainDiskByTarget(vm->def, dst);

    if (disk)
        ferryEventBlockJob(vm, disk, type, status);
    else
        virObjectEventStateQueue(queue, virDomainEventBlockJob2NewFromObj(vm, dst, type, status));
}
