/*
 * cookie.h: storage migration: our part of the stock driver's cookie
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "ops/migration/request.h"

int ferryMigrationCookieRead(const char *cookie, int len, ferryMigrationRequest *req);
int ferryMigrationCookieOffer(virDomainObj *vm, char **cookie, int *len);
char *ferryMigrationCookieWithout(const char *cookie, int len);
int ferryMigrationCookieAnswer(char **cookie, int *len, unsigned int port, const char *extra);
