/*
 * resolve.c: addresses of host names
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A dead name server keeps getaddrinfo() waiting for half a minute and more. So names are
 * resolved when a call comes in, before any job is taken, and not for longer than a limit.
 * What comes later gets numbers.
 */

#include <config.h>

#include <netdb.h>
#include <sys/socket.h>

#include "block/bounded.h"
#include "block/resolve.h"
#include "virerror.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

/* Milliseconds. libc asks each name server for 5 s: one of two may be dead. */
#define FERRY_RESOLVE_MS 12000

typedef struct {
    char *name;
    GPtrArray *hosts; /* of char * */
    int rc;           /* of getaddrinfo() */
} ferryResolveData;


static void
ferryResolveFree(void *opaque)
{
    ferryResolveData *data = opaque;

    g_free(data->name);
    g_ptr_array_unref(data->hosts);
    g_free(data);
}


static void
ferryResolveRun(void *opaque)
{
    const struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
    ferryResolveData *data = opaque;
    struct addrinfo *found = NULL;
    struct addrinfo *ai;

    data->rc = getaddrinfo(data->name, /* service= */ NULL, &hints, &found);

    for (ai = found; ai; ai = ai->ai_next) {
        char numeric[NI_MAXHOST];

        if (getnameinfo(ai->ai_addr, ai->ai_addrlen, numeric, sizeof(numeric),
                        /* serv= */ NULL, /* servlen= */ 0, NI_NUMERICHOST) == 0)
            g_ptr_array_add(data->hosts, g_strdup(numeric));
    }

    if (found)
        freeaddrinfo(found);
}


/**
 * ferryResolve:
 * @vm: domain, locked, whose lock is released meanwhile; or NULL
 * @name: host name or address
 *
 * Returns the addresses of @name as numbers, the preferred one first, to be freed with
 * g_strfreev(); or NULL with an error reported: VIR_ERR_OPERATION_TIMEOUT if the name
 * service does not answer.
 */
char **
ferryResolve(virDomainObj *vm,
             const char *name)
{
    ferryResolveData *data = g_new0(ferryResolveData, 1);
    char **hosts = NULL;

    data->name = g_strdup(name);
    data->hosts = g_ptr_array_new_with_free_func(g_free);

    if (!ferryBoundedRunUnlocked(vm, "name service", ferryResolveRun, data, ferryResolveFree,
                                 FERRY_RESOLVE_MS)) {
        virReportError(VIR_ERR_OPERATION_TIMEOUT,
                       _("the name service did not resolve '%1$s' within %2$d s; check it, or name an "
                         "address in numbers"),
                       name, FERRY_RESOLVE_MS / 1000);
        return NULL;
    }

    if (data->rc == 0 && data->hosts->len > 0) {
        g_ptr_array_add(data->hosts, NULL);
        hosts = g_strdupv((char **) data->hosts->pdata);
    } else {
        virReportError(VIR_ERR_INVALID_ARG, _("cannot resolve address '%1$s': %2$s"),
                       name, gai_strerror(data->rc ? data->rc : EAI_NONAME));
    }

    ferryResolveFree(data);
    return hosts;
}
