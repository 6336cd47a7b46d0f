"""The scenes of mirrored snapshots, for those who break them: see faultmatrix.py.

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later
"""

import os

import faultmatrix
from ferrytest import LibvirtError, check, check_qcow2, create_image, reads, wait_for, write_image

SIZE = '8M'
WRITTEN_AT = 5 << 20
CHUNK = 64 << 10
DISK_ONLY = 16
METADATA_ONLY = 2


def disk(name, overlay, mirror=None):
    """A disk of a snapshot's XML."""
    inside = f"<source file='{overlay}'/>" + (f"<mirror file='{mirror}'/>" if mirror else '')
    return f"<disk name='{name}' snapshot='external'>{inside}</disk>"


def snapshot_xml(name, *disks):
    return f"<domainsnapshot><name>{name}</name><disks>{''.join(disks)}</disks></domainsnapshot>"


class Snapshot(faultmatrix.Scene):
    """A snapshot of two disks, of which one gets a mirror. The first disk's image is written to
    before."""

    DISKS = ('vda', 'vdb')
    NAME = 'snap'

    def prepare(self):
        first = self.DISKS[0]
        self.source = self.image(first)
        self.overlays = [self.path(f'{d}-snap.qcow2') for d in self.DISKS]
        self.mirror = self.path(f'{first}-mirror.qcow2')
        for d in self.DISKS:
            create_image(self.image(d), SIZE, self.SOURCE)
            write_image(self.image(d), 0x11, 0, '3M', self.SOURCE)
        self.written = False

    def begin(self):
        self.write(0x33, WRITTEN_AT, CHUNK)
        self.written = True

    def take(self):
        self.call('snapshotCreateXML',
                  snapshot_xml(self.NAME, disk(self.DISKS[0], self.overlays[0], self.mirror),
                               disk(self.DISKS[1], self.overlays[1])),
                  DISK_ONLY)

    def more_state(self):
        return {'snapshots': self.call('snapshotListNames', 0)} if self.running() or not self.transient else {}

    def check_image(self, image):
        fmt = 'qcow2' if image.endswith('.qcow2') else 'raw'
        if fmt == 'qcow2':
            check_qcow2(image, self.killed)
        for pattern, offset, length in [(0x11, 1 << 20, 2 << 20)] + (
                [(0x33, WRITTEN_AT, CHUNK)] if self.written and os.path.basename(image).startswith(
                    f'{self.name}-{self.DISKS[0]}') else []):
            check(reads(image, fmt, pattern, offset, length), f'{image} has lost data at {offset}')

    def taken(self):
        return self.config_source() == self.overlays[0]

    def check_stopped(self):
        """The snapshot is there as a whole, or not at all; no mirror is left."""
        check(not os.path.exists(self.mirror), 'the mirror was left behind')
        taken = self.taken()
        check(taken or self.config_source() == self.source, f'config names {self.config_source()}')
        for overlay in self.overlays:
            check(os.path.exists(overlay) == taken, f"{overlay} was left behind, or lost")
        self.check_data()

    def check_data(self):
        for image in self.overlays if self.taken() else map(self.image, self.DISKS):
            self.check_image(image)

    def again(self, states):
        """Whatever the outcome was, the snapshot can be had."""
        def done():
            if self.taken():
                return True
            try:
                self.take()
            except LibvirtError:
                pass
            return False
        wait_for(done, 60, 0.1, 'the second try to succeed')
        if self.mirrored():
            self.call('blockJobAbort', self.DISKS[0], 0)
        wait_for(lambda: not self.journal(), 20, 0.1, 'the journal to go')
        if os.path.exists(self.mirror):
            os.unlink(self.mirror)

    def mirrored(self):
        return '<mirror' in self.call('XMLDesc', 0)

    PLANS = {('snapshot', 'create'): (begin, take)}


class HeldSnapshot(Snapshot):
    """Disks without an ioeventfd whose images are not qcow2: to take the snapshot back, the guest's CPUs, which
    run, are stopped for a moment."""

    DISKS = ('sda', 'sdb')
    BUS = 'sata'
    SOURCE = 'raw'
    START = 0

    def more_state(self):
        return {**super().more_state(), 'CPUs': self.qmp('query-status')['running'] if self.running() else None}
