/*
 * volumeid.c: which volume of a storage pool Ferry has created
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "block/volumeid.h"


ferryVolume *
ferryVolumeNew(const char *pool,
               const char *name)
{
    ferryVolume *volume = g_new0(ferryVolume, 1);

    volume->pool = g_strdup(pool);
    volume->name = g_strdup(name);
    return volume;
}


ferryVolume *
ferryVolumeCopy(const ferryVolume *volume)
{
    ferryVolume *copy = ferryVolumeNew(volume->pool, volume->name);

    copy->key = g_strdup(volume->key);
    copy->creating = volume->creating;
    if (volume->file) {
        copy->file = ferryFileNew();
        copy->file->dev = volume->file->dev;
        copy->file->ino = volume->file->ino;
        copy->file->born = volume->file->born;
    }

    return copy;
}


/**
 * ferryVolumeFormat:
 *
 * Adds to @attrs, for the journal, which volume @volume is; nothing if it is NULL.
 */
void
ferryVolumeFormat(virBuffer *attrs,
                  const ferryVolume *volume)
{
    if (!volume)
        return;

    virBufferEscapeString(attrs, " pool='%s'", volume->pool);
    virBufferEscapeString(attrs, " volume='%s'", volume->name);
    virBufferEscapeString(attrs, " key='%s'", volume->key);
    ferryFileFormat(attrs, volume->file);
}


/**
 * ferryVolumeParse:
 * @volume: set to a new record; stays NULL if @node has none
 *
 * Reads what ferryVolumeFormat() wrote. Returns 0, or -1 with an error reported.
 */
int
ferryVolumeParse(xmlNodePtr node,
                 ferryVolume **volume)
{
    g_autofree char *pool = virXMLPropString(node, "pool");
    g_autofree char *name = virXMLPropString(node, "volume");

    if (!pool || !name)
        return 0;

    *volume = ferryVolumeNew(pool, name);
    (*volume)->key = virXMLPropString(node, "key");
    return ferryFileParse(node, &(*volume)->file);
}


void
ferryVolumeFree(ferryVolume *volume)
{
    if (!volume)
        return;

    g_free(volume->pool);
    g_free(volume->name);
    g_free(volume->key);
    ferryFileFree(volume->file);
    g_free(volume);
}
