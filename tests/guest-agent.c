/*
 * guest-agent.c: a guest agent that can stop the writer, and nothing else
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A thread of guest-writer.c that speaks the protocol of QEMU's guest agent on
 * the guest's virtio port, as far as a host needs it to freeze and thaw. To be
 * frozen means that the writer waits at its gate: no record is under way, and
 * the last one was acknowledged. It says on the console
 *
 *   ferry-guest frozen t=2500123 ack=17 end
 *   ferry-guest thawed t=2600123 ack=17 end
 *
 * so a test knows exactly what the disk holds at the frozen moment.
 *
 * ferry.agent= on the kernel's command line starts it, and says in what manner
 * it freezes:
 *
 *   prompt   as it should
 *   refuse   not at all: the answer is an error
 *   mute     it does, but nobody is told
 *   late     it does, after three seconds
 *   hang     not at all, and it says nothing from then on
 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guest.h"

#define LATE 3000000
#define SENTINEL '\xff'

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static bool closed;  /* the gate */
static bool waiting; /* the writer, there */

static const char *manner;
static int port;


/**
 * agent_gate:
 * @seq: the record acknowledged last
 *
 * The writer comes by between two records, and waits if it is to.
 */
void
agent_gate(uint64_t seq)
{
    pthread_mutex_lock(&lock);

    if (closed) {
        say("ferry-guest frozen t=%llu ack=%llu end\n",
            (unsigned long long) now(), (unsigned long long) seq);
        waiting = true;
        pthread_cond_broadcast(&changed);
        while (closed)
            pthread_cond_wait(&changed, &lock);
        waiting = false;
        say("ferry-guest thawed t=%llu ack=%llu end\n",
            (unsigned long long) now(), (unsigned long long) seq);
    }

    pthread_mutex_unlock(&lock);
}


static void
freeze(void)
{
    pthread_mutex_lock(&lock);
    closed = true;
    while (!waiting)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}


/* Returns true if there was something to thaw. */
static bool
thaw(void)
{
    bool was;

    pthread_mutex_lock(&lock);
    was = closed;
    closed = false;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);

    return was;
}


/* Blocks while the host has not connected, as QEMU's agent does. */
static void __attribute__((format(printf, 1, 2)))
answer(const char *format, ...)
{
    char text[1024];
    const char *p = text;
    va_list args;
    ssize_t n;
    int len;

    va_start(args, format);
    len = vsnprintf(text, sizeof(text), format, args);
    va_end(args);

    for (; len > 0; p += n, len -= n) {
        if ((n = write(port, p, len)) < 0) {
            if (errno != EINTR && errno != EAGAIN)
                fatal("the agent's port");
            n = 0;
        }
    }
}


static void
run_freeze(void)
{
    if (strcmp(manner, "hang") == 0) {
        for (;;)
            pause();
    }
    if (strcmp(manner, "refuse") == 0) {
        answer("{\"error\":{\"class\":\"GenericError\",\"desc\":\"failed to freeze: not today\"}}\n");
        return;
    }
    if (closed) {
        answer("{\"error\":{\"class\":\"GenericError\",\"desc\":\"frozen already\"}}\n");
        return;
    }
    if (strcmp(manner, "late") == 0)
        sleep_until(now() + LATE);

    freeze();
    if (strcmp(manner, "mute") != 0)
        answer("{\"return\":1}\n");
}


static void
run_info(void)
{
    static const char *const commands[] = {
        "guest-sync",
        "guest-sync-delimited",
        "guest-ping",
        "guest-info",
        "guest-fsfreeze-status",
        "guest-fsfreeze-freeze",
        "guest-fsfreeze-thaw",
    };
    size_t i;

    answer("{\"return\":{\"version\":\"7.2\",\"supported_commands\":[");
    for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
        answer("%s{\"name\":\"%s\",\"enabled\":true,\"success-response\":true}",
               i ? "," : "", commands[i]);
    answer("]}}\n");
}


/* What stands behind a key; good enough for a host that means well. */
static const char *
member(const char *json,
       const char *key)
{
    const char *p = strstr(json, key);

    if (p) {
        p += strlen(key);
        p += strspn(p, " :\"");
    }
    return p ? p : "";
}


static void
run(const char *json)
{
    const char *command = member(json, "\"execute\"");
    int len = strcspn(command, "\"");

#define IS(name) (len == sizeof(name) - 1 && memcmp(command, name, len) == 0)
    if (IS("guest-sync"))
        answer("{\"return\":%llu}\n", strtoull(member(json, "\"id\""), NULL, 10));
    else if (IS("guest-sync-delimited"))
        answer("%c{\"return\":%llu}\n", SENTINEL, strtoull(member(json, "\"id\""), NULL, 10));
    else if (IS("guest-ping"))
        answer("{\"return\":{}}\n");
    else if (IS("guest-info"))
        run_info();
    else if (IS("guest-fsfreeze-status"))
        answer("{\"return\":\"%s\"}\n", closed ? "frozen" : "thawed");
    else if (IS("guest-fsfreeze-freeze"))
        run_freeze();
    else if (IS("guest-fsfreeze-thaw"))
        answer("{\"return\":%d}\n", thaw());
    else
        answer("{\"error\":{\"class\":\"CommandNotFound\",\"desc\":\"The command %.*s has not been found\"}}\n",
               len, command);
#undef IS
}


/* A port appears a while after its driver. There is only one. */
static int
open_port(void)
{
    uint64_t end = now() + 20 * 1000000;

    for (;;) {
        DIR *dir = opendir("/dev");
        struct dirent *entry;
        int fd = -1;

        while (dir && fd < 0 && (entry = readdir(dir))) {
            if (strncmp(entry->d_name, "vport", 5) == 0)
                fd = openat(dirfd(dir), entry->d_name, O_RDWR | O_CLOEXEC);
        }
        if (dir)
            closedir(dir);
        if (fd >= 0)
            return fd;
        if (now() > end)
            fatal("there is no port for the agent");
        sleep_until(now() + 20000);
    }
}


static void *
serve(void *opaque __attribute__((unused)))
{
    char line[1024];
    size_t len = 0;
    char c;

    port = open_port();

    for (;;) {
        ssize_t n = read(port, &c, 1);

        if (n == 1 && c != '\n') {
            if (c == SENTINEL)
                len = 0;
            else if (len < sizeof(line) - 1)
                line[len++] = c;
            continue;
        }

        if (n == 1 && len > 0) {
            line[len] = '\0';
            run(line);
        }
        len = 0; /* what a host that is gone did not finish, none will */

        if (n == 0)
            sleep_until(now() + 20000);
        else if (n < 0 && errno != EINTR && errno != EAGAIN)
            fatal("the agent's port");
    }
    return NULL;
}


/**
 * agent_start:
 *
 * Serves the host from now on.
 */
void
agent_start(const char *how)
{
    pthread_t thread;

    manner = how;
    if ((errno = pthread_create(&thread, NULL, serve, NULL)) != 0)
        fatal("the agent's thread");
}
