/*
 * text.h: messages are translated by Ferry's catalogues, not by libvirt's
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The compiler includes this file before each source file of the driver (src/meson.build): libvirt's
 * _() looks up texts in libvirt's own catalogue, which does not know ours. hook/loader.c says where the
 * catalogues are. Texts in libvirt's macros, such as virCheckFlags(), are in libvirt's still.
 */

#pragma once

#include <config.h>

#include "internal.h"

static inline const char *ferryText(const char *text) __attribute__((format_arg(1)));

static inline const char *
ferryText(const char *text)
{
    const char *ours = dgettext(FERRY_TEXT_DOMAIN, text);

    return ours != text ? ours : dgettext(PACKAGE, text);
}

#undef _
#define _(text) ferryText(text)
