"""The second part of ./ferry demo: backups of the running guest.

A full backup with a checkpoint, an incremental one that QEMU writes (push), and
one that a client reads over NBD (pull), for which it needs nothing but the full
one and what the export says has changed. Each is restored, and must be the disk
of the moment when it was begun: with every record that was acknowledged before
backup-begin was called, without a hole, and with none that the guest wrote after
it had returned.

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later
"""

import collections
import json
import os
import time

import nbd

from demo_steps import DISK, NAME, Bar
from ferrytest import Failed, Session, allocated, check, run

BANDWIDTH = 240  # MiB/s: so slow that there is something to see
PAUSE = 2  # seconds of writes between two backups
COMPLETED = 1  # of a job that is over
CHUNK = 1 << 20

# What was acknowledged before a backup was begun, and some time afterwards.
Moment = collections.namedtuple('Moment', 'before after')


def push_xml(path, incremental=None):
    return (f"<domainbackup mode='push' xmlns:ferry='urn:ferry:domainbackup:1.0'>{since(incremental)}"
            f"<ferry:bandwidth unit='MiB'>{BANDWIDTH}</ferry:bandwidth><disks><disk name='vda' type='file'>"
            f"<driver type='qcow2'/><target file='{path}'/></disk></disks></domainbackup>")


def pull_xml(scratch, socket, incremental=None):
    return (f"<domainbackup mode='pull'>{since(incremental)}<server transport='unix' socket='{socket}'/>"
            f"<disks><disk name='vda' type='file'><scratch file='{scratch}'/></disk></disks></domainbackup>")


def since(checkpoint):
    return f'<incremental>{checkpoint}</incremental>' if checkpoint else ''


def changed(url):
    """(offset, length) of what an export's bitmap says has changed."""
    extents = json.loads(run('nbdinfo', '--json', '--map=qemu:dirty-bitmap:backup-vda', url))
    return [(e['offset'], e['length']) for e in extents if e['type'] & 1]


def read_changed(url, path):
    """Brings a raw image up to date. Returns how many bytes were read."""
    extents = changed(url)
    client = nbd.NBD()
    try:
        client.connect_uri(url)
        with open(path, 'r+b') as f:
            for offset, length in extents:
                f.seek(offset)
                for at in range(offset, offset + length, CHUNK):
                    f.write(client.pread(min(CHUNK, offset + length - at), at))
        client.shutdown()
    except nbd.Error as e:
        raise Failed(f'{url}: {e}') from None
    return sum(length for _, length in extents)


class Backups:
    def __init__(self, demo):
        self.demo = demo
        self.host, self.steps, self.log = demo.host, demo.steps, demo.log
        self.full = self.host.path('full.qcow2')
        self.incremental = self.host.path('incremental.qcow2')
        self.restored = self.host.path('restored.raw')
        self.socket = self.host.path('nbd.sock')
        self.url = f'nbd+unix:///vda?socket={self.socket}'

    def begin(self, what, xml, checkpoint=None):
        """Returns the backup's moment."""
        args = [self.file('backup.xml', xml)]
        if checkpoint:
            args.append(self.file('checkpoint.xml', f'<domaincheckpoint><name>{checkpoint}</name></domaincheckpoint>'))
        before = self.log.next_report().ack
        with self.steps.step(what):
            self.host.virsh('backup-begin', NAME, *args)
        return Moment(before, self.log.next_report().ack)

    def file(self, name, text):
        with open(self.host.path(name), 'w') as f:
            f.write(text)
        return f.name

    def watch(self):
        """Until the push is over. The driver that began it is gone; this one
        finds it."""
        bar = Bar(DISK)
        with Session(self.host) as session:
            try:
                session.call(NAME, 'blockInfo', 'vda', 0)  # waits until the driver is back
                while (stats := session.call(NAME, 'jobStats', 0))['type']:
                    total = max(stats.get('disk_total', 0), 1)
                    bar.show(stats.get('disk_processed', 0) * DISK // total,
                             f', the guest wrote {self.log.acknowledged()} records')
                    time.sleep(0.1)
                # unless the driver that began it was there to see its end
                check(session.call(NAME, 'jobStats', COMPLETED).get('success', True), 'the backup failed')
            finally:
                bar.end()

    def push(self, kind, path, checkpoint, incremental=None):
        moment = self.begin(f'backup-begin: {kind}, push', push_xml(path, incremental), checkpoint)
        with self.steps.step(f'{kind} backup into a file, {BANDWIDTH} MiB/s at most') as step:
            self.watch()
            step.moved = allocated(path)
        return moment

    def pull(self, incremental):
        """What has changed is read by a client, on top of what was restored."""
        moment = self.begin('backup-begin: incremental, pull',
                            pull_xml(self.host.path('scratch.qcow2'), self.socket, incremental))
        with self.steps.step('read what has changed from the NBD export') as step:
            step.moved = read_changed(self.url, self.restored)
        with self.steps.step('compare with all that the export shows'):
            run('qemu-img', 'compare', '-q', '-f', 'raw', '-F', 'raw', self.restored, self.url)
        with self.steps.step('domjobabort: end the pull backup'):
            self.host.virsh('domjobabort', NAME)
        return moment

    def restore(self):
        """The incremental backup on top of the full one, in one image."""
        run('qemu-img', 'rebase', '-u', '-f', 'qcow2', '-F', 'qcow2', '-b', self.full, self.incremental)
        run('qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', self.incremental, self.restored)

    def forget(self):
        """The checkpoints, and so their bitmaps."""
        for name in self.host.virsh('checkpoint-list', NAME, '--name').split():
            self.host.virsh('checkpoint-delete', NAME, name)
        left = [b for n in self.host.qmp(NAME, 'query-named-block-nodes', flat=True)
                for b in n.get('dirty-bitmaps', [])]
        check(not left, f'bitmaps are left: {left}')
        check(not os.path.exists(self.socket), 'the socket of the pull backup is left')

    def run(self):
        first = len(self.log.reports)
        full = self.push('full', self.full, 'c1')
        time.sleep(PAUSE)
        second = self.push('incremental', self.incremental, 'c2', 'c1')
        with self.steps.step('restore and check the push backups'):
            self.demo.verify('the full backup', self.full, *full)
            self.restore()
            self.demo.verify('the incremental one, merged onto it', self.restored, *second, fmt='raw')
        third = self.pull('c2')
        with self.steps.step('check what the client made of it'):
            self.demo.verify('the incremental pull backup, read into that', self.restored, *third, fmt='raw')
        with self.steps.step('delete the checkpoints'):
            self.forget()
        self.demo.prove('while it was backed up and restored, the longest gap between two of the guest\'s\n    '
                        f'writes was {self.log.longest_gap(first) * 1000:.1f} ms.')
