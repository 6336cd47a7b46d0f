#!/usr/bin/python3
"""Block copy: Ferry against the stock driver on the same QEMU.

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later

Rows
  copy-FMT-DATA-DEST  the call to READY: wall, CPU of QEMU and driver, bytes
                      allocated at the target. The disk has 4 GiB, DATA percent
                      of them data; file targets have the source's format and
                      are created by the driver, NBD targets are raw and reused
                      (both drivers are given REUSE_EXT; NBD creates nothing)
  call-FMT            the call to its return, the job running; a small disk
  pivot               a guest writes; after a dense copy to a file and a while of
                      mirroring: the pivot call to its return, and the longest
                      time between two writes of the guest meanwhile, by its clock
  pivot-idle          the same call with a paused guest, right after READY
  group-N, group-N-load
                      the guest writes to the first and the last of N disks in turn, which are
                      moved: by Ferry together, by the stock driver one after the other. The
                      longest gap with Ferry, and the sum of the stock driver's; and the calls

Each measurement has a QEMU of its own, in the disk's default cache mode
(writeback); its guest is paused but for the gap. Domains are transient and
get no TRANSIENT_JOB flag, without which the stock driver copies no others.
"""

import contextlib
import os
import sys
import time

import benchlib
from benchlib import GIB, MIB, Domain, File, Figures, NbdTcp, NbdUnix

import guest  # benchlib knows where tests/ is

REUSE_EXT = 2  # VIR_DOMAIN_BLOCK_COPY_REUSE_EXT: libvirt is not loaded here
DESTINATIONS = {d.kind: d for d in (File, NbdUnix, NbdTcp)}

# Wanted, Ferry/stock
WALL = 1.0
WALL_TCP = 0.65
CPU_DENSE_FILE = 0.4
GAP = 0.1
GROUP_GAP = 0.3 # four disks together, against the sum of single pivots

# The guest of the pivot row. It writes synchronously, so its rate is what it gets
# at most; and it writes for some seconds before the pivot, as after a copy that
# somebody watches (virsh blockcopy --wait --pivot looks every half a second).
GUEST_RATE = 1000
GUEST_SECONDS = 3

# What the guest writes between READY and the pivot, as a share of the disk: QEMU
# flushes a target before it is READY, and this is what is left to flush.
LOAD = 0.25
LOAD_CHUNK = 32 * MIB

# What a file system may add to the target for its own bookkeeping (extent
# blocks count as the file's), and qcow2 for a table that is allocated early.
ALLOCATION_SLACK = MIB


class Run:
    """What all rows are given."""

    def __init__(self, options, folder, drivers, table):
        self.options = options
        self.folder = folder
        self.drivers = drivers
        self.table = table
        self.images = benchlib.Images(folder)
        self.size = 256 * MIB if options.quick else options.size * MIB
        self.rounds = options.rounds
        self.all = {}

    def settle(self, source):
        benchlib.settle(source, self.options.cache)

    def disk(self, source, fmt):
        return benchlib.ferrytest.disk_xml('vda', source, fmt)


# Copy to READY

def copy_once(run, driver, fmt, source, destination):
    with destination(run.folder, run.size, fmt) as target:
        with Domain(driver, run.disk(source, fmt)) as domain:
            run.settle(source)
            t = domain.copy(target.xml(), flags=REUSE_EXT if target.kind != 'file' else 0)
            domain.abort()
            return {'wall': t['ready'], 'cpu': t['qemu_cpu'] + t['driver_cpu'],
                    'allocated': benchlib.ferrytest.allocated(target.path)}


def limit(run, figures, fmt, source, destination):
    """qemu-img's best: three ways, three times each."""
    best = {}
    for options in benchlib.CONVERT:
        one = Figures()
        for _ in range(min(3, run.rounds)):
            with destination(run.folder, run.size, fmt) as target:
                run.settle(source)
                wall, cpu = benchlib.convert(source, fmt, target, options)
                one.add('limit', wall=wall, cpu=cpu)
        for figure in ('wall', 'cpu'):
            best[figure] = min(best.get(figure, 1e9), one.median('limit', figure))
    figures.add('limit', **best)


def row_copy(run, name, fmt, percent, kind):
    destination = DESTINATIONS[kind]
    source = run.images.get(fmt, run.size, percent)
    figures = run.all[name] = Figures()
    for _ in range(run.rounds):
        for driver in run.drivers:
            figures.add(driver.name, **copy_once(run, driver, fmt, source, destination))
    if not run.options.no_limit:
        limit(run, figures, fmt, source, destination)

    run.table.ratio(name, 'wall', figures, WALL_TCP if kind == 'nbd-tcp' else WALL)
    run.table.ratio(name, 'cpu', figures, CPU_DENSE_FILE if kind == 'file' and percent == 100 else None)
    run.table.bound(name, 'allocated', figures,
                    benchlib.ferrytest.allocated(source), ALLOCATION_SLACK, 'source')


# Calls

def row_call(run, name, fmt):
    """The copy is slowed down, or a small one may end before the call does.
    Milliseconds scatter: more rounds."""
    source = run.images.get(fmt, 64 * MIB, 25)
    figures = run.all[name] = Figures()
    for _ in range(3 * run.rounds):
        for driver in run.drivers:
            with File(run.folder, 64 * MIB, fmt) as target, Domain(driver, run.disk(source, fmt)) as domain:
                run.settle(source)
                t = domain.copy(target.xml(), params={'bandwidth': MIB}, ready=False)
                domain.abort()
            figures.add(driver.name, call=t['call'])
    run.table.ratio(name, 'call', figures, WALL)


def pivot_once(run, driver, source, load):
    """The guest boots before the cache is settled: it is alike for both. load:
    bytes that are written to the disk, beside its own, once the copy is ready."""
    region = guest.Region(run.size // 4, min(64 * MIB, run.size // 4))
    console = os.path.join(run.folder, 'console')
    benchlib.remove(console)
    kernel, initrd = guest.build()
    with File(run.folder, run.size, 'raw') as target, guest.Log(console) as log, \
            Domain(driver, run.disk(source, 'raw'), paused=False, memory=guest.MEMORY,
                   os_extra=guest.os_xml(kernel, initrd, region, GUEST_RATE, report=50),
                   devices=guest.serial_file_xml(console)) as domain:
        log.wait_writing()
        run.settle(source)
        domain.copy(target.xml())
        domain.call('hmp', lines=[benchlib.ferrytest.qemu_io('virtio-disk0', f'write -P 7 {run.size // 2 + at} {LOAD_CHUNK}')
                                  for at in range(0, load, LOAD_CHUNK)])
        domain.call('caught_up', disk='vda')
        time.sleep(0 if load else GUEST_SECONDS)
        log.next_report()
        before = len(log.reports)
        t = domain.pivot()
        log.next_report()  # this one still tells about the pivot
        return {'call': t['call'], 'gap': log.longest_gap(before)}


def row_pivot(run, name, share):
    source = run.images.get('raw', run.size, 100)
    figures = run.all[name] = Figures()
    for _ in range(run.rounds):
        for driver in run.drivers:
            figures.add(driver.name, **pivot_once(run, driver, source, int(run.size * share)))
    run.table.ratio(name, 'call', figures, WALL)
    run.table.ratio(name, 'gap', figures, GAP)


def group_once(run, driver, disks, load):
    """Returns the time of all calls, and the sum of the longest gaps of each."""
    size = run.size // len(disks)
    region = guest.Region(size // 4, min(16 * MIB, size // 4))
    console = os.path.join(run.folder, 'console')
    benchlib.remove(console)
    kernel, initrd = guest.build()
    also = f'ferry.also=/dev/{disks[-1]}' if len(disks) > 1 else ''
    with contextlib.ExitStack() as stack:
        sources = list(run.images.of_each(disks, size, 25))
        targets = [stack.enter_context(File(run.folder, size, 'raw', disk)) for disk in disks]
        log = stack.enter_context(guest.Log(console))
        domain = stack.enter_context(Domain(
            driver, [benchlib.ferrytest.disk_xml(d, s, 'raw') for d, s in zip(disks, sources)], paused=False,
            memory=guest.MEMORY, devices=guest.serial_file_xml(console),
            os_extra=guest.os_xml(kernel, initrd, region, GUEST_RATE, report=50, extra=also)))
        log.wait_writing()
        for source in sources:
            run.settle(source)
        for disk, target in zip(disks, targets):
            domain.copy(target.xml(), disk=disk)
        domain.call('hmp', lines=[benchlib.ferrytest.qemu_io(f'virtio-disk{i}', f'write -P 7 {size // 2 + at} {LOAD_CHUNK}')
                                  for i in range(len(disks)) for at in range(0, load // len(disks), LOAD_CHUNK)])
        for disk in disks:
            domain.call('caught_up', disk=disk)
        time.sleep(0 if load else GUEST_SECONDS)
        calls = gaps = 0
        for path in [','.join(disks)] if driver.name == 'ferry' else disks:
            log.next_report()
            before = len(log.reports)
            calls += domain.pivot(path)['call']
            log.next_report()
            gaps += log.longest_gap(before)
        return {'call': calls, 'gap': gaps}


def row_group(run, name, count, share):
    disks = [f'vd{letter}' for letter in 'abcdefgh'[:count]]
    figures = run.all[name] = Figures()
    for _ in range(run.rounds):
        for driver in run.drivers:
            figures.add(driver.name, **group_once(run, driver, disks, int(run.size * share)))
    run.table.ratio(name, 'call', figures, WALL)
    run.table.ratio(name, 'gap', figures, GROUP_GAP if count == 4 else None)


def row_pivot_idle(run, name):
    source = run.images.get('raw', run.size, 100)
    figures = run.all[name] = Figures()
    for _ in range(run.rounds):
        for driver in run.drivers:
            with File(run.folder, run.size, 'raw') as target, Domain(driver, run.disk(source, 'raw')) as domain:
                run.settle(source)
                domain.copy(target.xml())
                t = domain.pivot()
            figures.add(driver.name, call=t['call'])
    run.table.ratio(name, 'call', figures, WALL)


# All of them

def rows():
    for fmt in ('raw', 'qcow2'):
        for percent in (25, 100):
            for kind in DESTINATIONS:
                yield (f'copy-{fmt}-{percent}-{kind}', row_copy, (fmt, percent, kind))
    yield ('call-raw', row_call, ('raw',))
    yield ('call-qcow2', row_call, ('qcow2',))
    yield ('pivot', row_pivot, (0,))
    yield ('pivot-load', row_pivot, (LOAD,))
    yield ('pivot-idle', row_pivot_idle, ())
    for count in (1, 4, 8):
        yield (f'group-{count}', row_group, (count, 0))
        yield (f'group-{count}-load', row_group, (count, LOAD))


def parse():
    p = benchlib.parser('copy', size=4 * GIB, space='16 GiB')
    # A disk of tens of gigabytes is not in the host's page cache, and one that
    # is 4 GiB large stands for it. Also, cold both drivers read the same disk;
    # warm one reads memory and the other, which bypasses the cache, the disk.
    p.add_argument('--cache', choices=('cold', 'warm'), default='cold', help="the source's data in the page cache? (cold)")
    return p.parse_args()


if __name__ == '__main__':
    options = parse()
    sys.exit(benchlib.main(options, rows(), Run, f'source {options.cache}'))
