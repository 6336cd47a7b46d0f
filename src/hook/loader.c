/*
 * loader.c: loads the Ferry that was built for the host's libvirt, or else the stock driver
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Ferry's driver uses libvirt's private functions and structures, and contains the stock driver's
 * code. Both change with every release, and distributions patch both within one: a driver that was
 * built for yesterday's package may not load, or takes back a security fix. So libvirt loads this
 * module under the stock driver's name. It uses only public API, and looks for the driver that was
 * built for exactly these packages:
 *
 *   FOLDER/connection-driver/libvirt_driver_qemu.so   this module
 *   FOLDER/BUILD-ID/libferry_driver_qemu.so           a driver; build-id of the host's stock driver
 *   FOLDER/BUILD-ID/manifest                          build-id of its libvirt.so.0; checksum
 *
 * The checksum is for the sake of dlopen(), in which a damaged file ends the process.
 *
 * The catalogues of Ferry's messages are in FOLDER/../../share/locale.
 *
 * Whatever is wrong, the stock driver is loaded, and one warning in the log says what is wrong: no
 * host loses its daemon to an upgrade of libvirt.
 */

#define _GNU_SOURCE

#include <dlfcn.h>
#include <libintl.h>
#include <link.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <glib.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

#include "hook/buildid.h"
#include "hook/version.h"

#define FERRY_DRIVER_FILE "libferry_driver_qemu.so"

#define _(text) dgettext(FERRY_TEXT_DOMAIN, text)

typedef int (*ferryRegisterFunc)(void);

int qemuRegister(void);


/* What libvirt's logging takes for a source of messages: a name, and what it remembers of it. */
static struct {
    const char *name;
    char known[64];
} ferryLoaderSource = { .name = "ferry.loader" };

typedef void (*ferryLogFunc)(void *source,
                             int priority,
                             const char *file,
                             int line,
                             const char *func,
                             void *metadata,
                             const char *fmt,
                             ...) __attribute__((format(printf, 7, 8)));

#define FERRY_LOG_WARN 3
#define FERRY_LOG_ERROR 4


/* libvirt has no public function to log something. The private one has had these arguments since
 * 2014. If it is missing, the text goes to stderr. */
static void
ferryLoaderLog(int priority,
               const char *text)
{
    ferryLogFunc log = (ferryLogFunc) dlsym(RTLD_DEFAULT, "virLogMessage");

    if (log)
        log(&ferryLoaderSource, priority, __FILE__, __LINE__, "qemuRegister", /* metadata= */ NULL, "%s", text);
    else
        fprintf(stderr, "%s\n", text);
}


/* dl_iterate_phdr(): sets *@opaque to the build-id of the libvirt.so that runs */
static int
ferryLoaderVisit(struct dl_phdr_info *info,
                 size_t size G_GNUC_UNUSED,
                 void *opaque)
{
    ElfW(Addr) known = (ElfW(Addr)) virGetVersion;
    char **id = opaque;
    bool here = false;
    size_t i;

    for (i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        ElfW(Addr) begin = info->dlpi_addr + part->p_vaddr;

        here = here || (part->p_type == PT_LOAD && known >= begin && known - begin < part->p_memsz);
    }

    for (i = 0; here && !*id && i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];

        if (part->p_type == PT_NOTE)
            *id = ferryBuildIdOfNotes((const char *) (info->dlpi_addr + part->p_vaddr), part->p_memsz);
    }

    return here;
}


/* The driver */

/* Returns the folder that has the drivers, or NULL. */
static char *
ferryLoaderFolder(void)
{
    g_autofree char *drivers = NULL;
    char *real;
    Dl_info self;

    if (!dladdr(qemuRegister, &self) || !(real = realpath(self.dli_fname, NULL)))
        return NULL;

    drivers = g_path_get_dirname(real);
    free(real);
    return g_path_get_dirname(drivers);
}


/* Returns the program that builds Ferry anew, if Ferry is installed as a package; or NULL. */
static char *
ferryLoaderRebuild(void)
{
    g_autofree char *folder = ferryLoaderFolder();
    g_autofree char *path = folder ? g_build_filename(folder, "rebuild", NULL) : NULL;

    return path && g_file_test(path, G_FILE_TEST_IS_EXECUTABLE) ? g_steal_pointer(&path) : NULL;
}


/* Returns NULL if the driver @path is as @manifest says, and for the libvirt that runs; else why not. */
static char *
ferryLoaderCheck(const char *path,
                 const char *manifest)
{
    g_autoptr(GKeyFile) file = g_key_file_new();
    g_autofree char *libvirt = NULL;
    g_autofree char *sum = NULL;
    g_autofree char *running = NULL;
    g_autofree char *data = NULL;
    g_autofree char *found = NULL;
    g_autoptr(GError) err = NULL;
    gsize len;

    if (!g_key_file_load_from_file(file, manifest, G_KEY_FILE_NONE, &err) ||
        !(libvirt = g_key_file_get_string(file, "ferry", "libvirt", &err)) ||
        !(sum = g_key_file_get_string(file, "ferry", "sha256", &err)))
        return g_strdup_printf(_("'%1$s' cannot be used: %2$s"), manifest, err->message);

    dl_iterate_phdr(ferryLoaderVisit, &running);
    if (g_strcmp0(running, libvirt) != 0)
        return g_strdup_printf(_("it was built for another libvirt.so.0 (build-id %1$s) than that which runs (%2$s)"),
                               libvirt, running ? running : _("none"));

    if (!g_file_get_contents(path, &data, &len, &err))
        return g_strdup_printf(_("it cannot be read: %1$s"), err->message);

    found = g_compute_checksum_for_data(G_CHECKSUM_SHA256, (const guchar *) data, len);
    if (g_strcmp0(found, sum) != 0)
        return g_strdup_printf(_("'%1$s' is damaged: '%2$s' has another checksum"), path, manifest);

    return NULL;
}


/* Returns what registers the driver @path; or NULL with @why set (to be freed), and nothing of the
 * driver left: the stock driver and Ferry's have functions of the same names. */
static ferryRegisterFunc
ferryLoaderOpen(const char *path,
                char **why)
{
    void *driver = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    ferryRegisterFunc registerFunc = driver ? (ferryRegisterFunc) dlsym(driver, "qemuRegister") : NULL;

    if (registerFunc)
        return registerFunc;

    *why = g_strdup_printf(_("it cannot be loaded: %1$s"), dlerror());
    if (driver)
        dlclose(driver);
    return NULL;
}


/* Finds the translations of Ferry's messages, also of those that say why Ferry is not used. */
static void
ferryLoaderBindTexts(void)
{
    g_autofree char *folder = ferryLoaderFolder();
    g_autofree char *texts = folder ? g_build_filename(folder, "..", "..", "share", "locale", NULL) : NULL;

    if (texts)
        bindtextdomain(FERRY_TEXT_DOMAIN, texts);
}


/* Loads Ferry's driver: returns NULL, with what registers it in @registerFunc, or why that does not work. */
static char *
ferryLoaderTry(ferryRegisterFunc *registerFunc)
{
    g_autofree char *folder = ferryLoaderFolder();
    g_autofree char *id = ferryBuildIdOfFile(FERRY_STOCK_DRIVER);
    g_autofree char *path = NULL;
    g_autofree char *manifest = NULL;
    char *why;

    if (!folder)
        return g_strdup(_("its folder cannot be found"));

    if (!id)
        return g_strdup_printf(_("'%1$s' cannot be read, or has no build-id"), FERRY_STOCK_DRIVER);

    path = g_build_filename(folder, id, FERRY_DRIVER_FILE, NULL);
    manifest = g_build_filename(folder, id, "manifest", NULL);

    if (!g_file_test(path, G_FILE_TEST_EXISTS))
        return g_strdup_printf(_("it was not built for this libvirt: there is no '%1$s'"), path);

    if ((why = ferryLoaderCheck(path, manifest)))
        return why;

    *registerFunc = ferryLoaderOpen(path, &why);
    return why;
}


/**
 * qemuRegister:
 *
 * Called by libvirt when it loads the QEMU driver. Returns what the driver returns that is loaded.
 */
int
qemuRegister(void)
{
    ferryRegisterFunc registerFunc = NULL;
    g_autofree char *why = NULL;
    g_autofree char *rebuild = NULL;
    g_autofree char *text = NULL;
    g_autofree char *error = NULL;

    ferryLoaderBindTexts();

    why = ferryLoaderTry(&registerFunc);
    if (registerFunc)
        return registerFunc();

    if ((rebuild = ferryLoaderRebuild()))
        text = g_strdup_printf(_("Ferry %1$s is not used, the stock QEMU driver runs: %2$s. Ferry is built for this "
                                 "libvirt in the background, or by '%3$s': then start the daemon again"),
                               FERRY_VERSION, why, rebuild);
    else
        text = g_strdup_printf(_("Ferry %1$s is not used, the stock QEMU driver runs: %2$s. Run './ferry install' in "
                                 "Ferry's source tree, and start the daemon again"),
                               FERRY_VERSION, why);
    ferryLoaderLog(FERRY_LOG_WARN, text);

    if ((registerFunc = ferryLoaderOpen(FERRY_STOCK_DRIVER, &error)) && registerFunc != qemuRegister)
        return registerFunc();

    g_free(text);
    text = g_strdup_printf(_("the stock QEMU driver '%1$s' is not used either: %2$s"), FERRY_STOCK_DRIVER,
                           error ? error : _("it is Ferry's loader"));
    ferryLoaderLog(FERRY_LOG_ERROR, text);
    return -1;
}
