/*
 * text.h: the command "ferry": its messages can be translated
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include <libintl.h>

#define _(text) dgettext(FERRY_TEXT_DOMAIN, text)
#define N_(text) text
