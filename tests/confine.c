/*
 * confine.c: lets the driver think that QEMU changes to its AppArmor profile, on a kernel without AppArmor
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Loaded with LD_PRELOAD into a process that runs the driver: see suite-apparmor.
 */

int aa_change_profile(const char *profile);


int
aa_change_profile(const char *profile)
{
    return profile ? 0 : -1;
}
