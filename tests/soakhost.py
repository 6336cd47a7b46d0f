"""One libvirt host with a real libvirtd, for the suites that load it: a machine
of twohosts.py without the other one, and guests whose disks the test writes to.

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later
"""

import os
import re
import tempfile
import threading

import ferrytest
from ferrytest import CHUNK, Guest, Monitor, check, disk_xml, frontend, put_image, qemu_io
from twohosts import Machine, Pair

MIB = 1 << 20
PAUSED = 1  # VIR_DOMAIN_START_PAUSED
DISKS = ('vda', 'vdb')
SCSI = "<controller type='scsi' model='virtio-scsi'/>"


class Host(Machine):
    """FERRY_DAEMON_PRELOAD names a library that the daemon begins with, say that of a
    sanitizer with which the module was built: not LD_PRELOAD, since libvirtd hands
    that on to QEMU."""

    def daemon_command(self):
        command = super().daemon_command()
        preload = os.environ.get('FERRY_DAEMON_PRELOAD')
        if preload:
            command[:1] = ['/lib64/ld-linux-x86-64.so.2', '--preload', preload, '/usr/sbin/libvirtd']
        return command


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
            self.host = Host(self, 'a', 'ferry', '127.0.0.1')
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


class SoakGuest:
    """A paused domain with vda and vdb whose guest is the test. contents: what
    the disks hold at the beginning"""

    def __init__(self, solo, name, contents):
        self.solo, self.host, self.name = solo, solo.host, name
        for disk in DISKS:
            put_image(self.host.image(f'{name}-{disk}'), 'qcow2', contents[disk])
        self.host.call(None, 'defineXML', solo.domain(name, [disk_xml(d, solo.image(f'{name}-{d}')) for d in DISKS],
                                                      memory=32, devices=SCSI))
        self.lock = threading.Lock()
        self.start()

    def start(self):
        self.host.call(self.name, 'createWithFlags', PAUSED)
        self.connect()

    def connect(self):
        self.monitor = Monitor(self.host.monitor_path(self.name))
        self.monitor.file = Lines(self.monitor.socket)

    def qmp(self, command, **arguments):
        with self.lock:
            return self.monitor(command, **arguments)

    def hmp(self, disk, line):
        self.qmp('human-monitor-command', command_line=qemu_io(Guest.alias(disk), line))

    def nodes(self):
        return sorted(n['node-name'] for n in self.qmp('query-named-block-nodes', flat=True))

    def jobs(self):
        return sorted(j['id'] for j in self.qmp('query-jobs'))

    def wrote(self, disk):
        """(writes that ended, those that failed)"""
        for stat in self.qmp('query-blockstats'):
            if stat.get('qdev') == frontend(Guest.alias(disk)):
                return stat['stats']['wr_operations'], stat['stats']['failed_wr_operations']
        raise AssertionError(f'QEMU has no disk {disk}')

    def write(self, disk, chunk, pattern, seconds):
        """The guest writes a chunk; it waits for the disk, the monitor does not."""
        before = self.wrote(disk)
        self.hmp(disk, f'aio_write -P {pattern} {chunk * CHUNK} {CHUNK}')
        ferrytest.wait_for(lambda: self.wrote(disk) != before, seconds, 0.02, f'a write to {disk} of {self.name}')
        check(self.wrote(disk) == (before[0] + 1, before[1]), f'a write to {disk} of {self.name} failed')

    def flush(self, disk):
        """Flushes, so that the data survives the end of QEMU and another process can read
        it."""
        self.hmp(disk, 'flush')

    def sources(self, flags=0):
        """Path and format of each disk's image, and whether it has a mirror."""
        xml = self.host.call(self.name, 'XMLDesc', flags)
        found = {}
        for block in re.findall(r'<disk .*?</disk>', xml, re.S):
            top = re.sub(r'<(mirror|backingStore)\b.*</\1>', '', block, flags=re.S)
            found[re.search(r"<target dev='(\w+)'", top)[1]] = (re.search(r"<source file='(.*?)'", top)[1],
                                                                re.search(r"<driver .*?type='(\w+)'", top)[1],
                                                                '<mirror' in block)
        return found
