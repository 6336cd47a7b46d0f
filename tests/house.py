#!/usr/bin/python3
"""Reads src/ and fails on what the rules of the house forbid.

    compat <- block <- engine <- ops <- hook
                                       a layer uses those to its left, never one
                                       to its right
    x.c and x.h                        are one unit; units do not use each other in
                                       circles, and neither do the folders of
                                       operations
    x.h                                belongs to x.c; there is no other header

So a header cannot declare what another file defines without that showing as a
circle, or as a header that has no file.

    _("disk '%1$s' of ...")            translators may change the order: messages
                                       number their arguments
    po/POTFILES                        lists the files that have messages, which are marked
    600 lines                          are the most that a file may have
    some calls                         are made by one file only: see GUARDED

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later
"""

import os
import re
import sys

LAYERS = ('compat', 'block', 'engine', 'ops', 'hook', 'cli')
INCLUDE = re.compile(r'^#\s*include "((?:%s)/[^"]+)\.h"' % '|'.join(LAYERS), re.M)
# macros only: how messages are translated, how libvirts differ
MACROS = {'cli/text', 'compat/security', 'compat/text'}
# made by the build
GENERATED = {'hook/version', 'compat/have'}
MESSAGE = re.compile(r'(?<!\w)N?_\(\s*((?:"(?:\\.|[^"\\])*"(?:\s|\\\n)*)+)\)')
# a text for users that is not marked: nobody could translate it
UNMARKED = re.compile(r'\b(?:virReportError|virReportSystemError|VIR_ERROR)\(\s*(?:[^",();]+(?:\([^()]*\))?,\s*)?'
                      r'"(?!%s"|\n)[^"]*"')
UNNUMBERED = re.compile(r'%(?!%|\d+\$)')
LINES_MAX = 600
# Calls that only one file may make, since it knows what must be asked before.
GUARDED = {
    # QEMU opens an image by its name: does it lead to the right file?
    re.compile(r'\b(?:qemuMonitorBlockdevReopen|qemuBlockReopen\w+)\s*\(|"blockdev-reopen"'): ('block/node.c',),
    # waits for a name server, unless the address is a number, as in the other three
    re.compile(r'\bgetaddrinfo\s*\((?!\))'): ('block/resolve.c', 'block/socket.c', 'block/export_peer.c',
                                             'ops/migration/request.c'),
}


def units(top):
    """{unit: the units that it includes}, and the names of all headers."""
    uses = {}
    headers = set()
    for folder, _, files in sorted(os.walk(top)):
        for name in sorted(files):
            stem, ending = os.path.splitext(name)
            if ending not in ('.c', '.h'):
                continue
            unit = os.path.relpath(os.path.join(folder, stem), top)
            if ending == '.h':
                headers.add(unit)
            with open(os.path.join(folder, name), encoding='utf-8') as f:
                found = set(INCLUDE.findall(f.read()))
            uses.setdefault(unit, set()).update(found - {unit} - GENERATED)
    return uses, headers


def folders(uses):
    """The same for folders. What lies in a layer's own folder is no folder of an
    operation: each of its units stands for itself."""
    def room(unit):
        return os.path.dirname(unit) if unit.count('/') > 1 else unit

    merged = {}
    for unit, used in uses.items():
        merged.setdefault(room(unit), set()).update({room(u) for u in used} - {room(unit)})
    return merged


def circle(uses):
    """One circle as a list whose first and last are the same, or None."""
    done = set()

    def visit(unit, way):
        if unit in way:
            return way[way.index(unit):] + [unit]
        if unit in done:
            return None
        for used in sorted(uses.get(unit, ())):
            found = visit(used, way + [unit])
            if found:
                return found
        done.add(unit)
        return None

    for unit in sorted(uses):
        found = visit(unit, [])
        if found:
            return found
    return None


def layout(top):
    """Yields a line for each thing that the layout forbids."""
    uses, headers = units(top)

    for unit, used in sorted(uses.items()):
        for other in sorted(used):
            if LAYERS.index(other.split('/')[0]) > LAYERS.index(unit.split('/')[0]):
                yield f'{unit} includes {other}, which is in a layer above'
            if other not in headers:
                yield f'{unit} includes {other}.h, which does not exist'

    for header in sorted(headers):
        if header not in MACROS and not os.path.exists(os.path.join(top, header + '.c')):
            yield f'{header}.h belongs to no file'

    for what, graph in ('files', uses), ('folders', folders(uses)):
        found = circle(graph)
        if found:
            yield f'{what} include each other in a circle: ' + ' -> '.join(found)


def texts(top):
    """Yields a line for each file or message that is not as it shall be."""
    with open(os.path.join(top, '../po/POTFILES'), encoding='utf-8') as f:
        listed = set(f.read().split())

    for folder, _, files in sorted(os.walk(top)):
        for name in sorted(n for n in files if n.endswith(('.c', '.h'))):
            path = os.path.join(folder, name)
            known = 'src/' + os.path.relpath(path, top)
            with open(path, encoding='utf-8') as f:
                text = f.read()

            messages = MESSAGE.findall(text)
            for message in messages:
                if UNNUMBERED.search(message.replace('%%', '')):
                    yield f'{known}: a message does not number its arguments: {message.strip()}'
            for match in UNMARKED.finditer(text):
                yield f'{known}: not marked for translation: {" ".join(match[0].split())}'
            if bool(messages) != (known in listed):
                yield f'{known} {"is missing in" if messages else "needs not be in"} po/POTFILES'
            for call, allowed in GUARDED.items():
                if call.search(text) and os.path.relpath(path, top) not in allowed:
                    yield f'{known} calls {call.search(text)[0]}), which only {", ".join(allowed)} may'
            if text.count('\n') > LINES_MAX:
                yield f'{known} has more than {LINES_MAX} lines'
            listed.discard(known)

    for known in sorted(listed):
        yield f'{known} is in po/POTFILES and does not exist'


def main():
    top = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), '../src')
    found = [*layout(top), *texts(top)]
    for line in found:
        print(line)
    print('house:', 'FAILED' if found else 'OK')
    return 1 if found else 0


if __name__ == '__main__':
    sys.exit(main())
