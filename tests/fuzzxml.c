/*
 * fuzzxml.c: damaged XML for our parsers: journals, backups, migration cookies
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 *     fuzzxml journal|backup|cookie ROUNDS SEED FILE...
 *
 * The files are good ones. Each round takes one, damages it a few times, and
 * gives it to the parser, which must understand it or refuse it; the
 * sanitizers watch.
 */

#include <config.h>

#include "engine/engine.h"
#include "engine/journal.h"
#include "ops/backup/backup.h"
#include "ops/backup/xml.h"
#include "ops/classes.h"
#include "ops/checkpoint/checkpoint.h"
#include "ops/copy/copy.h"
#include "ops/migration/cookie.h"
#include "ops/migration/destination.h"
#include "ops/migration/source.h"
#include "testutilsqemu.h"
#include "viralloc.h"
#include "virerror.h"
#include "virfile.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

static void
fuzzOnce(GRand *rand,
         GString *text,
         char **seeds,
         size_t nseeds)
{
    gsize at = g_rand_int_range(rand, 0, text->len + 1);
    gsize len = g_rand_int_range(rand, 0, 40);
    const char *other = seeds[g_rand_int_range(rand, 0, nseeds)];
    gsize from = g_rand_int_range(rand, 0, strlen(other));

    len = MIN(len, text->len - at);

    switch (g_rand_int_range(rand, 0, 6)) {
    case 0: /* a bit */
        if (at < text->len)
            text->str[at] ^= 1 << g_rand_int_range(rand, 0, 7);
        break;
    case 1: /* a cut */
        g_string_erase(text, at, len);
        break;
    case 2: /* the end is missing */
        g_string_truncate(text, at);
        break;
    case 3: { /* a repeat */
        g_autofree char *piece = g_strndup(text->str + at, len);
        g_string_insert(text, at, piece);
        break;
    }
    case 4: /* a piece of another one */
        g_string_insert_len(text, at, other + from, MIN(200, strlen(other) - from));
        break;
    default: /* a number that is out of any bounds */
        g_string_insert(text, at, g_rand_boolean(rand) ? "99999999999999999999" : "-1");
        break;
    }
}


static int
fuzzBackup(virQEMUDriver *driver,
           const char *text)
{
    ferryBackupExtras extras = { 0 };
    g_autoptr(virDomainBackupDef) def = ferryBackupParseXML(driver, text, &extras);
    size_t i;

    for (i = 0; def && i < def->ndisks; i++) {
        if (!def->disks[i].name) {
            fprintf(stderr, "a disk without a name was let through\n");
            return -1;
        }
    }

    if (def && (extras.bandwidth > LLONG_MAX || extras.idleTimeout > INT_MAX / 1000)) {
        fprintf(stderr, "a number out of bounds was let through\n");
        return -1;
    }

    return def ? 1 : 0;
}


static int
fuzzCookieCheck(const ferryMigrationRequest *req)
{
    GHashTableIter iter;
    void *value;

    if (req->address.port > USHRT_MAX) {
        fprintf(stderr, "a port out of bounds was let through\n");
        return -1;
    }

    if (!req->disks)
        return 0;

    g_hash_table_iter_init(&iter, req->disks);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        ferryMigrationOffer *offer = value;
        unsigned long long size = offer->props.clusterSize;

        if ((size != 0 && (size < 512 || size > 2 * 1024 * 1024 || (size & (size - 1)) != 0)) ||
            (offer->backing && (*offer->backing != '/' ||
                                offer->backingFormat <= VIR_STORAGE_FILE_NONE ||
                                offer->backingFormat >= VIR_STORAGE_FILE_LAST))) {
            fprintf(stderr, "a disk that cannot be was let through\n");
            return -1;
        }
    }

    return 0;
}


/* A copy with nothing behind it: bytes that are not theirs must not be looked at. */
static char *
fuzzCookieCopy(const char *cookie,
               int len)
{
    char *copy = g_new(char, MAX(len, 1));

    memcpy(copy, cookie, len);
    return copy;
}


/* What a stock function is given must not have it do our work. */
static int
fuzzCookieWithout(const char *cookie,
                  int len)
{
    g_auto(ferryMigrationRequest) req = { 0 };
    g_autofree char *without = ferryMigrationCookieWithout(cookie, len);

    if (without &&
        (ferryMigrationCookieRead(without, strlen(without) + 1, &req) < 0 || req.disks)) {
        fprintf(stderr, "there is NBD storage in a cookie without: %s\n", without);
        return -1;
    }

    return 0;
}


/* What the other host is told it must understand. */
static int
fuzzCookieAnswer(const char *cookie,
                 int len,
                 const char *extra)
{
    g_auto(ferryMigrationRequest) before = { 0 };
    g_auto(ferryMigrationRequest) after = { 0 };
    g_autofree char *answer = fuzzCookieCopy(cookie, len);
    bool good = ferryMigrationCookieRead(cookie, len, &before) == 0;

    if (ferryMigrationCookieAnswer(&answer, &len, 49153, extra) < 0 || !good)
        return 0;

    if (ferryMigrationCookieRead(answer, len, &after) < 0 || after.address.port != 49153) {
        fprintf(stderr, "an answer cannot be read: %s\n", answer);
        return -1;
    }

    return 0;
}


static int
fuzzCookie(GRand *rand,
           GString *text)
{
    g_auto(ferryMigrationRequest) req = { 0 };
    int whole = text->len + 1;
    /* most end with the 0 that they must end with */
    int len = g_rand_int_range(rand, 0, 20) > 0 ? whole : g_rand_int_range(rand, 0, whole);
    g_autofree char *cookie = fuzzCookieCopy(text->str, len);
    int rc = ferryMigrationCookieRead(cookie, len, &req);

    if ((rc == 0 && fuzzCookieCheck(&req) < 0) ||
        fuzzCookieWithout(cookie, len) < 0 ||
        fuzzCookieAnswer(cookie, len, g_rand_boolean(rand) ? "<extra><disk target='vda'/></extra>" : NULL) < 0)
        return -1;

    return rc == 0 ? 1 : 0;
}


static int
fuzzJournal(virQEMUDriver *driver,
            const char *path,
            const unsigned char *uuid,
            const char *text)
{
    g_autoptr(GPtrArray) ops = g_ptr_array_new_with_free_func((GDestroyNotify) ferryOpUnref);
    g_autofree char *bad = g_strdup_printf("%s.bad", path);
    int rc;

    if (virFileWriteStr(path, text, 0600) < 0)
        return -1;

    unlink(bad);
    rc = ferryJournalRead(driver, uuid, ferryClasses, ops);

    if (rc < 0 && (ops->len > 0 || !virFileExists(bad) || virFileExists(path))) {
        fprintf(stderr, "a refused journal was not set aside\n");
        return -1;
    }

    unlink(path);
    return rc == 0 ? 1 : 0;
}


int
main(int argc,
     char **argv)
{
    virQEMUDriver driver;
    const unsigned char uuid[VIR_UUID_BUFLEN] = { 0 };
    char uuidstr[VIR_UUID_STRING_BUFLEN];
    char tmp[] = "/tmp/ferry-fuzz-XXXXXX";
    g_autofree char *path = NULL;
    GRand *rand;
    char **seeds;
    size_t nseeds = argc - 4;
    long rounds;
    long understood = 0;
    long i;
    size_t j;

    if (argc < 5 || virInitialize() < 0 || qemuTestDriverInit(&driver) < 0 || !g_mkdtemp(tmp))
        return EXIT_FAILURE;

    ignore_value(virLogSetOutputs("4:file:/dev/null"));
    rounds = strtol(argv[2], NULL, 10);
    rand = g_rand_new_with_seed(strtol(argv[3], NULL, 10));
    seeds = g_new0(char *, nseeds + 1);
    for (j = 0; j < nseeds; j++) {
        if (virFileReadAll(argv[j + 4], 1 << 20, &seeds[j]) < 0)
            return EXIT_FAILURE;
    }

    VIR_FREE(driver.config->libDir);
    driver.config->libDir = g_strdup_printf("%s/lib/qemu", tmp);
    virUUIDFormat(uuid, uuidstr);
    path = g_strdup_printf("%s/lib/ferry/%s.xml", tmp, uuidstr);
    {
        g_autofree char *dir = g_path_get_dirname(path);
        g_mkdir_with_parents(dir, 0700);
    }

    /* those of former versions are among them */
    for (j = 0; STREQ(argv[1], "journal") && j < nseeds; j++) {
        if (fuzzJournal(&driver, path, uuid, seeds[j]) != 1) {
            fprintf(stderr, "%s is not understood\n", argv[j + 4]);
            return EXIT_FAILURE;
        }
    }

    for (i = 0; i < rounds; i++) {
        GString *text = g_string_new(seeds[g_rand_int_range(rand, 0, nseeds)]);
        int damages = g_rand_int_range(rand, 0, 5);
        int rc;

        while (damages-- > 0)
            fuzzOnce(rand, text, seeds, nseeds);

        if (g_getenv("FERRY_FUZZ_KEEP"))
            ignore_value(g_file_set_contents(g_getenv("FERRY_FUZZ_KEEP"), text->str, text->len, NULL));

        if (STREQ(argv[1], "journal"))
            rc = fuzzJournal(&driver, path, uuid, text->str);
        else if (STREQ(argv[1], "backup"))
            rc = fuzzBackup(&driver, text->str);
        else
            rc = fuzzCookie(rand, text);
        g_string_free(text, TRUE);
        if (rc < 0)
            return EXIT_FAILURE;
        understood += rc;
    }

    virFileDeleteTree(tmp);
    g_rand_free(rand);
    g_strfreev(seeds);
    /* both must happen, or this tests nothing */
    printf("%s: %ld documents, %ld understood\n", argv[1], rounds, understood);
    return understood > 0 && understood < rounds ? EXIT_SUCCESS : EXIT_FAILURE;
}
