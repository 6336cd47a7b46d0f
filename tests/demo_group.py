"""The third part of ./ferry demo: two disks of a running guest at one point in time.

A second guest writes each of its records to one disk, and when that has been acknowledged to the
other. Both disks are copied. The copies are ended together: first given up, which leaves a pair of
images of one moment, and then the guest is moved. Whatever record the second image of a pair has,
the first one has, too; and it has one more at most.

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later
"""

import time

import guest
from demo_steps import MIB, RATE
from ferrytest import Session, check, create_image, disk_xml, domain_xml, wait_for

NAME = 'demo-pair'
DISKS = ('vda', 'vdb')
SIZE = 128 * MIB
REGION = guest.Region(16 * MIB, 64 * MIB)


class Group:
    def __init__(self, demo):
        self.host = demo.host
        self.steps = demo.steps
        self.prove = demo.prove
        self.console = self.host.path('pair.log')

    def image(self, what, disk):
        return self.host.path(f'pair-{what}-{disk}.qcow2')

    def boot(self):
        kernel, initrd = guest.build()
        for disk in DISKS:
            create_image(self.image('disk', disk), SIZE)
        self.host.define(domain_xml(NAME, [disk_xml(d, self.image('disk', d)) for d in DISKS], memory=guest.MEMORY,
                                    os_extra=guest.os_xml(kernel, initrd, REGION, RATE, extra='ferry.also=/dev/vdb'),
                                    devices=guest.serial_file_xml(self.console)))
        self.host.virsh('start', NAME)
        self.log.wait_writing()

    def copy(self, what):
        for disk in DISKS:
            self.host.virsh('blockcopy', NAME, disk, self.image(what, disk))
        with Session(self.host) as session:
            wait_for(lambda: session.call(NAME, 'XMLDesc', 0).count("ready='yes'") == len(DISKS), 120, 0.1,
                     'both copies to be ready')
        time.sleep(1)  # the guest's writes go to both places

    def end(self, how):
        before = self.log.next_report().ack
        self.host.virsh('blockjob', NAME, ','.join(DISKS), how)
        check(not self.host.jobs(NAME) and not self.host.live_files(), 'something is left')
        return before, self.log.next_report().ack

    def verify(self, what, kind, before, after):
        newest = [guest.verify(self.image(kind, d), 'qcow2', before, REGION, after).newest for d in DISKS]
        check(newest[0] - newest[1] in (0, 1), f'{what}: the newest records are {newest}')
        self.prove(f'{what}: record {newest[0]} is the newest on the first disk, {newest[1]} on the second, '
                   f'without a hole.')

    def run(self):
        with guest.Log(self.console) as self.log:
            with self.steps.step('boot a guest that writes to two disks in turn'):
                self.boot()
            self.steps.log = self.log
            with self.steps.step('copy both disks'):
                self.copy('kept')
            with self.steps.step('end both copies: a pair of one point in time'):
                moment = self.end('--abort')
            self.verify('the pair of copies', 'kept', *moment)
            with self.steps.step('copy both disks again'):
                self.copy('new')
            with self.steps.step('move the guest to both copies at one point in time'):
                moment = self.end('--pivot')
            self.verify('the pair of old disks, left at the pivot', 'disk', *moment)
            self.steps.log = None
            with self.steps.step('end that guest, check its disks'):
                with Session(self.host) as session:
                    session.call(NAME, 'blockInfo', 'vda', 0)
                    session.call(NAME, 'destroy')
                self.log.close()
                self.verify('the pair of disks, after the guest\'s end', 'new', self.log.acknowledged(), None)
                self.host.virsh('undefine', NAME)
        check(not self.log.troubles, f'the guest is in trouble: {self.log.troubles[:3]}')
