#!/usr/bin/python3
"""Backup: Ferry against the stock driver on the same QEMU.

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later

Rows
  begin-MODE-N        backup-begin to its return, N empty disks of 64 MiB. pull has
                      qcow2 scratch files and a unix socket, push qcow2 targets;
                      and for a pull, the abort until the domain has no job
  push-FMT            full push of a dense 2 GiB disk to qcow2: wall to the event
                      that the job ended and until there is none, CPU of QEMU,
                      bytes allocated at the target. The limit is qemu-img convert
  push-incremental    the same disk (qcow2), a tenth of it dirty since a checkpoint
  incremental-P       P percent of 1 GiB dirty: wall, bytes that the job says it
                      read, bytes allocated. The limit is what is dirty: cost is
                      proportional when the figures stay with it
  pull-DEST           nbdcopy of the export of a dense 2 GiB disk to a file, or to
                      nowhere. The limit is the same from qemu-nbd
  latency-MODE        a guest writes 4 KiB, synchronously: how long its writes take
                      during a push, or during a pull that nbdcopy reads; median and
                      99th percentile, as QEMU measures them, and the longest time
                      between two writes by the guest's clock. The limit is the
                      same guest before the backup

Each measurement has a QEMU of its own (begin: a few calls in a row), its disks
in the default cache mode (writeback); its guest is paused but for the latency.
What is read was dropped from the page cache before, for both drivers. Domains
are transient but for those that have checkpoints.
"""

import os
import subprocess
import sys
import time

import benchlib
from benchlib import GIB, MIB, Domain, Figures
from benchlib import ferrytest

import guest  # benchlib knows where tests/ is

# Wanted, Ferry/stock. Where QEMU does the work both get the same; a tenth is
# what such measurements scatter.
BEGIN_16 = 0.3
BEGIN = 1.0
SAME = 1.1

CALLS = 3          # per domain, in the begin rows
SMALL = 64 * MIB   # their disks

# One piece that is dirtied. Pieces lie all over the disk.
PIECE = MIB // 4
CHECKPOINT = 'bench'

# qcow2's tables, and what a file system adds for its own bookkeeping
ALLOCATION_SLACK = 4 * MIB

GUEST_RATE = 1000
GUEST_SECONDS = 3

# Upper bounds of the bins that QEMU counts latencies in, ns: 5 % apart
BINS = [round(10000 * 1.05 ** i) for i in range(284)]


class Run:
    """What all rows are given."""

    def __init__(self, options, folder, drivers, table):
        self.folder = folder
        self.drivers = drivers
        self.table = table
        self.images = benchlib.Images(folder)
        self.size = 256 * MIB if options.quick else options.size * MIB
        self.small = 128 * MIB if options.quick else GIB
        self.rounds = options.rounds
        self.limit = not options.no_limit
        self.all = {}

    def path(self, name):
        return os.path.join(self.folder, name)

    def figures(self, row):
        return self.all.setdefault(row, Figures())

    def turns(self):
        for _ in range(self.rounds):
            yield from self.drivers


# Documents

def backup_xml(run, mode, targets, incremental=None):
    """targets: what of each disk is a qcow2 file of the same name"""
    what = 'scratch' if mode == 'pull' else 'target'
    disks = ''.join(f"<disk name='{t}' type='file'><driver type='qcow2'/>"
                    f"<{what} file='{run.path(mode + '-' + t)}'/></disk>" for t in targets)
    server = f"<server transport='unix' socket='{run.path('sock')}'/>" if mode == 'pull' else ''
    since = f'<incremental>{incremental}</incremental>' if incremental else ''
    return f"<domainbackup mode='{mode}'>{since}{server}<disks>{disks}</disks></domainbackup>"


def clean(run, mode, targets=('vda',)):
    for t in targets:
        benchlib.remove(run.path(f'{mode}-{t}'))
    benchlib.remove(run.path('sock'))


# Calls

def begin_once(run, driver, mode, count, figures):
    targets = [f'vd{chr(ord("a") + i)}' for i in range(count)]
    xml = backup_xml(run, mode, targets)
    disks = []
    for t in targets:
        path = run.path(f'empty-{t}')
        if not os.path.exists(path):
            ferrytest.create_image(path, SMALL)
        disks.append(ferrytest.disk_xml(t, path))
    with Domain(driver, disks) as domain:
        for _ in range(CALLS):
            clean(run, mode, targets)
            os.sync()
            figures.add(driver.name, call=domain.begin(xml)['call'])
            if mode == 'pull':
                figures.add(driver.name, **{'abort-call': domain.call('abort_job')})
            else:
                domain.call('end')
    clean(run, mode, targets)


def row_begin(run, name, mode, count):
    figures = run.figures(name)
    for driver in run.turns():
        begin_once(run, driver, mode, count, figures)
    run.table.ratio(name, 'call', figures, BEGIN_16 if count == 16 else BEGIN)
    if mode == 'pull':
        run.table.ratio(name, 'abort-call', figures, BEGIN)


# Push

def dirty(domain, size, percent):
    """The guest writes to so much of its disk, in pieces all over it. Returns
    how much that is."""
    device = ferrytest.frontend('virtio-disk0')
    step = PIECE * 100 // percent
    places = range(0, size - PIECE + 1, step - step % 65536)
    # one flush in a while: QEMU has no more requests in flight than that
    lines = []
    for i, at in enumerate(places):
        lines.append(f'qemu-io -d {device} "aio_write -P {i % 255 + 1} {at} {PIECE}"')
        if i % 32 == 31:
            lines.append(f'qemu-io -d {device} aio_flush')
    domain.call('hmp', lines=lines + [f'qemu-io -d {device} aio_flush', f'qemu-io -d {device} flush'])
    return len(places) * PIECE


def push_once(run, driver, fmt, source, size, percent=None):
    """percent: how much is dirty; without, the backup is a full one"""
    clean(run, 'push')
    target = run.path('push-vda')
    out = {}
    with Domain(driver, ferrytest.disk_xml('vda', source, fmt), persistent=percent is not None) as domain:
        if percent is not None:
            domain.call('checkpoint', xml=f'<domaincheckpoint><name>{CHECKPOINT}</name></domaincheckpoint>')
        try:
            if percent is not None:
                out['dirty'] = dirty(domain, size, percent)
            benchlib.settle(source, 'cold')
            t = domain.begin(backup_xml(run, 'push', ['vda'], CHECKPOINT if percent is not None else None), wait=True)
        finally:
            if percent is not None:  # or its bitmap stays in the image
                domain.call('checkpoint_delete', checkpoint=CHECKPOINT)
    out.update(wall=t['wall'], event=t['event'], call=t['call'], cpu=t['cpu'], transferred=t['stats']['disk_processed'],
               allocated=ferrytest.allocated(target))
    clean(run, 'push')
    return out


def push_limit(run, figures, source, fmt):
    """qemu-img's best: three ways, three times each."""
    best = {}
    for options in benchlib.CONVERT:
        one = Figures()
        for _ in range(min(3, run.rounds)):
            with benchlib.File(run.folder, run.size, 'qcow2') as target:
                benchlib.settle(source, 'cold')
                wall, cpu = benchlib.convert(source, fmt, target, options)
                one.add('limit', wall=wall, cpu=cpu)
        for figure in ('wall', 'cpu'):
            best[figure] = min(best.get(figure, 1e9), one.median('limit', figure))
    figures.add('limit', **best)


def row_push(run, name, fmt):
    source = run.images.get(fmt, run.size, 100)
    figures = run.figures(name)
    for driver in run.turns():
        figures.add(driver.name, **push_once(run, driver, fmt, source, run.size))
    if run.limit:
        push_limit(run, figures, source, fmt)
    run.table.ratio(name, 'wall', figures, SAME)
    run.table.ratio(name, 'cpu', figures, SAME)
    run.table.bound(name, 'allocated', figures, run.size, ALLOCATION_SLACK, 'source')


def row_incremental(run, name, large, percent):
    size = run.size if large else run.small
    source = run.images.get('qcow2', size, 100)
    figures = run.figures(name)
    for driver in run.turns():
        figures.add(driver.name, **push_once(run, driver, 'qcow2', source, size, percent))
    run.table.ratio(name, 'wall', figures, SAME)
    run.table.ratio(name, 'cpu', figures)
    much = figures.median('ferry', 'dirty')
    run.table.bound(name, 'transferred', figures, much, 0, 'dirty')
    run.table.bound(name, 'allocated', figures, much, ALLOCATION_SLACK, 'dirty')


# Pull

def nbdcopy(run, uri, destination):
    """Returns the seconds that reading all of an export took."""
    benchlib.remove(run.path('read'))
    try:
        return benchlib.timed('nbdcopy', uri, run.path('read') if destination == 'file' else 'null:')[0]
    finally:
        benchlib.remove(run.path('read'))


def export(run, name):
    return f'nbd+unix:///{name}?socket={run.path("sock")}'


def pull_once(run, driver, source, destination):
    clean(run, 'pull')
    with Domain(driver, ferrytest.disk_xml('vda', source, 'qcow2')) as domain:
        benchlib.settle(source, 'cold')
        domain.begin(backup_xml(run, 'pull', ['vda']))
        wall = nbdcopy(run, export(run, 'vda'), destination)
        domain.call('abort_job')
    clean(run, 'pull')
    return wall


def pull_limit(run, source, destination):
    benchlib.remove(run.path('sock'))
    benchlib.settle(source, 'cold')
    # -e: nbdcopy connects more than once; it ends with the last of them
    server = subprocess.Popen(['qemu-nbd', '-r', '-f', 'qcow2', '-e', '16', '-x', 'vda', '-k', run.path('sock'), '-t',
                               source], stdin=subprocess.DEVNULL)
    try:
        ferrytest.wait_for(lambda: os.path.exists(run.path('sock')), 10, 0.02, 'qemu-nbd')
        return nbdcopy(run, export(run, 'vda'), destination)
    finally:
        server.terminate()
        server.wait(60)
        benchlib.remove(run.path('sock'))


def row_pull(run, name, destination):
    source = run.images.get('qcow2', run.size, 100)
    figures = run.figures(name)
    for driver in run.turns():
        figures.add(driver.name, wall=pull_once(run, driver, source, destination))
    for _ in range(min(3, run.rounds) if run.limit else 0):
        figures.add('limit', wall=pull_limit(run, source, destination))
    run.table.ratio(name, 'wall', figures, SAME)


# Latency

class Latency:
    """QEMU's histogram of how long the writes of a disk's guest took."""

    def __init__(self, domain):
        self.domain = domain
        self.device = ferrytest.frontend('virtio-disk0')

    def start(self):
        """Counts from now on."""
        self.domain.call('qmp', command='block-latency-histogram-set',
                         arguments={'id': self.device, 'boundaries-write': BINS})

    def read(self):
        """Returns how many writes there were, and two quantiles in seconds."""
        stats, = (s['stats'] for s in self.domain.call('qmp', command='query-blockstats')
                  if s.get('qdev') == self.device)
        bins = stats['wr_latency_histogram']['bins']
        if sum(bins) == 0:
            raise benchlib.Bench('the guest wrote nothing meanwhile')
        return {'writes': sum(bins), 'write-50': self.quantile(bins, 0.5), 'write-99': self.quantile(bins, 0.99)}

    @staticmethod
    def quantile(bins, q):
        left = q * sum(bins)
        for i, count in enumerate(bins):
            if left <= count:
                low = BINS[i - 1] if i > 0 else 0
                high = BINS[i] if i < len(BINS) else low
                return (low + (high - low) * left / count) / 1e9
            left -= count
        return BINS[-1] / 1e9


def latency_once(run, driver, mode, source, figures):
    """The guest boots before the cache is settled: it is alike for both."""
    clean(run, mode)
    region = guest.Region(run.size // 4, min(64 * MIB, run.size // 4))
    console = run.path('console')
    benchlib.remove(console)
    kernel, initrd = guest.build()
    with guest.Log(console) as log, \
            Domain(driver, ferrytest.disk_xml('vda', source, 'qcow2'), paused=False, memory=guest.MEMORY,
                   os_extra=guest.os_xml(kernel, initrd, region, GUEST_RATE, report=50),
                   devices=guest.serial_file_xml(console)) as domain:
        log.wait_writing()
        benchlib.settle(source, 'cold')
        latency = Latency(domain)

        latency.start()
        log.next_report()
        before = len(log.reports)
        time.sleep(GUEST_SECONDS)
        figures.add('limit', **latency.read(), gap=log.longest_gap(before))

        log.next_report()
        before = len(log.reports)
        latency.start()
        start = time.monotonic()
        domain.begin(backup_xml(run, mode, ['vda']), wait=mode == 'push')
        if mode == 'pull':
            nbdcopy(run, export(run, 'vda'), 'null')
        wall = time.monotonic() - start
        found = latency.read()
        log.next_report()  # this one still tells about the end
        figures.add(driver.name, **found, gap=log.longest_gap(before), wall=wall)
        if mode == 'pull':
            domain.call('abort_job')
    clean(run, mode)


def row_latency(run, name, mode):
    # the guest changes it, but it stays as dense as it is
    source = run.images.get('qcow2', run.size, 100)
    figures = run.figures(name)
    for driver in run.turns():
        latency_once(run, driver, mode, source, figures)
    for figure in ('write-50', 'write-99', 'gap'):
        run.table.ratio(name, figure, figures, SAME if figure != 'gap' else None)
    run.table.ratio(name, 'wall', figures)


# All of them

def rows():
    for mode in ('pull', 'push'):
        for count in (1, 4, 16):
            yield (f'begin-{mode}-{count}', row_begin, (mode, count))
    for fmt in ('raw', 'qcow2'):
        yield (f'push-{fmt}', row_push, (fmt,))
    yield ('push-incremental', row_incremental, (True, 10))
    for percent in (1, 10, 50):
        yield (f'incremental-{percent}', row_incremental, (False, percent))
    for destination in ('null', 'file'):
        yield (f'pull-{destination}', row_pull, (destination,))
    for mode in ('pull', 'push'):
        yield (f'latency-{mode}', row_latency, (mode,))


if __name__ == '__main__':
    sys.exit(benchlib.main(benchlib.parser('backup', size=2 * GIB, space='10 GiB').parse_args(), rows(), Run,
                           'sources cold'))
