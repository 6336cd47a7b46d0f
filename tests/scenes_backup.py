"""The scenes of backups and checkpoints, for those who break them: see faultmatrix.py.

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later
"""

import os
import re
import subprocess

import faultmatrix
from ferrytest import Failed, LibvirtError, check, create_image, run, same_data, wait_for, write_image

SIZE = '8M'
NO_BACKUP = 104
REDEFINE = 1


def checkpoint_xml(name):
    return f'<domaincheckpoint><name>{name}</name></domaincheckpoint>'


def redefined_xml(name, disks):
    disks = ''.join(f"<disk name='{d}' checkpoint='bitmap' bitmap='{name}'/>" for d in disks)
    return (f'<domaincheckpoint><name>{name}</name><creationTime>1</creationTime><disks>{disks}</disks>'
            '</domaincheckpoint>')


class Checkpoints(faultmatrix.Scene):
    """A domain with one checkpoint; then there is another one, or none."""

    DISKS = ('vda', 'vdb')

    def prepare(self):
        for disk in self.DISKS:
            create_image(self.image(disk), SIZE)
            write_image(self.image(disk), 0x11, 0, '2M')

    def first(self):
        self.call('checkpointCreateXML', checkpoint_xml('c1'), 0)
        self.write(0x22, 4 << 20, 1 << 16)

    def create(self):
        self.call('checkpointCreateXML', checkpoint_xml('c2'), 0)

    def two(self):
        self.first()
        self.create()

    def delete(self):
        self.call('delete', 0, checkpoint='c1')

    def checkpoints(self):
        """A transient domain that has ended has none."""
        return sorted(self.call('listAllCheckpoints', 0)) if not self.transient or self.running() else []

    def metadata(self):
        """The checkpoints' files, which a driver would find that is started now."""
        files = {}
        for base, _, names in os.walk(os.path.join(self.host.root, 'lib', 'qemu', 'checkpoint', self.name)):
            for name in names:
                with open(os.path.join(base, name)) as f:
                    files[name] = re.findall(r'<parent>\s*<name>(.*)</name>', f.read())
        return files

    def more_state(self):
        return {'checkpoints': self.checkpoints(), 'metadata': self.metadata()}

    def nudge(self, act):
        # The checkpoint is gone, so no call can name it. The next driver finishes the
        # deletion, as would the next change of a checkpoint.
        self.bench.restart()

    def again(self, states):
        for name in self.checkpoints():
            self.call('delete', 0, checkpoint=name)
        self.two()
        check(self.checkpoints() == ['c1', 'c2'], 'the second try went wrong')

    def check_stopped(self):
        # QEMU's end takes the bitmaps, but the list and the files must agree
        check(sorted(f'{c}.xml' for c in self.checkpoints()) == sorted(self.metadata()),
              f'list {self.checkpoints()}, files {self.metadata()}')

    PLANS = {
        ('checkpoint', 'checkpoint'): (first, create),
        ('checkpoint', 'delete'): (two, delete),
    }


class Pull(Checkpoints):
    """An incremental pull backup that makes a checkpoint; then it is ended."""

    def backup_xml(self):
        disks = ''.join(f"<disk name='{d}' type='file'><scratch file='{self.path(d)}-scratch'/></disk>"
                        for d in self.DISKS)
        return (f"<domainbackup mode='pull'><incremental>c1</incremental>"
                f"<server transport='unix' socket='{self.path('nbd')}'/><disks>{disks}</disks></domainbackup>")

    def begin(self):
        self.call('backupBegin', self.backup_xml(), checkpoint_xml('c2'), 0)

    def begun(self):
        self.first()
        self.begin()

    def end(self):
        self.call('abortJob')

    def backing_up(self):
        try:
            return bool(self.call('backupGetXMLDesc', 0))
        except LibvirtError as e:
            check(e.code == NO_BACKUP or self.transient and e.code == faultmatrix.NO_DOMAIN, str(e))
            return False

    def more_state(self):
        job = self.call('jobStats', 0)['type'] != 0
        return dict(super().more_state(), backup=self.backing_up(), job=job)

    def again(self, states):
        if self.backing_up():
            try:
                self.read()
                self.end()
            except (Failed, LibvirtError):
                # a driver that goes on with an undo may end it at any time
                wait_for(lambda: not self.backing_up(), 20, 0.1, 'the backup to end')
        if 'c2' in self.checkpoints():
            self.call('delete', 0, checkpoint='c2')
        self.begin()
        self.read()
        self.end()
        check(self.checkpoints() == ['c1', 'c2'], 'the second try went wrong')

    def read(self):
        for disk in self.DISKS:
            # what went wrong with a read is said on stdout
            p = subprocess.run(['qemu-io', '-r', '-f', 'raw', '-c', 'read -P 0x11 0 2M',
                                f'nbd+unix:///{disk}?socket={self.path("nbd")}'], timeout=120, text=True,
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            check('Pattern verification failed' not in p.stdout, f'the export of {disk} is wrong')
            if p.returncode:
                raise Failed(f'the export of {disk} cannot be read: {p.stdout}')

    def check_stopped(self):
        super().check_stopped()
        left = [f for f in self.files() if 'scratch' in f or 'nbd' in f]
        check(not left, f'left behind: {left}')

    PLANS = {('backup', 'begin'): (Checkpoints.first, begin)}
    UNDONE = {('backup', 'begin'): (begun, end)}


class Push(Pull):
    """An incremental push backup to raw and qcow2, with a checkpoint."""

    FORMATS = {'vda': 'qcow2', 'vdb': 'raw'}

    def backup_xml(self):
        disks = ''.join(f"<disk name='{d}' type='file'"
                        f"{' backupmode=' + repr('full') if f == 'raw' else ''}>"
                        f"<driver type='{f}'/><target file='{self.path(d)}-target'/></disk>"
                        for d, f in self.FORMATS.items())
        return f"<domainbackup mode='push'><incremental>c1</incremental><disks>{disks}</disks></domainbackup>"

    def begin(self):
        super().begin()
        self.wait()

    def wait(self):
        wait_for(lambda: not self.backing_up(), 30, 0.02, 'the backup to end')

    def state(self):
        self.wait()
        return super().state()

    def again(self, states):
        self.wait()
        if 'c2' in self.checkpoints():
            self.check_targets()
            self.call('delete', 0, checkpoint='c2')
            for disk in self.DISKS:
                os.unlink(f'{self.path(disk)}-target')
        self.begin()
        self.check_targets()

    def check_targets(self):
        for disk, fmt in self.FORMATS.items():
            check(same_data(self.image(disk), 'qcow2', f'{self.path(disk)}-target', fmt),
                  f'the backup of {disk} is wrong')

    def check_stopped(self):
        Checkpoints.check_stopped(self)
        left = [f for f in self.files() if 'target' in f]
        check(not left or 'c2' in self.checkpoints(), f'left behind: {left}')

    PLANS = {('backup', 'begin'): (Checkpoints.first, begin)}
    UNDONE = {}
