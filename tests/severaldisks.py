"""A domain with several disks whose guest may write to two of them in turn: for tests of what happens to
several disks at one point in time.

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later
"""

import guest
from faultmatrix import PRELOAD
from ferrytest import (QUICK, Host, Monitor, Session, check, copy_xml, create_image, disk_xml, domain_xml, wait_for,
                       with_monitor)

NAME = 'groups'
DISKS = ('vda', 'vdb')
SIZE = '64M'
REGION = guest.Region(offset=8 << 20, size=16 << 20)
ASYNC, PIVOT = 1, 2
INACTIVE = 2
COMPLETED, CANCELED, READY = 0, 2, 3


class Scene:
    """A domain with disks, and targets. writes: its guest writes each record to vda, and then to
    vdb; otherwise it is paused"""

    def __init__(self, disks=DISKS, fmt='qcow2', writes=False, transient=False, fault=None, source='qcow2',
                 bus='virtio', runs=False):
        """fault: what happens to the driver, see faults.c; source: format of the disks' own images; runs: the guest's
        CPUs do, with nothing to do but to look for something to boot"""
        self.host = Host()
        self.disks, self.fmt, self.transient, self.source_fmt = disks, fmt, transient, source
        self.log = None
        self.watch = None # a monitor that stays; there can be only one
        for disk in disks:
            create_image(self.image(disk), SIZE, source)
        self.xml = domain_xml(NAME, [disk_xml(d, self.image(d), source).replace("bus='virtio'", f"bus='{bus}'") for d in disks],
                              memory=guest.MEMORY)
        if writes:
            kernel, initrd = guest.build()
            self.xml = domain_xml(
                NAME, [disk_xml(d, self.image(d), source, driver="cache='none'") for d in disks], memory=guest.MEMORY,
                os_extra=guest.os_xml(kernel, initrd, REGION, report=50, extra='ferry.also=/dev/vdb'),
                devices=guest.serial_file_xml(self.host.path('console')))
        self.xml = with_monitor(self.xml, self.host.path('monitor'))
        if fault:
            with open(self.host.path('fault'), 'w') as f:
                f.write(fault)
            self.host.env.update(LD_PRELOAD=PRELOAD, FERRY_FAULT_FILE=self.host.path('fault'))
        self.session = Session(self.host)
        if transient:
            self.session.request(domain=None, method='createXML', args=[self.xml, 0 if writes else 1])
        else:
            self.session.request(domain=None, method='defineXML', args=[self.xml])
            self.call('createWithFlags', 0 if writes or runs else 1)
        if writes:
            self.log = guest.Log(self.host.path('console'))
            self.log.wait_writing()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.session.close()
        if self.log:
            self.log.close()
        self.host.close(keep=exc[0] is not None)

    def call(self, method, *args):
        return self.session.call(NAME, method, *args)

    def image(self, disk):
        return self.host.path(f'{disk}.{self.source_fmt}')

    def target(self, disk):
        return self.host.path(f'{disk}-target')

    def copy(self, *disks, **params):
        for disk in disks or self.disks:
            self.call('blockCopy', disk, copy_xml(self.target(disk), self.fmt), params, 0)

    def ready(self):
        return self.call('XMLDesc', 0).count(" ready='yes'")

    def copied(self, *disks):
        self.copy(*disks)
        wait_for(lambda: self.ready() == len(disks or self.disks), 60, 0.05, 'the mirrors to be ready')

    def end(self, path=','.join(DISKS), flags=0):
        return self.call('blockJobAbort', path, flags)

    def sources(self, flags=0):
        xml = self.call('XMLDesc', flags)
        return [d for d in self.disks if self.uses_target(xml, d)]

    def uses_target(self, xml, disk):
        """Is the guest's disk the target?"""
        for part in xml.split('<disk ')[1:]:
            part = part.split('</disk>')[0]
            if f"<target dev='{disk}'" in part:
                return f"'{self.target(disk)}'" in part.split('<mirror')[0].split('<backingStore')[0]
        raise AssertionError(f'there is no disk {disk}')

    def moved(self):
        """The disks that have moved, by the live XML and by the configuration."""
        live = self.sources()
        config = live if self.transient else self.sources(INACTIVE)
        check(live == config, f'{live} have moved, and in the configuration {config}')
        return live

    def events(self):
        """The ends of jobs that clients were told of: (disk, status)."""
        return [(e[1], e[3]) for e in self.session.events(0.3) if e[0] == 'BLOCK_JOB_2' and e[3] != READY]

    def jobs(self):
        if self.watch:
            return self.watch('query-jobs')
        monitor = Monitor(self.host.path('monitor'))
        try:
            return monitor('query-jobs')
        finally:
            monitor.close()

    def check_over(self):
        wait_for(lambda: not self.host.live_files(), 20, 0.05, 'the journal to go')
        check('<mirror' not in self.call('XMLDesc', 0), 'there is a mirror')
        check(self.jobs() == [], f'there are jobs: {self.jobs()}')

    def restart(self):
        """Without what happened to the driver before."""
        self.session.kill()
        self.host.env['LD_PRELOAD'] = QUICK
        self.session = Session(self.host)

    def newest(self, image, fmt):
        return guest.verify(image, fmt, 0, REGION).newest

    def check_one_moment(self, images, fmt):
        """No record is on the second disk that is not on the first, and at most one the other way
        round."""
        first, second = (self.newest(i, fmt) for i in images)
        check(first - second in (0, 1), f'vda has record {first}, and vdb {second}')
