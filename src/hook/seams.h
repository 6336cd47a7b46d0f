/*
 * seams.h: how a seam is declared
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

/* Declares a seam: the stock function (__real_), and ours, which is called instead. Both are of the
 * type that libvirt's header says. */
#define FERRY_SEAM(name) \
    extern typeof(name) __real_##name; \
    extern typeof(name) __wrap_##name
