/*
 * guest.h: what guest-writer.c and guest-agent.c share
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include <stdint.h>

/* guest-writer.c; times in microseconds of CLOCK_MONOTONIC */
uint64_t now(void);
void sleep_until(uint64_t us);
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
void fatal(const char *what) __attribute__((noreturn));

/* guest-agent.c */
void agent_start(const char *manner);
void agent_gate(uint64_t seq);
