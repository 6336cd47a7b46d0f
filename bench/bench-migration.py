#!/usr/bin/python3
"""Storage migration between two hosts: Ferry on both against the stock driver on
both, with the same QEMU.

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later

Rows
  disks-N-idle      N dense raw disks, 2 GiB together, over TCP; the guest is only its
                    firmware
  disks-N-writing   the same, but a guest writes to the first disk all the time
  dirty             one disk; as soon as its mirror is READY a quarter of it is
                    written, before the memory is moved: what the drivers must still
                    copy when the time has come to switch over
  disks-1-unix      one disk over a unix socket (--disks-uri), the memory over TCP

Figures
  total             the migrate call to its return
  downtime          the guest's CPUs stopped at the source until they run at the
                    destination: STOP and RESUME, by QEMU's own time stamps
  cpu               of both QEMUs, from the call to its return
  gap               the longest time between two writes of the guest, by its clock,
                    which stops with its CPUs: the downtime comes on top

Below each row, where the time goes, as QEMU's events tell: to the first mirror's
begin (the destination's QEMU starts), until all are READY, until the guest is
stopped (its memory), while it is stopped, and from there to the call's return.

The hosts are libvirtd's in namespaces of their own (tests/twohosts.py), their cable
is a veth pair: what a fast network does. The destination has empty images, because
the stock driver creates none. Sources are the same files for both drivers, and were
dropped from the page cache (--cache warm: are all in it). What the first round of
each driver and row copied is compared: who copies nothing is fast.
"""

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time

import libvirt

import benchlib
from benchlib import DRIVERS, GIB, MIB, Bench, Figures, ferrytest

import guest  # benchlib knows where tests/ is
from twohosts import Pair

NAME = 'bench'
FLAGS = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_NON_SHARED_DISK | libvirt.VIR_MIGRATE_UNSAFE
MEMORY = 32  # MiB, of a guest that has no system

# Wanted, Ferry/stock
TOTAL_TCP = 0.65
TOTAL_UNIX = 1.0
DOWNTIME = 0.5

# The guest of the writing rows: it writes synchronously, so its rate is what it
# gets at most.
GUEST_RATE = 1000

# What is written to the disk of the dirty row, as a share of it. In one piece: QEMU
# does nothing else meanwhile, so it is there before the memory begins to move.
LOAD = 0.25

LONGEST = 900    # seconds, for one migration
SAMPLE = 0.02    # seconds between two looks at what CPU time a QEMU used
TICK = os.sysconf('SC_CLK_TCK')
PHASES = ('begin', 'copy', 'memory', 'stopped', 'end')


class Watch:
    """QMP of one QEMU, in a thread of its own: its events, and the CPU time that it
    used, known even when it is gone. A monitor has only one client at a time, so
    this one also takes commands."""

    def __init__(self, path, born=False):
        """born: QEMU is not there yet"""
        self.path = path
        self.events = []   # (time, name, data)
        self.cpu = 0.0
        self.change = threading.Condition()
        self.replies = []
        self.over = False
        self.socket = None
        if not born:
            self._connect()
        self.thread = threading.Thread(target=self._follow, daemon=True)
        self.thread.start()

    def _connect(self):
        # its listener is there before it can answer, but not before the path
        ours = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            ours.connect(self.path)
        except OSError:
            ours.close()
            raise
        # the one that listens is QEMU itself
        self.pid, = struct.unpack('i8x', ours.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        ours.settimeout(SAMPLE)
        self.socket = ours
        self._send('qmp_capabilities', {})

    def _send(self, command, arguments):
        self.socket.sendall(json.dumps({'execute': command, 'arguments': arguments}).encode() + b'\n')

    def _follow(self):
        while not self.socket and not self.over:
            try:
                self._connect()
            except OSError:
                time.sleep(0.005)
        rest = b''
        while not self.over:
            self._sample()
            try:
                data = self.socket.recv(65536)
                if not data:
                    break
            except TimeoutError:
                continue
            except OSError:
                break
            *lines, rest = (rest + data).split(b'\n')
            with self.change:
                for line in lines:
                    self._line(json.loads(line))
                self.change.notify_all()
        with self.change:
            self.over = True
            self.change.notify_all()

    def _sample(self):
        with contextlib.suppress(OSError), open(f'/proc/{self.pid}/stat') as f:
            fields = f.read().rsplit(')', 1)[1].split()
            # a zombie's, too
            self.cpu = (int(fields[11]) + int(fields[12])) / TICK

    def _line(self, line):
        if 'event' in line:
            stamp = line['timestamp']
            self.events.append((stamp['seconds'] + stamp['microseconds'] / 1e6, line['event'], line.get('data', {})))
        elif 'QMP' not in line:
            self.replies.append(line)

    def hmp(self, command, seconds=120):
        """Returns when it was done."""
        with self.change:
            count = max(len(self.replies), 1)  # the first is that of qmp_capabilities
            self._send('human-monitor-command', {'command-line': command})
            if not self.change.wait_for(lambda: len(self.replies) > count or self.over, seconds):
                raise Bench(f'QEMU does not answer: {command}')
            if self.over or 'error' in self.replies[count]:
                raise Bench(f'{command}: {"QEMU is gone" if self.over else self.replies[count]}')
        return time.time()

    def when(self, name, **data):
        """When an event came first, or None."""
        for at, event, its in self.events:
            if event == name and data.items() <= its.items():
                return at
        return None

    def all_ready(self, count):
        """When the last of so many mirrors became READY, or None."""
        first = {}
        for at, event, data in self.events:
            if event == 'JOB_STATUS_CHANGE' and data['status'] == 'ready':
                first.setdefault(data['id'], at)
        return max(first.values()) if len(first) == count else None

    def wait_ready(self, count, over):
        """Until all are READY. over: has it ended otherwise?"""
        with self.change:
            while not self.all_ready(count):
                if self.over or over():
                    raise Bench('the migration ended before its mirrors were ready')
                self.change.wait(0.5)

    def close(self):
        self.over = True
        self.thread.join(5)
        if self.socket:
            self.socket.close()


class Pairs:
    """A pair of hosts for each driver, as a context manager."""

    def __init__(self, folder):
        # all that the hosts have goes with the folder, and an image can have a name in each
        os.environ['FERRY_TMP'] = folder
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        with self.stack:
            pairs = []
            for name in DRIVERS:
                pairs.append(Pair(name, name))
                self.stack.callback(pairs[-1].close)
            self.stack = self.stack.pop_all()
        return pairs

    def __exit__(self, *exc):
        return self.stack.__exit__(*exc)


class Run:
    """What all rows are given."""

    def __init__(self, options, folder, pairs, table):
        self.folder = folder
        self.pairs = pairs
        self.table = table
        self.size = 256 * MIB if options.quick else options.size * MIB
        self.rounds, self.cache = options.rounds, options.cache
        self.all = {}

    def sources(self, count):
        """Dense raw images, as large as asked for together, made when first asked
        for."""
        size = self.size // count // MIB * MIB
        paths = [os.path.join(self.folder, f'source-{count}-{i}.raw') for i in range(count)]
        for path in paths:
            if not os.path.exists(path):
                benchlib.make_raw(path, size, 100)
        return paths, size


class Scene:
    """The disks of one measurement at both hosts; as a context manager."""

    def __init__(self, run, pair, count):
        self.pair, self.cache = pair, run.cache
        self.sources, self.size = run.sources(count)
        self.targets = [f'vd{chr(ord("a") + i)}' for i in range(count)]

    def here(self, target):
        return os.path.join(self.pair.a.dir, 'images', f'{target}.raw')

    def there(self, target):
        return os.path.join(self.pair.b.dir, 'images', f'{target}.raw')

    def __enter__(self):
        for source, target in zip(self.sources, self.targets):
            os.link(source, self.here(target))
            with open(self.there(target), 'wb') as f:
                f.truncate(self.size)
        return self

    def __exit__(self, *exc):
        if exc[0] is not None:
            return  # the hosts go anyway
        for machine in self.pair.machines:
            if machine.domains().get(NAME):
                machine.call(NAME, 'destroy')
            ferrytest.wait_for(lambda: not machine.qemu_pids(), 20, 0.05, f'the end of QEMU on {machine.name}')
            benchlib.remove(machine.monitor_path(NAME))
        for target in self.targets:
            benchlib.remove(self.here(target))
            benchlib.remove(self.there(target))

    def disks(self):
        return [ferrytest.disk_xml(t, self.pair.image(f'{t}.raw'), 'raw') for t in self.targets]

    def settle(self):
        for source in self.sources:
            benchlib.settle(source, self.cache)

    def compare(self, target, skip=0):
        """Fails unless both hosts' images are the same, from an offset on."""
        p = subprocess.run(['qemu-img', 'compare', '-q', '-f', 'raw', '-F', 'raw',
                            *(guest.part_of(path, 'raw', skip, self.size - skip)
                              for path in (self.here(target), self.there(target)))],
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if p.returncode != 0:
            raise Bench(f'{self.pair.drivers[0]}: {target} is not the same at the destination {p.stdout.strip()}')


# One migration

def migrate(scene, params, load=0):
    """Returns its figures. load: bytes that are written once the mirrors are READY."""
    pair, count = scene.pair, len(scene.targets)
    source = Watch(pair.a.monitor_path(NAME))
    destination = Watch(pair.b.monitor_path(NAME), born=True)
    ended = []
    try:
        time.sleep(3 * SAMPLE)
        cpu = source.cpu
        start = time.time()
        job = pair.a.client.begin(NAME, 'migrate3', {'open': pair.b.uri}, params, FLAGS)
        job.add_done_callback(lambda _: ended.append(time.time()))
        written = 0
        if load:
            source.wait_ready(count, job.done)
            written = source.hmp(ferrytest.qemu_io('virtio-disk0', f'write -P 7 {scene.size // 2} {load}'))
        job.result(LONGEST)
        time.sleep(3 * SAMPLE)
        begun, ready = source.when('JOB_STATUS_CHANGE', status='running'), source.all_ready(count)
        stop, resume = source.when('STOP'), destination.when('RESUME')
        if not all((begun, ready, stop, resume)):
            raise Bench(f'QEMU did not say all: {begun} {ready} {stop} {resume}')
        if written > stop:
            raise Bench('the guest was stopped before its disk was written to')
        moments = start, begun, ready, stop, resume, ended[0]
        return {'total': ended[0] - start, 'downtime': resume - stop,
                'cpu': source.cpu - cpu + destination.cpu,
                **{phase: b - a for phase, a, b in zip(PHASES, moments, moments[1:])}}
    finally:
        source.close()
        destination.close()


def idle_once(run, pair, count, params, load, check):
    with Scene(run, pair, count) as scene:
        pair.a.call(None, 'createXML', pair.domain(NAME, scene.disks(), memory=MEMORY), 0)
        time.sleep(1)  # the firmware has looked for a system
        scene.settle()
        figures = migrate(scene, params, int(scene.size * load))
        pair.b.call(NAME, 'destroy')
        for target in scene.targets if check else ():
            scene.compare(target)
        return figures


def writing_once(run, pair, count, check):
    """The guest boots before the cache is settled: it is alike for both."""
    console = os.path.join(pair.shared, 'console')
    benchlib.remove(console)
    kernel, initrd = guest.build()
    with Scene(run, pair, count) as scene:
        region = guest.Region(0, min(64 * MIB, scene.size // 4))
        # what was written in the last round does not belong to this one
        with open(scene.here('vda'), 'r+b') as f:
            for _ in range(0, region.size, MIB):
                f.write(bytes(MIB))
        xml = pair.domain(NAME, scene.disks(), memory=guest.MEMORY,
                          os_extra=guest.os_xml(kernel, initrd, region, GUEST_RATE, report=50),
                          devices=guest.serial_file_xml(console))
        with guest.Log(console) as log:
            pair.a.call(None, 'createXML', xml, 0)
            log.wait_writing()
            scene.settle()
            log.next_report()
            before = len(log.reports)
            figures = migrate(scene, {})
            log.next_report()  # this one still tells about the switchover
            figures['gap'] = log.longest_gap(before)
            pair.b.call(NAME, 'destroy')
        if check:
            guest.verify(scene.there('vda'), 'raw', log.acknowledged(), region)
            for i, target in enumerate(scene.targets):
                scene.compare(target, skip=region.size if i == 0 else 0)
        return figures


# Rows

def measure(run, name, once, target):
    """once: function of a pair, and whether to look at what was copied"""
    figures = run.all[name] = Figures()
    for i in range(run.rounds):
        for pair in run.pairs:
            figures.add(pair.drivers[0], **once(pair, i == 0))
    run.table.ratio(name, 'total', figures, target)
    run.table.ratio(name, 'downtime', figures, DOWNTIME)
    run.table.ratio(name, 'cpu', figures)
    if figures.median('ferry', 'gap') is not None:
        run.table.ratio(name, 'gap', figures)
    for who in DRIVERS:
        spent = ', '.join(f'{phase} {figures.median(who, phase):.3f}' for phase in PHASES)
        print(f'    {who}: {spent} s', flush=True)


def row_idle(run, name, count, load=0):
    measure(run, name, lambda pair, check: idle_once(run, pair, count, {}, load, check), TOTAL_TCP)


def row_writing(run, name, count):
    measure(run, name, lambda pair, check: writing_once(run, pair, count, check), TOTAL_TCP)


def row_unix(run, name, count):
    measure(run, name, lambda pair, check: idle_once(
        run, pair, count, {'disks_uri': f'unix://{pair.shared}/nbd.sock'}, 0, check), TOTAL_UNIX)


def rows():
    for count in (1, 4, 8):
        yield (f'disks-{count}-idle', row_idle, (count,))
    for count in (1, 4):
        yield (f'disks-{count}-writing', row_writing, (count,))
    yield ('dirty', row_idle, (1, LOAD))
    yield ('disks-1-unix', row_unix, (1,))


def parse():
    p = benchlib.parser('migration', size=2 * GIB, space='9 GiB')
    # As in bench-copy. Where the host's disk is what limits a copy, warm shows the drivers instead.
    p.add_argument('--cache', choices=('cold', 'warm'), default='cold',
                   help="the sources' data in the page cache? (cold)")
    return p.parse_args()


if __name__ == '__main__':
    options = parse()
    if os.geteuid() != 0:
        sys.exit('two hosts need namespaces: run this as root')
    sys.exit(benchlib.main(options, rows(), Run, f'sources {options.cache}, destinations empty', Pairs))
