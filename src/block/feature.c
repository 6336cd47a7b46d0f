/*
 * feature.c: what only newer QEMU can do
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * libvirt asks QEMU for what it uses itself. What only Ferry uses is asked here, of the QEMU that
 * runs, and not of a version: distributions carry features back. One thing only a version tells: QEMU
 * 10.1 and 10.2 abort when a mirror is write-blocking and the guest writes zeroes to less than its
 * granularity (mended in 11.0).
 *
 * QEMU's schema is 200 kB, which takes a twentieth of a second to get. So it is asked for once
 * for each QEMU binary, and only if QEMU has block-job-change (8.2), the oldest of these features:
 * the names of its commands are short. A QEMU that was upgraded on the disk runs on as the old one
 * until its guest ends, so it is the running executable that is remembered, not its name.
 */

#include <config.h>

#include <fcntl.h>
#include <sys/stat.h>

#include "block/feature.h"
#include "block/qmp.h"
#include "qemu/qemu_qapi.h"
#include "virerror.h"
#include "virthread.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

/* The oldest of the features, and what it is asked by. */
#define FERRY_FEATURE_COMMAND "block-job-change"

static const char *const queries[FERRY_FEATURE_LAST] = {
    [FERRY_FEATURE_COPY_MODE] = FERRY_FEATURE_COMMAND "/arg-type/+mirror/copy-mode",
    [FERRY_FEATURE_TARGET_IS_ZERO] = "blockdev-mirror/arg-type/target-is-zero",
    [FERRY_FEATURE_SET_ACTIVE] = "blockdev-set-active",
};

/* Set in what is remembered of a binary, so that it is never NULL. */
#define FERRY_FEATURE_ASKED (1U << FERRY_FEATURE_LAST)

static struct {
    virMutex lock;
    GHashTable *binaries; /* ferryFeatureBinary() to a bit for each feature; NULL: none asked yet */
} memory = { .lock = VIR_MUTEX_INITIALIZER };


/* Returns what tells the executable of @pid from all others, or NULL without an error reported. The
 * file is not asked for anew: that could take long where it lies on a network. */
static char *
ferryFeatureBinary(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%lld/exe", (long long) pid);
    struct statx st;

    if (statx(AT_FDCWD, path, AT_STATX_DONT_SYNC, STATX_INO | STATX_CTIME, &st) < 0)
        return NULL;

    return g_strdup_printf("%u:%u:%llu:%lld.%u", st.stx_dev_major, st.stx_dev_minor,
                           (unsigned long long) st.stx_ino, (long long) st.stx_ctime.tv_sec,
                           st.stx_ctime.tv_nsec);
}


/* Returns whether QEMU's list of its @commands has FERRY_FEATURE_COMMAND. */
static bool
ferryFeatureIsNamed(virJSONValue *commands)
{
    size_t i;

    for (i = 0; virJSONValueIsArray(commands) && i < virJSONValueArraySize(commands); i++) {
        if (STREQ_NULLABLE(virJSONValueObjectGetString(virJSONValueArrayGet(commands, i), "name"),
                           FERRY_FEATURE_COMMAND))
            return true;
    }

    return false;
}


/* Returns whether QEMU's version is at least @from and less than @to, thousands of the major one plus the
 * minor one; true if it does not say. */
static bool
ferryFeatureIsBetween(virDomainObj *vm,
                      unsigned int from,
                      unsigned int to)
{
    g_autoptr(virJSONValue) version = NULL;
    virJSONValue *qemu;
    unsigned int major;
    unsigned int minor;

    if (ferryQMP(vm, "query-version", /* args= */ NULL, &version) < 0 ||
        !(qemu = virJSONValueObjectGetObject(version, "qemu")) ||
        virJSONValueObjectGetNumberUint(qemu, "major", &major) < 0 ||
        virJSONValueObjectGetNumberUint(qemu, "minor", &minor) < 0)
        return true;

    return major * 1000 + minor >= from && major * 1000 + minor < to;
}


/* Asks QEMU. Returns a bit for each feature that it has, and FERRY_FEATURE_ASKED; 0: there was no
 * answer, and an error is reported. */
static unsigned int
ferryFeatureAsk(virDomainObj *vm)
{
    g_autoptr(virJSONValue) commands = NULL;
    g_autoptr(virJSONValue) reply = NULL;
    g_autoptr(GHashTable) schema = NULL;
    unsigned int has = FERRY_FEATURE_ASKED;
    size_t i;

    if (ferryQMP(vm, "query-commands", /* args= */ NULL, &commands) < 0)
        return 0;

    if (!ferryFeatureIsNamed(commands))
        return has;

    if (ferryQMP(vm, "query-qmp-schema", /* args= */ NULL, &reply) < 0 ||
        !(schema = virQEMUQAPISchemaConvert(g_steal_pointer(&reply))))
        return 0;

    for (i = 0; i < FERRY_FEATURE_LAST; i++) {
        if (virQEMUQAPISchemaPathExists(queries[i], schema))
            has |= 1U << i;
    }

    if (ferryFeatureIsBetween(vm, 10001, 11000))
        has &= ~(1U << FERRY_FEATURE_COPY_MODE);

    return has;
}


/**
 * ferryFeatureHas:
 *
 * Returns whether the QEMU of @vm has @feature; it has none if it does not answer. Domain locked, job
 * held; may ask QEMU. Keeps the last error.
 */
bool
ferryFeatureHas(virDomainObj *vm,
                ferryFeature feature)
{
    g_autofree char *binary = ferryFeatureBinary(vm->pid);
    unsigned int has = 0;
    virErrorPtr err = NULL;

    if (!binary)
        return false;

    VIR_WITH_MUTEX_LOCK_GUARD(&memory.lock) {
        if (!memory.binaries)
            memory.binaries = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, /* value_destroy_func= */ NULL);
        has = GPOINTER_TO_UINT(g_hash_table_lookup(memory.binaries, binary));
    }

    if (has == 0) {
        virErrorPreserveLast(&err);
        has = ferryFeatureAsk(vm);
        virErrorRestore(&err);

        VIR_WITH_MUTEX_LOCK_GUARD(&memory.lock) {
            if (has != 0)
                g_hash_table_replace(memory.binaries, g_steal_pointer(&binary), GUINT_TO_POINTER(has));
        }
    }

    return has & (1U << feature);
}
