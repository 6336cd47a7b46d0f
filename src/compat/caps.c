/*
 * caps.c: what QEMU can do at least
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "compat/have.h"
#include "compat/caps.h"


/**
 * ferryCapsAreRecent:
 *
 * Returns whether QEMU is 6.1 or newer, which Ferry needs; the newest libvirt starts no other.
 */
bool
ferryCapsAreRecent(virQEMUCaps *caps G_GNUC_UNUSED)
{
#ifdef FERRY_HAVE_OLD_CAPS
    return virQEMUCapsGet(caps, QEMU_CAPS_BLOCKDEV_REOPEN) &&
           virQEMUCapsGet(caps, QEMU_CAPS_BLOCKDEV_SNAPSHOT_ALLOW_WRITE_ONLY) &&
           virQEMUCapsGet(caps, QEMU_CAPS_INCREMENTAL_BACKUP) &&
           virQEMUCapsGet(caps, QEMU_CAPS_MIGRATION_PARAM_BLOCK_BITMAP_MAPPING);
#else
    return true;
#endif
}
