/*
 * config.c: the settings in ferry.conf
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * ferry.conf lies beside qemu.conf and is read when the driver starts. The sample that
 * comes with Ferry explains each setting. If the file has an error, the driver logs it,
 * starts nevertheless and uses the defaults.
 */

#include <config.h>

#include "ops/config.h"
#include "virconf.h"
#include "virerror.h"
#include "virfile.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

VIR_LOG_INIT("ferry.config");

#define FERRY_MIGRATE_RECONNECT 60
#define FERRY_MIGRATE_RECONNECT_MAX 3600

static ferryConfig config;

static const char *const ferryConfigNames[] = { "migrate_reconnect", NULL };


/* virConfWalk(): notes the first setting that is not known, in @opaque */
static int
ferryConfigVisit(const char *name,
                 virConfValue *value G_GNUC_UNUSED,
                 void *opaque)
{
    char **unknown = opaque;

    if (!*unknown && !g_strv_contains(ferryConfigNames, name))
        *unknown = g_strdup(name);

    return 0;
}


static int
ferryConfigRead(const char *path,
                ferryConfig *result)
{
    g_autoptr(virConf) conf = virConfReadFile(path, /* flags= */ 0);
    g_autofree char *unknown = NULL;

    if (!conf || virConfWalk(conf, ferryConfigVisit, &unknown) < 0)
        return -1;

    if (unknown) {
        g_autofree char *known = g_strjoinv(", ", (char **) ferryConfigNames);

        virReportError(VIR_ERR_CONF_SYNTAX, _("%1$s: unknown setting '%2$s'; known: %3$s"), path, unknown, known);
        return -1;
    }

    if (virConfGetValueUInt(conf, "migrate_reconnect", &result->migrateReconnect) < 0)
        return -1;

    if (result->migrateReconnect > FERRY_MIGRATE_RECONNECT_MAX) {
        virReportError(VIR_ERR_CONF_SYNTAX, _("%1$s: migrate_reconnect must not exceed %2$u seconds"),
                       path, FERRY_MIGRATE_RECONNECT_MAX);
        return -1;
    }

    return 0;
}


/**
 * ferryConfigLoad:
 *
 * Reads the settings. Called once, before clients can connect: the settings need no lock.
 */
void
ferryConfigLoad(virQEMUDriver *driver)
{
    g_autoptr(virQEMUDriverConfig) cfg = virQEMUDriverGetConfig(driver);
    g_autofree char *path = g_strdup_printf("%s/ferry.conf", cfg->configBaseDir);
    const ferryConfig defaults = { .migrateReconnect = FERRY_MIGRATE_RECONNECT };

    config = defaults;

    if (virFileExists(path) && ferryConfigRead(path, &config) < 0) {
        VIR_ERROR(_("'%1$s' is not used: %2$s"), path, virGetLastErrorMessage());
        virResetLastError();
        config = defaults;
    }
}


/* Returns the settings, which do not change any more. */
const ferryConfig *
ferryConfigGet(void)
{
    return &config;
}
