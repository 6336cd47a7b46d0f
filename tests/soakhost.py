"""One libvirt host with a real libvirtd, for the suites that load it: a machine
of twohosts.py without the other one, and guests whose disks the test writes to.

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later
"""

import contextlib
import os
import re
import tempfile
import threading
import uuid

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

    def preload(self):
        return os.environ.get('FERRY_DAEMON_PRELOAD')

    def daemon_command(self):
        command = super().daemon_command()
        preload = self.preload()
        if preload:
            command[:1] = ['/lib64/ld-linux-x86-64.so.2', '--preload', preload, '/usr/sbin/libvirtd']
        return command


class TroubledHost(Host):
    """Its storage can be troubled: see trouble(). The images are on a file system of their own."""

    ROOM = 512 * MIB

    def __init__(self, *args):
        super().__init__(*args)
        # libferryfaults.so makes hard links to files that a step changes, so all must be on one mount
        os.mkdir(os.path.join(self.dir, 'lib', 'etc-qemu'))
        os.symlink('/var/lib/libvirt/etc-qemu', os.path.join(self.dir, 'etc', 'qemu'))
        self.faults, self.hangs = os.path.join(self.dir, 'lib', 'faults'), os.path.join(self.dir, 'hangs')
        os.environ.update(FERRY_FAULT_FILE='/var/lib/libvirt/faults', FERRY_HANG_FILE=self.hangs)
        disk = os.path.join(self.dir, 'images.ext4')
        with open(disk, 'wb') as f:
            f.truncate(self.ROOM)
        ferrytest.run('mkfs.ext4', '-q', '-m', '0', disk)
        self.run('mount', '-o', 'loop', disk, self.pair.images)

    def preload(self):
        # faults go first: hangs ask nobody else to open a file
        ours = [os.path.join(ferrytest.BUILD, 'meson', 'tests', f'libferry{name}.so') for name in ('faults', 'hangs')]
        return ':'.join(filter(None, [super().preload(), *ours]))

    @contextlib.contextmanager
    def trouble(self, kind, what):
        """kind and what: journal and a fault of tests/faults.c, step and a line for it, folder and full
        or immutable, hang and a part of the calls that tests/hangs.c describes"""
        path = {'journal': self.faults, 'step': self.faults, 'hang': self.hangs, 'folder': self.image('full')}[kind]
        try:
            if what == 'immutable':
                self.run('chattr', '+i', self.pair.images)
            elif what == 'full':
                with open(path, 'wb') as f, contextlib.suppress(OSError):
                    os.posix_fallocate(f.fileno(), 0, self.ROOM)
            else:
                with open(path + '.new', 'w') as f:
                    f.write(f'any/journal/{what}' if kind == 'journal' else what)
                os.rename(path + '.new', path)
            yield
        finally:
            if what == 'immutable':
                self.run('chattr', '-i', self.pair.images)
            else:
                os.unlink(path)


class Solo(Pair):
    """One host, with Ferry, and no cable. Use as a context manager."""

    def __init__(self, host=Host):
        ferrytest.adopt_qemus()
        self.dir = tempfile.mkdtemp(prefix='ferry-solo-', dir=os.environ.get('FERRY_TMP', '/var/tmp'))
        os.chmod(self.dir, 0o755)
        self.images = os.path.join(self.dir, 'images')
        os.mkdir(self.images)
        with open(os.path.join(self.dir, 'hosts'), 'w') as f:
            f.write('127.0.0.1 localhost\n')
        self.machines = []
        try:
            self.host = host(self, 'a', 'ferry', '127.0.0.1')
            self.machines.append(self.host)
            self.host.start()
        except BaseException:
            self.close(keep=True)
            raise


class SoakGuest:
    """A paused domain with vda and vdb whose guest is the test. contents: what
    the disks hold at the beginning"""

    def __init__(self, solo, name, contents, transient=False):
        self.solo, self.host, self.name = solo, solo.host, name
        self.uuid = str(uuid.uuid4())
        for disk in DISKS:
            put_image(self.host.image(f'{name}-{disk}'), 'qcow2', contents[disk])
        xml = self.xml({d: solo.image(f'{name}-{d}') for d in DISKS})
        self.lock = threading.Lock()
        if transient:
            self.host.call(None, 'createXML', xml, PAUSED)
        else:
            self.host.call(None, 'defineXML', xml)
            self.host.call(name, 'createWithFlags', PAUSED)
        self.connect()

    def xml(self, images):
        return self.solo.domain(self.name, [disk_xml(d, images[d]) for d in DISKS], memory=32, devices=SCSI,
                                uuid_=self.uuid)

    def connect(self):
        self.monitor = Monitor(self.host.monitor_path(self.name))

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
