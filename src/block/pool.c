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


static virStoragePoolDef *
ferryPoolDefinition(virStoragePoolPtr pool)
{
    g_autofree char *xml = virStoragePoolGetXMLDesc(pool, /* flags= */ 0);

    return xml ? virStoragePoolDefParse(xml, /* filename= */ NULL, /* flags= */ 0) : NULL;
}


static bool
ferryPoolIsOfFiles(virStoragePoolDef *def)
{
    return def->type == VIR_STORAGE_POOL_DIR || def->type == VIR_STORAGE_POOL_FS ||
           def->type == VIR_STORAGE_POOL_NETFS || def->type == VIR_STORAGE_POOL_VSTORAGE;
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
    g_autoptr(virStoragePoolDef) def = ferryPoolDefinition(pool);

    if (!def)
        return -1;

    *files = ferryPoolIsOfFiles(def);
    return 0;
}


/**
 * ferryPoolPathOf:
 * @name: of a volume that is not there yet
 * @path: set to where it is going to be, which the caller frees; NULL: nobody knows
 * @files: as for ferryPoolHasFiles()
 *
 * Returns 0, or -1 with an error reported.
 */
int
ferryPoolPathOf(virStoragePoolPtr pool,
                const char *name,
                char **path,
                bool *files)
{
    g_autoptr(virStoragePoolDef) def = ferryPoolDefinition(pool);

    if (!def)
        return -1;

    *files = ferryPoolIsOfFiles(def);
    *path = NULL;
    if ((*files || def->type == VIR_STORAGE_POOL_LOGICAL) && def->target.path)
        *path = g_build_filename(def->target.path, name, NULL);
    return 0;
}
