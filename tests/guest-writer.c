/*
 * guest-writer.c: the program of the guest that guest.py builds
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * It is the init of a small Linux guest. It writes numbered records to its disk,
 * one after the other, and says on the console which was acknowledged last, and
 * what was the longest time between two acknowledgements. A record is written
 * with O_DIRECT|O_SYNC: an acknowledged one is on the disk, or the disk lied.
 *
 * Record n lies in slot n % slots of the region, and begins with 1. Since no
 * record is issued before the one before it was acknowledged, whatever a disk
 * holds at any point in time is a run of records without a hole.
 *
 * Options come from the kernel's command line (sizes: bytes, or with K, M, G):
 *
 *   ferry.dev=/dev/vda   what to write to
 *   ferry.also=          another disk: each record is written to it, too, as soon as it was
 *                        acknowledged by the first one
 *   ferry.offset=0       where the region begins
 *   ferry.size=16M       how large it is
 *   ferry.rate=0         records per second; 0: as many as possible
 *   ferry.report=100     milliseconds between reports
 *   ferry.agent=         with a guest agent: see guest-agent.c
 *
 * A record, little-endian: magic, number, microseconds, slots (8 bytes each),
 * a pattern that differs between records, CRC-32 of all that (4 bytes).
 * Console lines, times in microseconds of CLOCK_MONOTONIC, "max" since boot:
 *
 *   ferry-guest start dev=/dev/vda offset=0 slots=4096 rate=0 resume=1
 *   ferry-guest t=2500123 ack=17 gap=1200 max=3400 end
 *   ferry-guest error t=2500123 seq=18 errno=5 end
 *   ferry-guest fatal WHY
 *
 * If the region holds records already, it goes on after the newest.
 */

#define _GNU_SOURCE

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "guest.h"

#define RECORD 4096
#define MAGIC 0x3163655279727246ULL /* "FrryRec1" */
#define SCAN (1024 * 1024)
#define MODULES "/modules"

typedef struct {
    char dev[256];
    char also[256];
    uint64_t offset;
    uint64_t size;
    uint64_t rate;
    uint64_t report;
    char agent[16];
} Options;

typedef struct {
    uint64_t magic;
    uint64_t seq;
    uint64_t time;
    uint64_t slots;
    uint64_t pattern[(RECORD - 5 * 8) / 8];
    uint32_t unused;
    uint32_t crc;
} Record;

_Static_assert(sizeof(Record) == RECORD, "a record fills its slot");

static int console = STDOUT_FILENO;


uint64_t
now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000ULL + ts.tv_nsec / 1000;
}


void
sleep_until(uint64_t us)
{
    struct timespec ts = { us / 1000000, us % 1000000 * 1000 };

    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR)
        ;
}


/* The console may not hold the writer up: what it does not take is dropped.
 * Readers ignore lines that are not complete. */
void
say(const char *format, ...)
{
    char line[512];
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    if (write(console, line, n) < 0)
        return;
}


/* An init must not end: the guest is switched off instead. */
void
fatal(const char *what)
{
    say("ferry-guest fatal %s: %s\n", what, strerror(errno));
    if (getpid() != 1)
        exit(1);
    sleep_until(now() + 500000); /* for the console to get it out */
    reboot(RB_POWER_OFF);
    for (;;)
        pause();
}


/* CRC-32 as zlib has it, four bits at a time: the table stays readable. */
static uint32_t
crc32(const void *data,
      size_t len)
{
    static const uint32_t table[16] = {
        0x00000000,
        0x1db71064,
        0x3b6e20c8,
        0x26d930ac,
        0x76dc4190,
        0x6b6b51f4,
        0x4db26158,
        0x5005713c,
        0xedb88320,
        0xf00f9344,
        0xd6d6a3e8,
        0xcb61b38c,
        0x9b64c2b0,
        0x86d3d2d4,
        0xa00ae278,
        0xbdbdf21c,
    };
    const uint8_t *p = data;
    uint32_t crc = 0xffffffff;

    while (len--) {
        crc ^= *p++;
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}


static void
record_fill(Record *r,
            uint64_t seq,
            uint64_t slots)
{
    size_t i;

    r->magic = MAGIC;
    r->seq = seq;
    r->time = now();
    r->slots = slots;
    for (i = 0; i < sizeof(r->pattern) / sizeof(r->pattern[0]); i++)
        r->pattern[i] = (seq + i) * 0x9e3779b97f4a7c15ULL;
    r->unused = 0;
    r->crc = crc32(r, offsetof(Record, crc));
}


static bool
record_is_valid(const Record *r,
                uint64_t slots)
{
    return r->magic == MAGIC && r->slots == slots &&
           r->crc == crc32(r, offsetof(Record, crc));
}


static uint64_t
parse_size(const char *text)
{
    char *end;
    uint64_t value = strtoull(text, &end, 0);

    switch (*end) {
    case 'G':
        value *= 1024;
        __attribute__((fallthrough));
    case 'M':
        value *= 1024;
        __attribute__((fallthrough));
    case 'K':
        value *= 1024;
        break;
    }
    return value;
}


static void
parse_options(Options *o,
              char *text)
{
    char *word;
    char *value;

    for (word = strtok(text, " \n"); word; word = strtok(NULL, " \n")) {
        if (strncmp(word, "ferry.", 6) != 0 || !(value = strchr(word, '=')))
            continue;
        word += 6;
        *value++ = '\0';
        if (strcmp(word, "dev") == 0)
            snprintf(o->dev, sizeof(o->dev), "%s", value);
        else if (strcmp(word, "also") == 0)
            snprintf(o->also, sizeof(o->also), "%s", value);
        else if (strcmp(word, "offset") == 0)
            o->offset = parse_size(value);
        else if (strcmp(word, "size") == 0)
            o->size = parse_size(value);
        else if (strcmp(word, "rate") == 0)
            o->rate = parse_size(value);
        else if (strcmp(word, "report") == 0)
            o->report = parse_size(value) * 1000;
        else if (strcmp(word, "agent") == 0)
            snprintf(o->agent, sizeof(o->agent), "%s", value);
    }
}


/* All modules of the initramfs, in the order of their names. */
static void
load_modules(void)
{
    struct dirent **names;
    int n = scandir(MODULES, &names, NULL, alphasort);
    int i;

    for (i = 0; i < n; i++) {
        char path[sizeof(MODULES) + 257];
        int fd;

        if (names[i]->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "%s/%s", MODULES, names[i]->d_name);
        if ((fd = open(path, O_RDONLY | O_CLOEXEC)) < 0 ||
            (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST))
            fatal(path);
        close(fd);
    }
}


/* What an init has to do before there is anything to work with. */
static void
boot(Options *o)
{
    char cmdline[4096];
    ssize_t n;
    int fd;

    mkdir("/dev", 0755);
    mkdir("/proc", 0755);
    mount("dev", "/dev", "devtmpfs", 0, NULL);
    mount("proc", "/proc", "proc", 0, NULL);
    if ((fd = open("/dev/console", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)) >= 0)
        console = fd;

    if ((fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC)) < 0 ||
        (n = read(fd, cmdline, sizeof(cmdline) - 1)) < 0)
        fatal("/proc/cmdline");
    close(fd);
    cmdline[n] = '\0';
    parse_options(o, cmdline);
    load_modules();
}


/* A disk appears a while after its driver. */
static int
open_disk(const char *dev)
{
    uint64_t end = now() + 20 * 1000000;
    int fd;

    while ((fd = open(dev, O_RDWR | O_DIRECT | O_SYNC | O_CLOEXEC)) < 0) {
        if (now() > end)
            fatal(dev);
        sleep_until(now() + 20000);
    }
    return fd;
}


/* Returns the number of the newest record in the region, 0 if there is none. */
static uint64_t
newest(int fd,
       const Options *o,
       void *buf)
{
    uint64_t slots = o->size / RECORD;
    uint64_t found = 0;
    uint64_t done = 0;

    while (done < o->size) {
        size_t want = o->size - done < SCAN ? o->size - done : SCAN;
        ssize_t got = pread(fd, buf, want, o->offset + done);
        const Record *r = buf;
        const Record *end = r + got / RECORD;

        errno = got < 0 ? errno : ENOSPC;
        if (got < RECORD)
            fatal("the disk ends before the region does");
        for (; r < end; r++) {
            if (r->magic == MAGIC && r->seq > found && record_is_valid(r, slots))
                found = r->seq;
        }
        done += got / RECORD * RECORD;
    }
    return found;
}


static void
write_record(int fd,
             const Options *o,
             const Record *r)
{
    while (pwrite(fd, r, RECORD, o->offset + r->seq % (o->size / RECORD) * RECORD) != RECORD) {
        say("ferry-guest error t=%llu seq=%llu errno=%d end\n",
            (unsigned long long) now(), (unsigned long long) r->seq, errno);
        sleep_until(now() + 100000);
    }
}


/* @also: the other disk; -1: there is none */
static void __attribute__((noreturn))
write_records(int fd,
              int also,
              const Options *o,
              Record *r,
              uint64_t seq)
{
    uint64_t slots = o->size / RECORD;
    uint64_t period = o->rate ? 1000000 / o->rate : 0;
    uint64_t next = now();
    uint64_t reported = next;
    uint64_t last = 0;
    uint64_t gap = 0;
    uint64_t max = 0;

    for (;; seq++) {
        uint64_t t;

        record_fill(r, seq, slots);
        write_record(fd, o, r);
        if (also >= 0)
            write_record(also, o, r);

        t = now();
        if (last && t - last > gap)
            gap = t - last;
        last = t;

        if (t - reported >= o->report) {
            if (gap > max)
                max = gap;
            say("ferry-guest t=%llu ack=%llu gap=%llu max=%llu end\n",
                (unsigned long long) t, (unsigned long long) seq,
                (unsigned long long) gap, (unsigned long long) max);
            reported = t;
            gap = 0;
        }

        if (period) {
            next += period;
            if (next > t)
                sleep_until(next);
            else
                next = t; /* what was missed is not made up for */
        }
        agent_gate(seq);
    }
}


int
main(int argc,
     char **argv)
{
    Options o = { .dev = "/dev/vda", .size = 16 * 1024 * 1024, .report = 100000 };
    uint64_t seq;
    void *buf;
    int also = -1;
    int fd;

    if (getpid() == 1)
        boot(&o);
    else if (argc == 2)
        parse_options(&o, argv[1]); /* on a host, to try it */

    errno = EINVAL;
    if (o.size < RECORD || o.size % RECORD || o.offset % RECORD || o.rate > 1000000)
        fatal("ferry.size, ferry.offset, ferry.rate");
    if (!(buf = aligned_alloc(RECORD, SCAN)))
        fatal("memory");

    fd = open_disk(o.dev);
    seq = newest(fd, &o, buf);
    if (o.also[0]) {
        uint64_t other = newest(also = open_disk(o.also), &o, buf);

        seq = other < seq ? other : seq;
    }
    seq++;
    say("ferry-guest start dev=%s offset=%llu slots=%llu rate=%llu resume=%llu\n",
        o.dev, (unsigned long long) o.offset, (unsigned long long) (o.size / RECORD),
        (unsigned long long) o.rate, (unsigned long long) seq);
    if (o.agent[0])
        agent_start(o.agent);
    write_records(fd, also, &o, buf, seq);
}
