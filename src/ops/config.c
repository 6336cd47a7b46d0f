/*
 * config.c: what an administrator may set
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * ferry.conf lies beside qemu.conf and is read when the driver starts. Each
 * setting is explained in the sample that comes with Ferry. A file that is not
 * understood is no reason to leave the domains alone: its settings are not used,
 * and the log says why.
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


static int
ferryConfigRead(const char *path,
                ferryConfig *result)
{
    g_autoptr(virConf) conf = virConfReadFile(path, 0);

    if (!conf ||
        virConfGetValueUInt(conf, "migrate_reconnect", &result->migrateReconnect) < 0)
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
 * Reads the settings. Called once, before there are clients.
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


/**
 * ferryConfigGet:
 */
const ferryConfig *
ferryConfigGet(void)
{
    return &config;
}
