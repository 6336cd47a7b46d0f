"""./ferry demo: a guest's disk is copied, backed up, and moved to another host
with the guest, while the guest writes to it.

What is shown: a block copy of a persistent domain, the driver killed on the way,
the pivot made by another process, and a second copy that is cut off at one point
in time; then backups, see demo_backup.py, two disks at one point in time, see demo_group.py, and
a migration, see demo_migration.py.
What is proved, from the guest's own clock and from what it numbered and checksummed
(guest.py): it never stopped writing, and nothing is lost.

Every virsh call is an embedded driver that starts, does its work and ends; QEMU
goes on. FERRY_KEEP=1 keeps the images and logs of a demo that failed.

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later
"""

import os
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

import guest
from demo_backup import Backups
from demo_group import Group
from demo_migration import Migration
from demo_steps import DATA, DISK, MIB, NAME, RATE, REGION, Bar, Steps, say
from ferrytest import Failed, Host, LibvirtError, Session, check, disk_xml, domain_xml, run

BANDWIDTH = 80  # MiB/s: so slow that there is something to see

# A guest that is not served for so long has stopped. What its disk and the other
# guests of the host take shows in the table's first row.
LIMIT = 2.0


class Demo:
    def __init__(self, host, steps):
        self.host = host
        self.steps = steps
        self.proved = []
        self.original = host.path('original.raw')
        self.disk = host.path('disk.qcow2')
        self.copy1 = host.path('copy1.qcow2')
        self.copy2 = host.path('copy2.qcow2')
        self.console = host.path('console.log')

    def prove(self, text):
        self.proved.append(text)

    # The pieces

    def create_disk(self):
        """The data is random; the plain file is kept to compare with."""
        with open(self.original, 'wb') as f:
            f.truncate(DISK)
            f.seek(DATA[0])
            for _ in range(DATA[1] // MIB):
                f.write(os.urandom(MIB))
        run('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', self.original, self.disk)

    def boot(self, kernel, initrd):
        self.host.define(domain_xml(NAME, [disk_xml('vda', self.disk)], memory=guest.MEMORY,
                                    os_extra=guest.os_xml(kernel, initrd, REGION, RATE),
                                    devices=guest.serial_file_xml(self.console)))
        self.host.virsh('start', NAME)
        self.log.wait_writing()

    def watch(self, kill_at=None):
        """Until the copy is ready. The driver that watches dies at a percentage,
        without a chance to clean up, and another one takes over."""
        session = Session(self.host)
        bar = Bar(DISK)
        try:
            while True:
                info = session.call(NAME, 'blockJobInfo', 'vda', 0)
                check(info, 'the copy is gone')
                bar.show(info['cur'] * DISK // max(info['end'], 1),
                         f', the guest wrote {self.log.acknowledged()} records')
                if info['cur'] == info['end'] and "ready='yes'" in session.call(NAME, 'XMLDesc', 0):
                    return
                if kill_at is not None and info['cur'] * 100 >= info['end'] * kill_at:
                    kill_at = None
                    session.kill()
                    bar.end()
                    say('  the driver is killed (SIGKILL); another one starts and finds the copy')
                    session = Session(self.host)
                time.sleep(0.2)
        finally:
            bar.end()
            session.close()

    def compare(self, image, fmt, original=None):
        """Does an image hold, outside of the guest's region, what the disk was
        made of?"""
        size = DISK - REGION.size
        p = subprocess.run(['qemu-img', 'compare', '-q', '-f', 'raw', '-F', 'raw',
                            guest.part_of(image, fmt, REGION.size, size),
                            guest.part_of(original or self.original, 'raw', REGION.size, size)],
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        check(p.returncode == 0, f'{image} does not hold the data: {p.stdout.strip() or "it differs"}')

    def verify(self, what, image, acknowledged, newest=None, fmt='qcow2', original=None):
        """Proves that an image, which nobody may use, is the guest's disk at
        one point in time. qemu-img takes the image's lock: QEMU has closed it."""
        if fmt == 'qcow2':
            run('qemu-img', 'check', '-q', image)
        v = guest.verify(image, fmt, acknowledged, REGION, newest)
        self.compare(image, fmt, original)
        self.prove(f'{what}: it holds records {v.newest - v.count + 1} to {v.newest}, without a hole, '
                   f'all checksums right;\n    {acknowledged} had been acknowledged. The other data is the same.')

    def sources(self):
        """The images that the live and the permanent definition name."""
        for flags in ([], ['--inactive']):
            disk = ET.fromstring(self.host.virsh('dumpxml', NAME, *flags)).find('devices/disk')
            check(disk.find('mirror') is None, 'the disk still has a mirror')
            yield disk.find('source').get('file')

    def check_settled(self, image):
        """No operation is left, and the disk is the image given."""
        check(list(self.sources()) == [image, image], f'the domain does not use {image}')
        check(not self.host.jobs(NAME), f'jobs are left: {self.host.jobs(NAME)}')
        check(not self.host.live_files(), f'journals are left: {self.host.live_files()}')

    # The story

    def copy_and_pivot(self):
        with self.steps.step('copy the disk, persistent domain, driver killed half-way'):
            self.host.virsh('blockcopy', NAME, 'vda', self.copy1, '--bandwidth', str(BANDWIDTH))
            self.watch(kill_at=50)
        with self.steps.step('pivot to the copy, from another process'):
            before = self.log.next_report().ack
            self.host.virsh('blockjob', NAME, 'vda', '--pivot')
        after = self.log.next_report().ack
        with self.steps.step('check the old image'):
            self.check_settled(self.copy1)
            self.verify('the old image, left at the pivot', self.disk, before, after)

    def copy_and_abort(self):
        with self.steps.step('copy again, at full speed'):
            self.host.virsh('blockcopy', NAME, 'vda', self.copy2)
            self.watch()
            time.sleep(1)  # the guest's writes go to both
        with self.steps.step('abort in the mirror phase: a copy of one point in time'):
            before = self.log.next_report().ack
            self.host.virsh('blockjob', NAME, 'vda', '--abort')
        after = self.log.next_report().ack
        with self.steps.step('check the copy'):
            self.check_settled(self.copy1)
            self.verify('the second copy, left at the abort', self.copy2, before, after)

    def stop(self):
        """QEMU is ended; what was acknowledged must be on the disk. The log is
        read to its end before anything is compared. Not by a virsh call: libvirt
        ends QEMU at once, and if the driver, just started, has not finished its
        talk with it, the call reports an error although it did what it should."""
        self.log.next_report()
        with Session(self.host) as session:
            session.call(NAME, 'blockInfo', 'vda', 0)
            session.call(NAME, 'destroy')
        self.log.close()

    def check_guest(self):
        log = self.log
        check(not log.troubles, f'the guest is in trouble: {log.troubles[:3]}')
        check(len(log.starts) == 1, f'the guest started {len(log.starts)} times')
        gap, lost = log.longest_gap(), log.time_lost()
        check(gap <= LIMIT, f'the guest could not write for {gap * 1000:.1f} ms')
        check(lost <= LIMIT, f'the guest was paused for {lost * 1000:.1f} ms')
        self.prove(f'the guest never stopped: {log.acknowledged()} writes in '
                   f'{log.reports[-1].time - log.reports[0].time:.1f} s of its clock,\n    '
                   f'the longest gap between two of them {gap * 1000:.1f} ms ({LIMIT * 1000:.0f} are allowed).')
        self.prove(f'it was never paused: its clock lost {max(lost, 0) * 1000:.1f} ms against the host\'s.')

    def run(self):
        with self.steps.step('build the guest (kept under build/guest)'):
            kernel, initrd = guest.build()
        with self.steps.step(f'create a disk, {DISK // MIB} MiB with {DATA[1] // MIB} MiB of data'):
            self.create_disk()
        with guest.Log(self.console) as self.log:
            with self.steps.step('define the domain, boot until the guest writes'):
                self.boot(kernel, initrd)
            self.steps.log = self.log
            with self.steps.step('let it write, nothing else going on'):
                time.sleep(3)
            self.copy_and_pivot()
            self.copy_and_abort()
            Backups(self).run()
            self.check_settled(self.copy1)
            self.steps.log = None
            with self.steps.step('end the guest, check its disk'):
                self.stop()
                self.verify('the disk, after the guest\'s end', self.copy1, self.log.acknowledged())
                self.host.virsh('undefine', NAME)
                check(not self.host.qemu_pids(), 'a QEMU is left')
        self.check_guest()
        Group(self).run()
        Migration(self).run()


def check_space(host):
    need = 7 * DATA[1] + 100 * MIB
    free = shutil.disk_usage(host.dir).free
    check(free > need, f'{host.dir} has {free // MIB} MiB free, {need // MIB} are needed: '
                       'set FERRY_TMP to another folder')


def show(demo, steps):
    say('')
    for line in steps.table():
        say(line)
    say('\nproved:')
    for text in demo.proved:
        say(f'  - {text}')
    say(f'\nall of it in {time.monotonic() - steps.started:.0f} s')


def interrupted(signum, frame):
    raise KeyboardInterrupt


def main():
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    steps = Steps()
    host = Host()
    ok = False
    try:
        check_space(host)
        demo = Demo(host, steps)
        demo.run()
        show(demo, steps)
        ok = True
    except (AssertionError, Failed, LibvirtError, OSError, subprocess.SubprocessError) as e:
        print(f'\nferry demo: FAILED: {e}', file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print('\nferry demo: interrupted', file=sys.stderr, flush=True)
    finally:
        host.close(keep=not ok and bool(os.environ.get('FERRY_KEEP')))
    return 0 if ok else 1


if __name__ == '__main__':
    sys.exit(main())
