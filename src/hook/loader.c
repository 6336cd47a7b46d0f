/*
 * loader.c: refuses to run inside another libvirt than Ferry was built for
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The driver uses libvirt's private functions and structures, which change with every
 * release. In another libvirt the driver would at best fail to load, with a message
 * about symbol versions. So libvirt loads this module, which uses only public API: it
 * compares versions, and then loads the driver from the same directory.
 */

#define _GNU_SOURCE

#include <dlfcn.h>
#include <libgen.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

#include "hook/version.h"

#define FERRY_DRIVER_FILE "libferry_driver_qemu.so"

typedef void (*ferryReportFunc)(int domain, int code, const char *file, const char *func,
                                size_t line, const char *fmt, ...)
    __attribute__((format(printf, 6, 7)));

int qemuRegister(void);


/* libvirt has no public function to report an error from inside a driver. The private
 * one has not changed since 2010. If it is missing, the error goes to stderr. */
#define ferryLoaderError(...) \
    do { \
        ferryReportFunc report = (ferryReportFunc) dlsym(RTLD_DEFAULT, "virReportErrorHelper"); \
        if (report) \
            report(VIR_FROM_QEMU, VIR_ERR_OPERATION_UNSUPPORTED, __FILE__, __func__, __LINE__, \
                   __VA_ARGS__); \
        else \
            fprintf(stderr, __VA_ARGS__), fputc('\n', stderr); \
    } while (0)


static unsigned long
ferryLoaderVersion(const char *text)
{
    unsigned int major = 0;
    unsigned int minor = 0;
    unsigned int micro = 0;

    sscanf(text, "%u.%u.%u", &major, &minor, &micro);

    return major * 1000000UL + minor * 1000UL + micro;
}


int
qemuRegister(void)
{
    unsigned long running = 0;
    char path[4096];
    Dl_info self;
    void *driver;
    int (*registerFunc)(void);

    if (virGetVersion(&running, /* type= */ NULL, /* typeVer= */ NULL) < 0)
        return -1;

    if (running != ferryLoaderVersion(FERRY_LIBVIRT_VERSION)) {
        ferryLoaderError("Ferry %s was built for libvirt %s but this is libvirt %lu.%lu.%lu: "
                         "run './ferry build' in Ferry's source tree, or unset "
                         "LIBVIRT_DRIVER_DIR to go on without Ferry",
                         FERRY_VERSION, FERRY_LIBVIRT_VERSION,
                         running / 1000000, running / 1000 % 1000, running % 1000);
        return -1;
    }

    if (!dladdr(qemuRegister, &self) ||
        snprintf(path, sizeof(path), "%.*s%s",
                 (int) (strrchr(self.dli_fname, '/') ?
                        strrchr(self.dli_fname, '/') + 1 - self.dli_fname : 0),
                 self.dli_fname, FERRY_DRIVER_FILE) >= (int) sizeof(path)) {
        ferryLoaderError("cannot find the folder of Ferry's module");
        return -1;
    }

    if (!(driver = dlopen(path, RTLD_NOW | RTLD_GLOBAL | RTLD_NODELETE)) ||
        !(registerFunc = (int (*)(void)) dlsym(driver, "qemuRegister"))) {
        ferryLoaderError("cannot load '%s': %s; run './ferry build' in Ferry's source tree",
                         path, dlerror());
        return -1;
    }

    return registerFunc();
}
