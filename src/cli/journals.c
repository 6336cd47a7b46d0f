/*
 * journals.c: the command "ferry": what the journals say of the operations of all domains
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * engine/journal.c writes them, and renames a new one into place: each file is complete. This
 * command only reads, with or without a daemon that runs.
 */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <libxml/parser.h>
#include <libxml/tree.h>

#include "cli/journals.h"
#include "cli/process.h"
#include "cli/text.h"

#define FERRY_CLI_JOURNAL ".xml"
#define FERRY_CLI_BAD ".xml.bad"
#define FERRY_CLI_JOURNAL_MAX (16 * 1024 * 1024)
#define FERRY_CLI_VERSION "1"


/* The operations and plans of this version. A driver sets a journal aside that has others. */
static const struct {
    const char *type;
    const char *plans[4];
} ferryCliKnown[] = {
    { "copy", { "start", "pivot" } },
    { "backup", { "begin" } },
    { "checkpoint", { "checkpoint", "delete" } },
    { "snapshot", { "create" } },
    { "thaw", { NULL } },
    { "migration", { "storage", "finish" } },
    { "incoming", { "volumes", "images", "serve" } },
};


/**
 * ferryCliFolder:
 *
 * Returns where the journals of this user's driver are: those of the system's driver for root. The
 * caller frees it.
 */
char *
ferryCliFolder(void)
{
    if (geteuid() == 0)
        return g_strdup("/var/lib/libvirt/ferry");

    return g_build_filename(g_get_user_config_dir(), "libvirt", "qemu", "ferry", NULL);
}


static void
ferryCliOpFree(void *opaque)
{
    ferryCliOp *op = opaque;

    g_free(op->domain);
    g_free(op->uuid);
    g_free(op->type);
    g_free(op->name);
    g_free(op->leader);
    g_free(op->goal);
    g_free(op->result);
    g_free(op->target);
    g_ptr_array_unref(op->disks);
    g_free(op->plan);
    g_free(op->step);
    g_free(op);
}


static void
ferryCliBadFree(void *opaque)
{
    ferryCliBad *bad = opaque;

    g_free(bad->path);
    g_free(bad->why);
    g_free(bad);
}


static bool
ferryCliIs(xmlNodePtr node,
           const char *name)
{
    return node->type == XML_ELEMENT_NODE && strcmp((const char *) node->name, name) == 0;
}


static xmlNodePtr
ferryCliChild(xmlNodePtr parent,
              const char *name)
{
    xmlNodePtr node = parent ? parent->children : NULL;

    while (node && !ferryCliIs(node, name))
        node = node->next;

    return node;
}


/* Returns an attribute of @node, which may be NULL; or NULL. The caller frees it. */
static char *
ferryCliProp(xmlNodePtr node,
             const char *name)
{
    xmlChar *value = node ? xmlGetNoNsProp(node, (const xmlChar *) name) : NULL;
    char *copy = g_strdup((const char *) value);

    xmlFree(value);
    return copy;
}


static bool
ferryCliPropIs(xmlNodePtr node,
               const char *name,
               const char *wanted)
{
    g_autofree char *value = ferryCliProp(node, name);

    return g_strcmp0(value, wanted) == 0;
}


/* Returns, as text, what the <disk> in @node is on; NULL if there is none. The caller frees it. */
static char *
ferryCliSource(xmlNodePtr node)
{
    static const char *const names[] = { "file", "dev", "dir", "name", NULL };
    xmlNodePtr source = ferryCliChild(ferryCliChild(node, "disk"), "source");
    xmlNodePtr host = ferryCliChild(source, "host");
    g_autofree char *protocol = ferryCliProp(source, "protocol");
    g_autofree char *pool = ferryCliProp(source, "pool");
    g_autofree char *volume = ferryCliProp(source, "volume");
    g_autofree char *name = NULL;
    g_autofree char *server = NULL;
    g_autofree char *port = NULL;
    size_t i;

    if (!source)
        return NULL;

    if (pool && volume)
        return g_strdup_printf("%s/%s", pool, volume);

    for (i = 0; names[i] && !name; i++)
        name = ferryCliProp(source, names[i]);

    if (!protocol)
        return g_steal_pointer(&name);

    if (!(server = ferryCliProp(host, "name")))
        server = ferryCliProp(host, "socket");
    port = ferryCliProp(host, "port");

    return g_strdup_printf("%s://%s%s%s/%s", protocol, server ? server : "", port ? ":" : "", port ? port : "",
                           name ? name : "");
}


static void
ferryCliAddName(ferryCliOp *op,
                char *name)
{
    if (name)
        g_ptr_array_add(op->disks, name);
}


/* What a class of operations has written to the journal. */
static void
ferryCliOpDetail(ferryCliOp *op,
                 xmlNodePtr node)
{
    if (ferryCliIs(node, "copy")) {
        g_autofree char *base = ferryCliProp(node, "base");

        ferryCliAddName(op, ferryCliProp(node, "disk"));
        op->goal = ferryCliProp(node, "goal");
        op->pending = ferryCliPropIs(node, "pending", "yes");
        op->layered = base;
    } else if (ferryCliIs(node, "target")) {
        op->target = ferryCliSource(node);
    } else if (ferryCliIs(node, "backup")) {
        op->goal = ferryCliProp(node, "mode");
        op->result = ferryCliProp(node, "result");
    } else if (ferryCliIs(node, "backupdisk") || ferryCliIs(node, "image") ||
               (ferryCliIs(node, "disk") && strcmp(op->type, "migration") == 0)) {
        ferryCliAddName(op, ferryCliProp(node, "name"));
    } else if (ferryCliIs(node, "checkpoints")) {
        xmlNodePtr name;

        for (name = node->children; name; name = name->next) {
            if (ferryCliIs(name, "name")) {
                xmlChar *text = xmlNodeGetContent(name);

                ferryCliAddName(op, g_strdup((const char *) text));
                xmlFree(text);
            }
        }
    } else if (ferryCliIs(node, "snapshot")) {
        ferryCliAddName(op, ferryCliProp(node, "name"));
        op->complete = ferryCliPropIs(node, "complete", "yes");
    }
}


static bool
ferryCliOpIsKnown(const ferryCliOp *op)
{
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(ferryCliKnown); i++) {
        if (strcmp(op->type, ferryCliKnown[i].type) == 0)
            return !op->plan || g_strv_contains(ferryCliKnown[i].plans, op->plan);
    }

    return false;
}


static ferryCliOp *
ferryCliOpParse(xmlNodePtr root,
                xmlNodePtr node)
{
    ferryCliOp *op = g_new0(ferryCliOp, 1);
    g_autofree char *since = ferryCliProp(node, "since");
    xmlNodePtr child;

    op->domain = ferryCliProp(root, "name");
    op->uuid = ferryCliProp(root, "uuid");
    op->type = ferryCliProp(node, "type");
    op->name = ferryCliProp(node, "name");
    op->leader = ferryCliProp(node, "leader");
    op->disks = g_ptr_array_new_with_free_func(g_free);
    op->since = since ? g_ascii_strtoll(since, NULL, 10) : 0;
    op->committed = ferryCliPropIs(node, "committed", "yes");
    op->withdrawn = ferryCliPropIs(node, "committed", "off");
    op->stopped = ferryCliPropIs(node, "stopped", "yes");

    if (!op->type || !op->name) {
        ferryCliOpFree(op);
        return NULL;
    }

    for (child = node->children; child; child = child->next) {
        if (ferryCliIs(child, "plan")) {
            g_free(op->plan);
            g_free(op->step);
            op->plan = ferryCliProp(child, "name");
            op->step = ferryCliProp(child, "last");
        } else {
            ferryCliOpDetail(op, child);
        }
    }

    return op;
}


/* The mark of the operation that leads a group is that of all members. */
static void
ferryCliShareMarks(GPtrArray *ops)
{
    size_t i;
    size_t j;

    for (i = 0; i < ops->len; i++) {
        ferryCliOp *op = g_ptr_array_index(ops, i);

        for (j = 0; op->leader && !op->stopped && j < ops->len; j++) {
            ferryCliOp *other = g_ptr_array_index(ops, j);

            if (strcmp(op->leader, other->name) == 0)
                op->committed = op->committed || other->committed;
        }
    }
}


/* Returns what file @path has, to be freed; or NULL with @why set. Nobody waits for a FIFO, and no link
 * is followed. */
static char *
ferryCliRead(const char *path,
             char **why)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    g_autofree char *text = NULL;
    struct stat st;
    ssize_t got = 0;
    ssize_t n = 0;

    if (fd < 0 || fstat(fd, &st) < 0) {
        *why = g_strdup(g_strerror(errno));
    } else if (!S_ISREG(st.st_mode) || st.st_size > FERRY_CLI_JOURNAL_MAX) {
        *why = g_strdup(_("it is no journal"));
    } else {
        text = g_malloc0(st.st_size + 1);
        while (got < st.st_size && (n = read(fd, text + got, st.st_size - got)) > 0)
            got += n;
        if (n < 0)
            *why = g_strdup(g_strerror(errno));
    }

    if (fd >= 0)
        close(fd);

    return *why ? NULL : g_steal_pointer(&text);
}


/* Adds the operations of the journal whose root is @root to @ops. Returns NULL, or why a driver would set
 * the journal aside; to be freed. */
static char *
ferryCliParseRoot(xmlNodePtr root,
                  GPtrArray *ops)
{
    g_autofree char *version = ferryCliProp(root, "version");
    g_autofree char *pid = ferryCliProp(root, "pid");
    g_autofree char *start = ferryCliProp(root, "start");
    g_autofree char *boot = ferryCliProp(root, "boot");
    bool alive = ferryCliProcessIs(pid, start, boot);
    xmlNodePtr node;

    if (g_strcmp0(version, FERRY_CLI_VERSION) != 0)
        return g_strdup(_("another version of Ferry wrote it"));

    for (node = root->children; node; node = node->next) {
        ferryCliOp *op;

        if (!ferryCliIs(node, "operation"))
            continue;

        if (!(op = ferryCliOpParse(root, node)))
            return g_strdup(_("an operation has no type or no name"));

        op->started = pid;
        op->alive = alive && !op->stopped;
        g_ptr_array_add(ops, op);

        if (!ferryCliOpIsKnown(op))
            return g_strdup(_("another version of Ferry wrote it"));
    }

    ferryCliShareMarks(ops);
    return NULL;
}


/* Adds the operations that the journal @path has to @all. Returns NULL, or why it cannot be understood; to
 * be freed. */
static char *
ferryCliParse(const char *path,
              GPtrArray *all)
{
    g_autoptr(GPtrArray) ops = g_ptr_array_new_with_free_func(ferryCliOpFree);
    char *why = NULL;
    g_autofree char *text = ferryCliRead(path, &why);
    xmlDocPtr xml;
    xmlNodePtr root;

    if (!text)
        return why;

    xml = xmlReadMemory(text, strlen(text), /* URL= */ NULL, /* encoding= */ NULL,
                        XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING);
    root = xml ? xmlDocGetRootElement(xml) : NULL;

    /* no driver writes a document type, which could make much of little */
    if (root && ferryCliIs(root, "ferry") && !xml->intSubset)
        why = ferryCliParseRoot(root, ops);
    else
        why = g_strdup(_("it is no journal"));

    xmlFreeDoc(xml);

    if (!why)
        g_ptr_array_extend_and_steal(all, g_steal_pointer(&ops));
    return why;
}


static int
ferryCliByDomain(const void *a,
                 const void *b)
{
    const ferryCliOp *one = *(ferryCliOp *const *) a;
    const ferryCliOp *two = *(ferryCliOp *const *) b;
    int rc = g_strcmp0(one->domain, two->domain);

    return rc != 0 ? rc : strcmp(one->name, two->name);
}


/* Returns whether @name is that of a domain's journal, with @suffix. Drivers read no other files. */
static bool
ferryCliIsJournal(const char *name,
                  const char *suffix)
{
    g_autofree char *uuid = g_strdup(name);

    if (!g_str_has_suffix(name, suffix))
        return false;

    uuid[strlen(name) - strlen(suffix)] = '\0';
    return g_uuid_string_is_valid(uuid);
}


/**
 * ferryCliJournals:
 * @folder: where the journals are
 * @ops: set to a list of ferryCliOp *, in order of domains and names
 * @bad: set to a list of ferryCliBad *
 *
 * Reads all journals. No folder means no operation. The caller unrefs the lists, which free what they
 * have. Returns 0, or -1 with @err set.
 */
int
ferryCliJournals(const char *folder,
                 GPtrArray **ops,
                 GPtrArray **bad,
                 GError **err)
{
    g_autoptr(GError) open = NULL;
    GDir *dir = g_dir_open(folder, /* flags= */ 0, &open);
    const char *name;

    if (!dir && !g_error_matches(open, G_FILE_ERROR, G_FILE_ERROR_NOENT)) {
        g_propagate_error(err, g_steal_pointer(&open));
        return -1;
    }

    *ops = g_ptr_array_new_with_free_func(ferryCliOpFree);
    *bad = g_ptr_array_new_with_free_func(ferryCliBadFree);

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);
        g_autofree char *why = NULL;

        if (!ferryCliIsJournal(name, FERRY_CLI_BAD) &&
            (!ferryCliIsJournal(name, FERRY_CLI_JOURNAL) || !(why = ferryCliParse(path, *ops))))
            continue;

        /* one operation may have ended, and another one begun, just now */
        if (why) {
            g_free(why);
            why = ferryCliParse(path, *ops);
            if (!why)
                continue;
        }

        if (g_file_test(path, G_FILE_TEST_EXISTS | G_FILE_TEST_IS_SYMLINK)) {
            ferryCliBad *entry = g_new0(ferryCliBad, 1);

            entry->path = g_steal_pointer(&path);
            entry->why = g_steal_pointer(&why);
            g_ptr_array_add(*bad, entry);
        }
    }

    if (dir)
        g_dir_close(dir);

    g_ptr_array_sort(*ops, ferryCliByDomain);
    return 0;
}
