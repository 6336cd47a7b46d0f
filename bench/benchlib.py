"""What benchmarks share: the two drivers, images, NBD servers, the limit, and
the table.

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later

Stock and Ferry run on the same QEMU in one run, turn by turn, and their
medians are compared: a machine that is slower today is slower for both.
"""

import argparse
import fnmatch
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'tests'))
import ferrytest  # noqa: E402

MIB = 1024 * 1024
GIB = 1024 * MIB
DRIVERS = ('stock', 'ferry')


class Bench(Exception):
    """A measurement failed."""


# Drivers

class Driver:
    """A driver that stays in a child process (child.py), and its domains."""

    def __init__(self, name):
        self.name = name
        self.host = ferrytest.Host(name)
        child = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'child.py')
        self.child = subprocess.Popen(['/usr/bin/python3', child, self.host.uri], env=self.host.env,
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._reply()

    def _reply(self):
        line = self.child.stdout.readline()
        if not line:
            raise Bench(f'{self.name} driver ended: {self.child.wait()}')
        reply = json.loads(line)
        if 'error' in reply:
            raise Bench(f'{self.name}: {reply["error"]}')
        return reply['result']

    def call(self, what, /, **args):
        self.child.stdin.write(json.dumps({'call': what, 'args': args}) + '\n')
        self.child.stdin.flush()
        return self._reply()

    def qemu(self):
        """The one QEMU that runs."""
        pids = self.host.qemu_pids()
        if len(pids) != 1:
            raise Bench(f'{self.name}: {len(pids)} QEMUs')
        return pids[0]

    def close(self):
        self.child.stdin.close()
        try:
            self.child.wait(20)
        except subprocess.TimeoutExpired:
            self.child.kill()
        self.host.close()


class Drivers:
    """Both, as a context manager."""

    def __enter__(self):
        self.all = []
        try:
            for name in DRIVERS:
                self.all.append(Driver(name))
        except BaseException:
            self.__exit__()
            raise
        return self.all

    def __exit__(self, *exc):
        for driver in self.all:
            driver.close()


class Domain:
    """A domain for one measurement, or a few. Transient unless told otherwise.
    disks: the element of one, or a list of them"""

    def __init__(self, driver, disks, paused=True, persistent=False, **more):
        self.driver = driver
        self.name = f'bench-{driver.name}'
        xml = ferrytest.domain_xml(self.name, [disks] if isinstance(disks, str) else disks, **more)
        driver.call('start', xml=xml, paused=paused, persistent=persistent)
        # a QEMU that still maps its firmware would be timed with the copy
        time.sleep(0.3)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        try:
            self.driver.call('destroy', name=self.name)
        except Bench:
            if exc[0] is None:
                raise

    def copy(self, target, params=None, flags=0, ready=True, disk='vda'):
        return self.driver.call('copy', name=self.name, disk=disk, xml=target, flags=flags,
                                params=params or {}, qemu=self.driver.qemu(), ready=ready)

    def pivot(self, disk='vda'):
        """disk: with Ferry also several, separated by commas"""
        return self.driver.call('pivot', name=self.name, disk=disk)

    def abort(self):
        self.driver.call('abort', name=self.name, disk='vda')

    def begin(self, xml, **more):
        return self.driver.call('begin', name=self.name, xml=xml, qemu=self.driver.qemu(), **more)

    def call(self, what, /, **args):
        return self.driver.call(what, name=self.name, **args)


# Images

def make_raw(path, size, percent):
    """A raw image with so much data, in pieces all over it, and holes between
    them. The data are random, and the same every 64 MiB."""
    data = os.urandom(64 * MIB)
    piece = 4 * MIB
    with open(path, 'wb') as f:
        f.truncate(size)
        if percent == 100:
            for _ in range(0, size, len(data)):
                f.write(data)
        else:
            for i in range(0, size // piece):
                if i * percent // 100 != (i + 1) * percent // 100:
                    f.seek(i * piece)
                    f.write(data[(i * piece) % len(data):][:piece])
        f.truncate(size)
        f.flush()
        os.fsync(f.fileno())
    return path


class Images:
    """Source images, made when first asked for, once a run."""

    def __init__(self, folder):
        self.folder = folder

    def get(self, fmt, size, percent):
        path = os.path.join(self.folder, f'source-{size // MIB}-{percent}.{fmt}')
        if os.path.exists(path):
            return path
        if fmt == 'raw':
            return make_raw(path, size, percent)
        ferrytest.run('qemu-img', 'convert', '-W', '-t', 'none', '-O', fmt, '-f', 'raw',
                      self.get('raw', size, percent), path, timeout=600)
        return path

    def of_each(self, disks, size, percent):
        """A raw image for each disk of a domain, all alike."""
        first = self.get('raw', size, percent)
        for disk in disks:
            path = os.path.join(self.folder, f'source-{disk}.raw')
            ferrytest.run('cp', '--sparse=always', first, path)
            yield path


def settle(source, cache):
    """The same start for every measurement: nothing left to write, and the
    source's data out of the page cache (cold), or in it (warm)."""
    os.sync()
    with open(source, 'rb', buffering=0) as f:
        if cache == 'cold':
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        else:
            while f.read(MIB):
                pass


def remove(path):
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


# Destinations: each is a context manager around a fresh target

class File:
    """A file that the driver creates."""
    kind = 'file'

    def __init__(self, folder, size, fmt, name='target'):
        self.path = os.path.join(folder, f'{name}.{fmt}')
        self.fmt = fmt
        self.size = size

    def __enter__(self):
        remove(self.path)
        return self

    def __exit__(self, *exc):
        remove(self.path)

    def xml(self):
        return (f"<disk type='file'><driver name='qemu' type='{self.fmt}'/>"
                f"<source file='{self.path}'/></disk>")

    def uri(self):
        return self.path


class Nbd:
    """A sparse raw file behind a qemu-nbd of its own. It must be there before
    the copy, since NBD creates nothing; --discard=unmap as any server that
    does not want its images blown up."""
    fmt = 'raw'

    def __init__(self, folder, size, _fmt):
        self.path = os.path.join(folder, 'target.nbd')
        self.size = size
        self.server = None

    def __enter__(self):
        remove(self.path)
        with open(self.path, 'wb') as f:
            f.truncate(self.size)
        self.server = subprocess.Popen(['qemu-nbd', '-t', '-f', 'raw', '--discard=unmap',
                                        *self.listen(), self.path], stdin=subprocess.DEVNULL)
        try:
            ferrytest.wait_for(self.listens, 10, 0.02, 'qemu-nbd')
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc):
        self.server.terminate()
        try:
            self.server.wait(60)
        except subprocess.TimeoutExpired:
            self.server.kill()
            self.server.wait()
        remove(self.path)


class NbdUnix(Nbd):
    kind = 'nbd-unix'

    def __init__(self, folder, size, fmt):
        super().__init__(folder, size, fmt)
        self.socket = os.path.join(folder, 'nbd.sock')

    def listen(self):
        remove(self.socket)
        return ['-k', self.socket]

    def listens(self):
        return os.path.exists(self.socket)

    def xml(self):
        return ("<disk type='network'><driver name='qemu' type='raw'/><source protocol='nbd'>"
                f"<host transport='unix' socket='{self.socket}'/></source></disk>")

    def uri(self):
        return f'nbd+unix:///?socket={self.socket}'


class NbdTcp(Nbd):
    kind = 'nbd-tcp'
    port = 0

    def listen(self):
        # a free one: two runs, or a server of somebody else, may be there
        with socket.create_server(('127.0.0.1', 0)) as s:
            self.port = s.getsockname()[1]
        return ['-b', '127.0.0.1', '-p', str(self.port)]

    def listens(self):
        """Not by connecting: without -e the first client is the only one."""
        with open('/proc/net/tcp') as f:
            return any(line.split()[1].endswith(f':{self.port:04X}') and line.split()[3] == '0A'
                       for line in f.readlines()[1:])

    def xml(self):
        return ("<disk type='network'><driver name='qemu' type='raw'/><source protocol='nbd'>"
                f"<host name='127.0.0.1' port='{self.port}'/></source></disk>")

    def uri(self):
        return f'nbd://127.0.0.1:{self.port}'


# The limit

def timed(*args, env=None):
    """Runs a command. Returns wall and CPU seconds."""
    start = time.monotonic()
    p = subprocess.Popen(args, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(p.pid, 0)
    wall = time.monotonic() - start
    p.returncode = os.waitstatus_to_exitcode(status)
    if p.returncode != 0:
        raise Bench(f'{" ".join(args)}: exit {p.returncode}')
    return wall, usage.ru_utime + usage.ru_stime


# Ways to convert, of which the best counts, wall and CPU each for itself.
CONVERT = (
    ('-W', '-m', '16', '-t', 'none', '-T', 'none'),
    ('-W', '-m', '16', '-t', 'writeback', '-T', 'none'),
    ('-W', '-m', '16', '-t', 'none', '-T', 'writeback'),
)


def convert(source, fmt, target, options):
    """Copies with qemu-img as the mirror would: into a fresh target."""
    args = ['qemu-img', 'convert', *options, '-f', fmt, '-O', target.fmt]
    if isinstance(target, Nbd):
        args += ['-n', '--target-is-zero']
    return timed(*args, source, target.uri())


# Figures

class Figures:
    """Samples of one row: driver -> figure -> list."""

    def __init__(self):
        self.samples = {}

    def add(self, who, **figures):
        for figure, value in figures.items():
            self.samples.setdefault(who, {}).setdefault(figure, []).append(value)

    def median(self, who, figure):
        values = self.samples.get(who, {}).get(figure)
        return statistics.median(values) if values else None

    def spread(self, who, figure):
        values = self.samples[who][figure]
        return f'{min(values):.4g}..{max(values):.4g}'


def show(value, figure):
    if value is None:
        return '-'
    if figure in ('allocated', 'transferred'):
        return f'{value / MIB:.0f} MiB'
    if 'write' in figure:
        return f'{value * 1000:.3f} ms'
    if 'gap' in figure or 'call' in figure or figure == 'downtime':
        return f'{value * 1000:.1f} ms'
    return f'{value:.2f} s'


class Table:
    """Prints the rows as they come; knows whether a target was missed."""
    columns = (24, 12, 11, 11, 7, 8, 5, 11)

    def __init__(self):
        self.missed = []
        self.line('row', 'figure', 'stock', 'Ferry', 'ratio', 'target', '', 'limit')

    def line(self, *cells):
        print(' '.join(f'{c:<{w}}' if i < 2 else f'{c:>{w}}'
                       for i, (c, w) in enumerate(zip(cells, self.columns))).rstrip(), flush=True)

    def ratio(self, row, figure, figures, target=None):
        """A figure that is compared with the stock driver's."""
        stock, ferry, limit = (figures.median(who, figure) for who in (*DRIVERS, 'limit'))
        ratio = ferry / stock if stock else None
        verdict = '' if target is None or ratio is None else 'ok' if ratio <= target else 'MISS'
        self.put(row, figure, stock, ferry, limit, ratio, f'<={target:.2f}' if target else '', verdict)

    def bound(self, row, figure, figures, most, slack, text):
        """A figure that must not be above a value."""
        stock, ferry = (figures.median(who, figure) for who in DRIVERS)
        self.put(row, figure, stock, ferry, most, ferry / stock if stock else None, text,
                 'ok' if ferry <= most + slack else 'MISS')

    def put(self, row, figure, stock, ferry, limit, ratio, target, verdict):
        if verdict == 'MISS':
            self.missed.append(f'{row} {figure}')
        self.line(row, figure, show(stock, figure), show(ferry, figure),
                  '-' if ratio is None else f'{ratio:.2f}', target, verdict, show(limit, figure))


# The folder that everything is in

class Folder:
    def __init__(self, where):
        self.where = where

    def __enter__(self):
        self.path = tempfile.mkdtemp(prefix='ferry-bench-', dir=self.where)
        # an interrupted run must not leave gigabytes
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        return self.path

    def __exit__(self, *exc):
        shutil.rmtree(self.path, ignore_errors=True)


# What all benchmarks are

def parser(name, size, space):
    """size: of the large disk, in bytes; space: what the folder must have."""
    p = argparse.ArgumentParser(prog=f'./ferry bench {name}', description='Compares Ferry with the stock driver.')
    p.add_argument('--rounds', type=int, default=5, help='measurements of each driver and row (5)')
    p.add_argument('--quick', action='store_true', help='small images: tries the script, measures nothing but calls')
    p.add_argument('--size', type=int, default=size // MIB,
                   help=f"the large disk's MiB ({size // MIB}, which the targets are for)")
    p.add_argument('--rows', default='*', metavar='PATTERN', help='only these rows, as in *-raw-*; commas between patterns')
    p.add_argument('--no-limit', action='store_true', help='without the best that other programs do')
    p.add_argument('--dir', default=os.environ.get('FERRY_TMP', '/var/tmp'), help=f'where images go: {space}')
    p.add_argument('--json', metavar='FILE', help='write all samples there')
    return p


def main(options, rows, new_run, note, new_drivers=lambda folder: Drivers()):
    """rows: name, function and arguments of each; new_run: makes what the
    functions are given first; new_drivers: makes what is compared, a context
    manager. Returns the exit code."""
    rows = list(rows)
    chosen = [r for r in rows if any(fnmatch.fnmatchcase(r[0], p) for p in options.rows.split(','))]
    if not chosen:
        sys.exit(f'no row is called {options.rows}: {" ".join(r[0] for r in rows)}')
    print(f'{options.rounds} rounds, stock and Ferry in turn; medians; {note}; '
          f'{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}', flush=True)

    with Folder(options.dir) as folder, new_drivers(folder) as drivers:
        table = Table()
        run = new_run(options, folder, drivers, table)
        for name, function, args in chosen:
            function(run, name, *args)
        if options.json:
            with open(options.json, 'w') as f:
                json.dump({name: figures.samples for name, figures in run.all.items()}, f, indent=1)

    print(f'{len(table.missed)} missed' + (': ' + ', '.join(table.missed) if table.missed else ''))
    return 1 if table.missed else 0
