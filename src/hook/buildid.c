/*
 * buildid.c: build-ids: which build of a library a file is
 *
 * Copyright (C) 2026 The Ferry authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Used by the loader and by the command "ferry", so it knows nothing of libvirt.
 */

#include <elf.h>
#include <link.h>
#include <string.h>

#include "hook/buildid.h"


/**
 * ferryBuildIdOfNotes:
 * @notes: ELF notes of @len bytes
 *
 * Returns the build-id that the notes have, in hexadecimal digits, or NULL. The caller frees it.
 */
char *
ferryBuildIdOfNotes(const char *notes,
                    guint64 len)
{
    guint64 at = 0;

    while (len - at >= sizeof(ElfW(Nhdr))) {
        ElfW(Nhdr) note;
        guint64 name = at + sizeof(note);
        guint64 id;
        GString *hex;
        guint32 i;

        memcpy(&note, notes + at, sizeof(note));
        id = name + (((guint64) note.n_namesz + 3) & ~3ULL);

        if (id > len || note.n_descsz > len - id)
            return NULL;

        if (note.n_type != NT_GNU_BUILD_ID || note.n_namesz != sizeof("GNU") ||
            memcmp(notes + name, "GNU", sizeof("GNU")) != 0) {
            at = MIN(id + (((guint64) note.n_descsz + 3) & ~3ULL), len);
            continue;
        }

        hex = g_string_new(NULL);
        for (i = 0; i < note.n_descsz; i++)
            g_string_append_printf(hex, "%02x", (unsigned char) notes[id + i]);
        return g_string_free(hex, FALSE);
    }

    return NULL;
}


/**
 * ferryBuildIdOfFile:
 *
 * Returns the build-id of the ELF file @path, or NULL. Nothing of the file is run or mapped. The
 * caller frees the result.
 */
char *
ferryBuildIdOfFile(const char *path)
{
    g_autofree char *data = NULL;
    gsize len;
    ElfW(Ehdr) head;
    size_t i;

    if (!g_file_get_contents(path, &data, &len, /* error= */ NULL) || len < sizeof(head))
        return NULL;

    memcpy(&head, data, sizeof(head));
    if (memcmp(head.e_ident, ELFMAG, SELFMAG) != 0 || head.e_phentsize != sizeof(ElfW(Phdr)))
        return NULL;

    for (i = 0; i < head.e_phnum; i++) {
        guint64 at = head.e_phoff + i * sizeof(ElfW(Phdr));
        ElfW(Phdr) part;
        char *id;

        if (at > len || len - at < sizeof(part))
            return NULL;
        memcpy(&part, data + at, sizeof(part));

        if (part.p_type == PT_NOTE && part.p_offset <= len && part.p_filesz <= len - part.p_offset &&
            (id = ferryBuildIdOfNotes(data + part.p_offset, part.p_filesz)))
            return id;
    }

    return NULL;
}
