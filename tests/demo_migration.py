"""The fourth part of ./ferry demo: a guest moves to another host, with its disk,
while it writes.

The hosts are two libvirtd's in namespaces of their own (twohosts.py), with a cable
between them; to make those, one has to be root. The destination has no image: it is
created, as thin as the one it is a copy of. What is proved: the guest writes before,
during and after, the host that it left has nothing of it but its image, that is the
disk of the moment when it left, and the image at the destination holds every record
that was ever acknowledged.

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later
"""

import contextlib
import os
import time

import libvirt

import guest
from demo_steps import DATA, DISK, MIB, NAME, RATE, REGION, Bar, say
from ferrytest import LibvirtError, allocated, check, disk_xml, run, wait_for
from twohosts import Client, Pair

BANDWIDTH = 64  # MiB/s: so slow that there is something to see
LONGEST = 60    # seconds

# Less than in the other parts: both hosts' images are on the same disk, and when
# QEMU flushes the one the guest's own flushes wait.
MOVED = 128 * MIB
FLAGS = (libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_NON_SHARED_DISK | libvirt.VIR_MIGRATE_PERSIST_DEST |
         libvirt.VIR_MIGRATE_UNDEFINE_SOURCE)

# A guest that is not served for so long has stopped.
LIMIT = 2.0

# What the thin image may take at the destination beyond what it takes here
SLACK = 8 * MIB


class Migration:
    def __init__(self, demo):
        self.demo, self.steps = demo, demo.steps

    def run(self):
        if os.geteuid() != 0:
            say('migration between two hosts: skipped, root is needed to make them')
            return
        # beside the demo's other files, and gone with them
        os.environ['FERRY_TMP'] = self.demo.host.dir
        with self.steps.step('start two hosts, each with a libvirtd'):
            pair = Pair('ferry', 'ferry')
        keep = bool(os.environ.get('FERRY_KEEP'))
        try:
            self.console = os.path.join(pair.shared, 'console.log')
            with guest.Log(self.console) as self.log:
                self.move(pair)
            keep = False
        finally:
            self.steps.log = None
            pair.close(keep)

    def move(self, pair):
        a, b = pair.machines
        path = pair.image('disk.qcow2')
        here, there = (os.path.join(m.dir, 'images', 'disk.qcow2') for m in (a, b))
        self.create_disk(here)
        with self.steps.step('boot the guest on the first host'):
            self.boot(a, pair.domain(NAME, [disk_xml('vda', path)], memory=guest.MEMORY,
                                     os_extra=guest.os_xml(*guest.build(), REGION, RATE),
                                     devices=guest.serial_file_xml(self.console)))
        self.steps.log = self.log
        with self.steps.step('let it write a while'):
            time.sleep(1)
        first, begun = len(self.log.reports), self.log.acknowledged()
        with self.steps.step(f'migrate it with its disk, {BANDWIDTH} MiB/s at most') as step:
            before = self.migrate(a, b)
            took = time.monotonic() - step.start
            step.moved = allocated(there)
        after = self.log.next_report().ack
        last = len(self.log.reports)
        with self.steps.step('let it write there, look at what is left'):
            time.sleep(1)
            self.check_moved(a, b)
            check(allocated(there) <= allocated(here) + SLACK, f'the image takes {allocated(there)} bytes')
        gap, lost = self.log.longest_gap(first), self.time_lost(first, last)
        self.log.next_report()
        self.steps.log = None
        with self.steps.step('end the guest, check the image on either host'):
            b.call(NAME, 'destroy')
            b.call(NAME, 'undefine')
            wait_for(lambda: not b.qemu_pids(), 10, 0.05, 'the end of QEMU')
            self.log.close()
            self.demo.verify('the image that the guest left behind', here, before, after,
                             original=self.original)
            self.demo.verify('its image on the other host', there, self.log.acknowledged(), original=self.original)
        check(not self.log.troubles, f'the guest is in trouble: {self.log.troubles[:3]}')
        check(len(self.log.starts) == 1, f'the guest started {len(self.log.starts)} times')
        check(gap + lost <= LIMIT, f'the guest could not write for {gap * 1000:.1f} ms, and was paused for '
                                   f'{lost * 1000:.1f} ms')
        self.demo.prove(f'the migration took {took:.1f} s, in which the guest wrote {after - begun} records; the '
                        f'longest\n    gap between two of them was {gap * 1000:.1f} ms by its clock, '
                        f'and that one stood still for {lost * 1000:.1f} ms\n    when it changed hosts '
                        f'({LIMIT * 1000:.0f} together are allowed).')

    def time_lost(self, first, last):
        """By how much the guest's clock fell behind the host's from one report to
        another. See Log.time_lost(), which wants more of them."""
        before, after = (min(r.host - r.time for r in reports)
                         for reports in (self.log.reports[:first], self.log.reports[last:]))
        return max(after - before, 0)

    def create_disk(self, path):
        """Its data is the beginning of that of the demo's disk; what the rest of it
        was, is a hole."""
        self.original = self.demo.host.path('moved.raw')
        with open(self.demo.original, 'rb') as source, open(self.original, 'wb') as f:
            f.truncate(DISK)
            for at in range(DATA[0], DATA[0] + MOVED, MIB):
                source.seek(at)
                f.seek(at)
                f.write(source.read(MIB))
        run('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', self.original, path)

    def boot(self, machine, xml):
        machine.call(None, 'defineXML', xml)
        machine.call(NAME, 'create')
        self.log.wait_writing()

    def migrate(self, a, b):
        """Returns the newest record that was acknowledged when the guest was still
        here for sure."""
        before = 0
        bar = Bar(DISK)
        end = time.monotonic() + LONGEST
        # a connection of its own: another call there may wait for this one
        with Client(a.uri) as client:
            job = client.begin(NAME, 'migrate3', {'open': b.uri}, {'bandwidth': BANDWIDTH}, FLAGS)
            while not job.done() and time.monotonic() < end:
                acknowledged = self.log.acknowledged()
                with contextlib.suppress(LibvirtError):  # in the end it is gone from here
                    if a.running(NAME):
                        before = acknowledged
                    stats = a.call(NAME, 'jobStats', 0)
                    if stats.get('disk_total'):
                        bar.show(stats['disk_processed'] * DISK // stats['disk_total'],
                                 f', the guest wrote {acknowledged} records')
                time.sleep(0.1)
            bar.end()
            check(job.done(), f'the migration takes longer than {LONGEST} s')
            job.result()
        return before

    def check_moved(self, a, b):
        """It is there, and nothing of it here."""
        check(b.running(NAME) and b.call(NAME, 'isPersistent'), f'it does not run on the second host: {b.domains()}')
        check(not a.domains(), f'the first host still has {a.domains()}')
        wait_for(lambda: not a.qemu_pids(), 10, 0.05, 'the end of QEMU on the first host')
        for machine in a, b:
            wait_for(lambda: not machine.listening(), 10, 0.05, f'{machine.listening()} to be closed')
            check(not machine.journals(), f'journals are left: {machine.journals()}')
