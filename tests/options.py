#!/usr/bin/python3
"""Are all options of a disk's image in the examples for sourcetest? Asks libvirt's schema.

A disk's definition has options of two kinds. Those of the image follow the image: a pivot
takes them from its target. Those of the disk stay. The schema does not tell them apart, so
DISK lists the latter: an option that is new in libvirt is in neither list and fails here.

    options.py FILE     a file of examples

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later
"""

import os
import re
import sys
import xml.etree.ElementTree as ET

SCHEMAS = os.path.join(os.path.dirname(__file__), '..', 'subprojects', 'libvirt', 'src', 'conf', 'schemas')
RNG = '{http://relaxng.org/ns/structure/1.0}'

# of the disk: paths below <disk>, with all that is below them
DISK = {
    '@device', '@model', '@rawio', '@sgio', '@snapshot', 'acpi', 'address', 'alias', 'backenddomain', 'blockio',
    'boot', 'geometry', 'iotune', 'mirror', 'product', 'readonly', 'serial', 'shareable', 'target', 'transient',
    'vendor', 'wwn', 'source/@startupPolicy', *(f'driver/@{name}' for name in '''
    ats cache copy_on_read detect_zeroes discard error_policy event_idx io ioeventfd iommu iothread name packed
    page_per_vq queue_size queues rerror_policy'''.split()),
}
# Made by a driver, or the schema has it also for what is no disk: a guest's PCI address, a volume's
# encryption, for which a disk's definition may not say how.
OTHERS = {'source/@index', '@index', 'source/address/@multifunction', 'source/encryption/cipher',
           'source/encryption/ivgen'}


class Schema:
    def __init__(self, name):
        self.defines = {}
        self.loaded = set()
        self.load(name)

    def load(self, name):
        if name not in self.loaded:
            self.loaded.add(name)
            self.collect(ET.parse(os.path.join(SCHEMAS, name)).getroot())

    def collect(self, node):
        for child in node:
            if child.tag == RNG + 'define':
                self.defines.setdefault(child.get('name'), []).append(child)
            elif child.tag == RNG + 'include':
                self.load(child.get('href'))
                self.collect(child)

    def paths(self, node, path='', inside=()):
        """All paths of elements and attributes that a pattern allows."""
        for child in node:
            tag = child.tag.replace(RNG, '')
            if tag == 'ref':
                name = child.get('name')
                # only in the driver's own files
                if name in inside or name.startswith('privateData'):
                    continue
                for define in self.defines[name]:
                    yield from self.paths(define, path, (*inside, name))
            elif tag in ('element', 'attribute'):
                names = [child.get('name')] if child.get('name') else [n.text for n in child.iter(RNG + 'name')]
                for name in names:
                    below = f'{path}/{"@" if tag == "attribute" else ""}{name}'
                    yield below
                    if tag == 'element':
                        yield from self.paths(child, below, inside)
            else:
                yield from self.paths(child, path, inside)


def used(node, path):
    yield path
    for name in node.keys():
        yield f'{path}/@{name}'
    for child in node:
        yield from used(child, f'{path}/{child.tag}')


def of_images(paths):
    """Without <disk> or <backingStore> around them, and without what is not the image's. Two
    elements of <source> may also be outside it."""
    for path in paths:
        path = re.sub(r'^/disk/?(backingStore/)*', '', path)
        path = re.sub(r'^(auth|encryption)', r'source/\1', path)
        parts = path.split('/')
        above = {'/'.join(parts[:i + 1]) for i in range(len(parts))}
        if path and not above & (DISK | OTHERS):
            yield path


def main():
    schema = Schema('domain.rng')
    known = set(of_images(path for define in schema.defines['disk'] for path in schema.paths(define)))
    have = set(of_images(path for disk in ET.parse(sys.argv[1]).getroot() for path in used(disk, '/disk')))
    missing, unknown = known - have, have - known
    for path in sorted(missing):
        print(f'{sys.argv[1]}: no disk has {path}: add an example, or say in options.py that it is the disk\'s')
    for path in sorted(unknown):
        print(f'{sys.argv[1]}: libvirt does not know {path}')
    print(f'options: {len(known)} of an image, {len(known & have)} in the examples')
    return 1 if missing or unknown or len(known) < 80 else 0


if __name__ == '__main__':
    sys.exit(main())
