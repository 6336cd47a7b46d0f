/*
 * pool.c: storage pools
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "block/pool.h"
#include "conf/storage_conf.h"
#include "virerror.h"

#define VIR_FROM_THIS VIR_FROM_QEMU


/**
 * ferryPoolFind:
 * @conn: to the storage driver, which may keep the caller waiting
 *
 * Returns the pool @name, which is active, or NULL with an error reported.
 */
virStoragePoolPtr
ferryPoolFind(virConnectPtr conn,
              const char *name)
{
    g_autoptr(virStoragePool) pool = virStoragePoolLookupByName(conn, name);

    if (!pool)
        return NULL;

    if (virStoragePoolIsActive(pool) != 1) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("storage pool '%1$s' is not active: start it with 'virsh pool-start'"), name);
        return NULL;
    }

    return g_steal_pointer(&pool);
}


/**
 * ferryPoolHasFiles:
 *
 * Sets @files to whether the volumes of @pool are files, which may have holes. For volume
 * managers a volume that is not fully allocated is a snapshot. Returns 0, or -1 with an error
 * reported.
 */
int
ferryPoolHasFiles(virStoragePoolPtr pool,
                  bool *files)
{
    g_autofree char *xml = virStoragePoolGetXMLDesc(pool, /* flags= */ 0);
    g_autoptr(virStoragePoolDef) def = NULL;

    if (!xml || !(def = virStoragePoolDefParse(xml, /* filename= */ NULL, /* flags= */ 0)))
        return -1;

    *files = def->type == VIR_STORAGE_POOL_DIR || def->type == VIR_STORAGE_POOL_FS ||
             def->type == VIR_STORAGE_POOL_NETFS || def->type == VIR_STORAGE_POOL_VSTORAGE;
    return 0;
}
