/*
 * use.c: which domains' definitions name a file
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Before Ferry removes an image, no domain may name it any more, whatever a journal says.
 * The caller has its own domain locked, mostly at a place that must not release the lock
 * (QEMU has just died). A thread that holds one domain's lock must never wait for that of
 * another domain: two such threads could wait for each other. So the definitions of the
 * other domains are read from their files, which the stock driver replaces as a whole:
 * the configurations (configDir), and the status files of running domains (stateDir),
 * which have the live definitions with all backing images and mirrors. QEMU is not
 * executed before its status file is written. At start-up the files are all there is.
 *
 * The files are read once for all images that an undo removes, and only if it removes
 * one. A file that cannot be read or understood counts as one that names every image.
 */

#include <config.h>

#include <dirent.h>

#include "block/use.h"
#include "virfile.h"
#include "virstring.h"

#define VIR_FROM_THIS VIR_FROM_QEMU

#define FERRY_USE_SUFFIX ".xml"
#define FERRY_USE_SIZE_MAX (16 * 1024 * 1024)

typedef struct {
    char *path;
    char *text; /* NULL: the file could not be read */
} ferryUseText;

struct _ferryUse {
    virQEMUDriver *driver;
    virQEMUDriverConfig *cfg; /* for threads that may outlive the driver */
    char *except;
    GPtrArray *texts; /* of ferryUseText; NULL until the first question */
};


static void
ferryUseTextFree(ferryUseText *text)
{
    g_free(text->path);
    g_free(text->text);
    g_free(text);
}


/**
 * ferryUseNew:
 * @except: name of a domain whose definitions the caller looks at itself; or NULL
 *
 * Reads nothing yet.
 */
ferryUse *
ferryUseNew(virQEMUDriver *driver,
            const char *except)
{
    ferryUse *use = g_new0(ferryUse, 1);

    use->driver = driver;
    use->cfg = virQEMUDriverGetConfig(driver);
    use->except = g_strdup(except);
    return use;
}


void
ferryUseFree(ferryUse *use)
{
    if (!use)
        return;

    g_clear_pointer(&use->texts, g_ptr_array_unref);
    virObjectUnref(use->cfg);
    g_free(use->except);
    g_free(use);
}


/**
 * ferryUseRenew:
 *
 * The next question reads the definitions again.
 */
void
ferryUseRenew(ferryUse *use)
{
    g_clear_pointer(&use->texts, g_ptr_array_unref);
}


virQEMUDriver *
ferryUseDriver(ferryUse *use)
{
    return use->driver;
}


static void
ferryUseReadFolder(ferryUse *use,
                   const char *folder)
{
    g_autofree char *except = use->except ? g_strdup_printf("%s" FERRY_USE_SUFFIX, use->except) :
                                            NULL;
    g_autoptr(DIR) dir = opendir(folder);
    struct dirent *entry;

    while (dir && (entry = readdir(dir))) {
        ferryUseText *text;

        if (!virStringHasSuffix(entry->d_name, FERRY_USE_SUFFIX) ||
            STREQ_NULLABLE(entry->d_name, except))
            continue;

        text = g_new0(ferryUseText, 1);
        text->path = g_build_filename(folder, entry->d_name, NULL);
        g_ptr_array_add(use->texts, text);

        /* a domain that has just ended has no status file any more */
        if (virFileReadAllQuiet(text->path, FERRY_USE_SIZE_MAX, &text->text) == -ENOENT)
            g_ptr_array_remove_index(use->texts, use->texts->len - 1);
    }
}


static void
ferryUseRead(ferryUse *use)
{
    use->texts = g_ptr_array_new_with_free_func((GDestroyNotify) ferryUseTextFree);
    ferryUseReadFolder(use, use->cfg->configDir);
    ferryUseReadFolder(use, use->cfg->stateDir);
}


/* A file of another base name is not looked at: that could hang on its storage. A device has
 * several names (/dev/vg/lv, /dev/mapper/vg-lv). */
static bool
ferryUseIsSource(xmlNodePtr node,
                 const char *path,
                 const ferryFile *file)
{
    static const char *const attributes[] = { "file", "dev", "path" };
    g_autofree char *name = g_path_get_basename(path);
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(attributes); i++) {
        g_autofree char *source = virXMLPropString(node, attributes[i]);
        g_autofree char *other = source ? g_path_get_basename(source) : NULL;

        if (source &&
            (STREQ(source, path) ||
             (file && (STREQ(other, name) || g_str_has_prefix(source, "/dev/")) &&
              ferryFileIsAt(file, source))))
            return true;
    }

    return false;
}


/* Returns whether @source names @volume of @pool, which has @path: the name on the network of a
 * volume that is no file. */
static bool
ferryUseIsVolume(xmlNodePtr source,
                 const char *pool,
                 const char *volume,
                 const char *path)
{
    g_autofree char *inPool = virXMLPropString(source, "pool");
    g_autofree char *inVolume = virXMLPropString(source, "volume");
    g_autofree char *name = virXMLPropString(source, "name");

    return (STREQ_NULLABLE(inPool, pool) && STREQ_NULLABLE(inVolume, volume)) ||
           STREQ_NULLABLE(name, path);
}


/* Returns whether the definition in @xml has a source that leads to @path or @file, or is
 * @volume of @pool; NULL: that is no volume. */
static bool
ferryUseParsed(const char *xml,
               const char *pool,
               const char *volume,
               const char *path,
               const ferryFile *file)
{
    g_autoptr(xmlXPathContext) ctxt = NULL;
    g_autoptr(xmlDoc) doc = virXMLParseStringCtxt(xml, _("(domain_definition)"), &ctxt);
    g_autofree xmlNodePtr *nodes = NULL;
    int n = doc ? virXPathNodeSet("//source", ctxt, &nodes) : -1;
    int i;

    for (i = 0; i < n; i++) {
        if ((pool && ferryUseIsVolume(nodes[i], pool, volume, path)) ||
            ferryUseIsSource(nodes[i], path, file))
            return true;
    }

    return n < 0;
}


/**
 * ferryUseFindVolume:
 *
 * Like ferryUseFind(), for what a definition names by pool and volume, or by its path. @file
 * may be NULL, and may be a device.
 */
char *
ferryUseFindVolume(ferryUse *use,
                   const char *pool,
                   const char *volume,
                   const char *path,
                   const ferryFile *file)
{
    size_t i;

    if (!use->texts)
        ferryUseRead(use);

    for (i = 0; i < use->texts->len; i++) {
        ferryUseText *text = g_ptr_array_index(use->texts, i);

        if (!text->text || ferryUseParsed(text->text, pool, volume, path, file)) {
            virResetLastError();
            return g_strdup(text->path);
        }
    }

    return NULL;
}


/**
 * ferryUseFind:
 *
 * Returns the path of a definition that names @path, which is @file; NULL: there is none.
 */
char *
ferryUseFind(ferryUse *use,
             const char *path,
             const ferryFile *file)
{
    g_auto(virBuffer) buf = VIR_BUFFER_INITIALIZER;
    g_autofree char *name = g_path_get_basename(path);
    size_t i;

    if (!use->texts)
        ferryUseRead(use);

    virBufferEscapeString(&buf, "%s", name);

    for (i = 0; i < use->texts->len; i++) {
        ferryUseText *text = g_ptr_array_index(use->texts, i);

        if (!text->text ||
            (strstr(text->text, virBufferCurrentContent(&buf)) &&
             ferryUseParsed(text->text, /* pool= */ NULL, /* volume= */ NULL, path, file))) {
            virResetLastError();
            return g_strdup(text->path);
        }
    }

    return NULL;
}
