"""One libvirt host with a real libvirtd, for the suites that load it: a machine
of twohosts.py without the other one, and guests whose disks the test writes to.

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later
"""

import os
import tempfile
import threading
import time

import ferrytest
from ferrytest import CHUNK, Guest, Monitor, check, disk_xml, frontend, pattern_content, put_image, qemu_io
from twohosts import Machine, Pair

MIB = 1 << 20
SIZE = 8 * MIB
CHUNKS = SIZE // CHUNK
PAUSED = 1  # VIR_DOMAIN_START_PAUSED
SCSI = "<controller type='scsi' model='virtio-scsi'/>"


class Solo(Pair):
    """One host, with Ferry, and no cable. Use as a context manager."""

    def __init__(self):
        ferrytest.adopt_qemus()
        self.dir = tempfile.mkdtemp(prefix='ferry-solo-', dir=os.environ.get('FERRY_TMP', '/var/tmp'))
        os.chmod(self.dir, 0o755)
        self.images = os.path.join(self.dir, 'images')
        os.mkdir(self.images)
        with open(os.path.join(self.dir, 'hosts'), 'w') as f:
            f.write('127.0.0.1 localhost\n')
        self.machines = []
        try:
            self.host = Machine(self, 'a', 'ferry', '127.0.0.1')
            self.machines.append(self.host)
            self.host.start()
        except BaseException:
            self.close(keep=True)
            raise


class Lines:
    """A socket's lines: makefile('rw') forgets what it has read when it is written
    to, and with it the half of an event."""

    def __init__(self, socket):
        self.reader, self.writer = socket.makefile('r'), socket.makefile('w')
        self.readline, self.write, self.flush = self.reader.readline, self.writer.write, self.writer.flush


class DiskContent:
    """What a disk holds, and since when: every chunk is written to once at most,
    so that an older or newer image than the right one shows."""

    def __init__(self, seed):
        self.first = bytes(pattern_content(SIZE, seed))
        self.begun = {}  # chunk: when its new content was on its way
        self.done = {}   # chunk: when it was there

    @staticmethod
    def pattern(chunk):
        """Not what pattern_content() puts there."""
        return 252 + chunk % 4

    def free(self):
        return [chunk for chunk in range(CHUNKS) if chunk not in self.begun]

    def check(self, what, found, since=None, until=None):
        """Fails unless found is what the disk held at some moment between the
        two; none: what it holds now."""
        check(len(found) == SIZE, f'{what}: {len(found)} bytes')
        now = time.monotonic()
        for chunk in range(CHUNKS):
            at = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
            right = set()
            if self.done.get(chunk, now) >= (since or now):
                right.add(self.first[at])
            if self.begun.get(chunk, now + 1) <= (until or now):
                right.add(bytes([self.pattern(chunk)]) * CHUNK)
            check(found[at] in right, f'{what}: chunk {chunk} starts with {found[at][:4].hex()}, not '
                                      f'{" or ".join(sorted(r[:4].hex() for r in right))}')


class SoakGuest:
    """A paused domain with vda and vdb whose guest is the test."""

    DISKS = ('vda', 'vdb')

    def __init__(self, solo, number):
        self.solo, self.host = solo, solo.host
        self.name = f'd{number}'
        self.contents = {disk: DiskContent(1 + 2 * number + 20 * i) for i, disk in enumerate(self.DISKS)}
        for disk in self.DISKS:
            put_image(self.host.image(f'{self.name}-{disk}'), 'qcow2', self.contents[disk].first)
        self.host.call(None, 'defineXML', solo.domain(self.name, [disk_xml(d, solo.image(f'{self.name}-{d}'))
                                                                  for d in self.DISKS], memory=32, devices=SCSI))
        self.host.call(self.name, 'createWithFlags', PAUSED)
        self.monitor = Monitor(self.host.monitor_path(self.name))
        self.monitor.file = Lines(self.monitor.socket)
        self.lock = threading.Lock()

    def qmp(self, command, **arguments):
        with self.lock:
            return self.monitor(command, **arguments)

    def nodes(self):
        return sorted(n['node-name'] for n in self.qmp('query-named-block-nodes', flat=True))

    def jobs(self):
        return sorted((j['id'], j['type'], j['status']) for j in self.qmp('query-jobs'))

    def wrote(self, disk):
        """(writes that ended, those that failed)"""
        for stat in self.qmp('query-blockstats'):
            if stat.get('qdev') == frontend(Guest.alias(disk)):
                return stat['stats']['wr_operations'], stat['stats']['failed_wr_operations']
        raise AssertionError(f'QEMU has no disk {disk}')

    def write(self, disk, chunk, seconds):
        """The guest writes a chunk; it waits for the disk, the monitor does not."""
        content = self.contents[disk]
        before = self.wrote(disk)
        content.begun[chunk] = time.monotonic()
        line = f'aio_write -P {content.pattern(chunk)} {chunk * CHUNK} {CHUNK}'
        self.qmp('human-monitor-command', command_line=qemu_io(Guest.alias(disk), line))
        ferrytest.wait_for(lambda: self.wrote(disk) != before, seconds, 0.02, f'a write to {disk} of {self.name}')
        check(self.wrote(disk) == (before[0] + 1, before[1]), f'a write to {disk} of {self.name} failed')
        content.done[chunk] = time.monotonic()

    def flush(self, disk):
        """Another process sees it all then."""
        self.qmp('human-monitor-command', command_line=qemu_io(Guest.alias(disk), 'flush'))
