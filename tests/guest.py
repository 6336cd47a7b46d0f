"""A guest that writes: a small Linux that boots in seconds without KVM, and
numbers and checksums what it writes, so that a test can prove from its console
and its disk that it never stopped and that nothing acknowledged was lost.

    kernel, initrd = guest.build()
    region = guest.Region(offset=512 << 20, size=16 << 20)
    xml = domain_xml('g', disks, memory=128,
                     os_extra=guest.os_xml(kernel, initrd, region, rate=500),
                     devices=guest.serial_file_xml(path))
    ...
    with guest.Log(path) as log:
        log.wait_writing()
        ...
    guest.verify(image, 'qcow2', log.acknowledged(), region)

What runs in the guest, and what it says, is in guest-writer.c, and in
guest-agent.c for one that can be frozen: os_xml(..., extra='ferry.agent=prompt')
and agent_xml(). The kernel is the distribution's, unpacked but not installed. Called as a program, this builds
the guest and prints the paths of kernel and initramfs.

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later
"""

import collections
import fcntl
import glob
import hashlib
import json
import lzma
import os
import re
import shlex
import shutil
import struct
import subprocess
import tempfile
import threading
import time
import zlib

from ferrytest import BUILD, TOP, Failed, run, wait_for

PACKAGE = 'linux-image-cloud-amd64'
MODULES = ('virtio_pci', 'virtio_blk', 'virtio_console', 'virtio_scsi', 'ata_piix', 'sd_mod')
SOURCES = [os.path.join(TOP, 'tests', name) for name in ('guest-writer.c', 'guest-agent.c', 'guest.h')]

# The console is a serial line. A guest that panics stays where it is, for the
# test to find. The HPET follows QEMU's clock exactly; how fast the TSC runs, the
# kernel would have to measure, and on a busy host it measures wrong.
CMDLINE = 'console=ttyS0 quiet clocksource=hpet mitigations=off panic=0'

MEMORY = 128  # MiB, enough for that kernel

RECORD = 4096
MAGIC = 0x3163655279727246
HEADER = struct.Struct('<QQQQ')
CRC = struct.Struct('<I')


class Lost(AssertionError):
    """An image does not hold what the guest was told is on its disk."""


class Region(collections.namedtuple('Region', 'offset size')):
    """The part of the disk that the guest writes to, in bytes."""

    @property
    def slots(self):
        return self.size // RECORD


REGION = Region(0, 16 << 20)


# Building

def build(directory=None):
    """Returns the paths of kernel and initramfs, made when they are not there."""
    directory = directory or os.path.join(BUILD, 'guest')
    kernel, initrd = os.path.join(directory, 'vmlinuz'), os.path.join(directory, 'initrd')
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, '.lock'), 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests may run side by side
        stamp = os.path.join(directory, '.modules-of')
        if not os.path.exists(kernel) or _read(stamp) != ' '.join(MODULES):
            _fetch_kernel(directory)
            if os.path.exists(initrd):
                os.unlink(initrd)  # it has the modules of another kernel
            with open(stamp, 'w') as f:
                f.write(' '.join(MODULES))
        stamp = os.path.join(directory, '.initrd-of')
        if not os.path.exists(initrd) or _read(stamp) != _fingerprint():
            _build_initrd(directory, initrd)
            with open(stamp, 'w') as f:
                f.write(_fingerprint())
    return kernel, initrd


def _read(path):
    try:
        with open(path) as f:
            return f.read()
    except FileNotFoundError:
        return ''


def _fingerprint():
    """Of what the initramfs is made from; the kernel stays what it is."""
    digest = hashlib.sha256()
    for path in (*SOURCES, os.path.abspath(__file__)):
        with open(path, 'rb') as f:
            digest.update(f.read())
    return digest.hexdigest()


def _fetch_kernel(directory):
    """Puts vmlinuz, and under modules/ the modules needed, into the folder."""
    with tempfile.TemporaryDirectory(prefix='fetch-', dir=directory) as work:
        deb = _download(work)
        tree = os.path.join(work, 'tree')
        run('dpkg-deb', '-x', deb, tree)

        modules = os.path.join(directory, 'modules')
        shutil.rmtree(modules, ignore_errors=True)
        os.mkdir(modules)
        for i, path in enumerate(_with_dependencies(tree)):
            shutil.copy(path, os.path.join(modules, f'{i:02}-{os.path.basename(path)}'))
        # last: the kernel's presence says that all is there
        kernel, = glob.glob(os.path.join(tree, 'boot', 'vmlinuz-*'))
        os.chmod(kernel, 0o644)
        os.rename(kernel, os.path.join(directory, 'vmlinuz'))


def _download(work):
    """Downloads the kernel's package. If the system's package lists are missing or old,
    uses lists of our own, since only root may renew the system's."""
    lists, cache = os.path.join(work, 'lists'), os.path.join(work, 'cache')
    os.makedirs(os.path.join(lists, 'partial'))
    os.makedirs(os.path.join(cache, 'archives', 'partial'))
    own = ['-o', f'Dir::State::Lists={lists}', '-o', f'Dir::Cache={cache}']
    if os.geteuid() == 0:
        own += ['-o', 'APT::Sandbox::User=root']
    said = ''
    for options in ([], own):
        try:
            if options:
                run('apt-get', *options, '-qq', 'update', timeout=300)
            return _download_with(options, work)
        except Failed as e:
            said = str(e)
    raise Failed(f'the guest\'s kernel ({PACKAGE}) cannot be fetched, check the network: {said}')


def _download_with(options, work):
    shown = run('apt-cache', *options, 'show', '--no-all-versions', PACKAGE)
    depends = re.search(r'^Depends: (linux-image-[^ ,]+)', shown, re.M)
    if not depends:
        raise Failed(f'{PACKAGE} depends on no kernel')
    p = subprocess.run(['apt-get', *options, '-qq', 'download', depends.group(1)], cwd=work, timeout=300,
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if p.returncode != 0:
        raise Failed(p.stdout.strip())
    return glob.glob(os.path.join(work, '*.deb'))[0]


def _unpacked(path):
    """The path of the module itself: newer kernels have them compressed."""
    if not path.endswith('.xz'):
        return path
    with lzma.open(path) as f, open(path[:-3], 'wb') as to:
        shutil.copyfileobj(f, to)
    return path[:-3]


def _with_dependencies(tree):
    """Paths of the modules, each after those that it needs. One that is not
    there is built in."""
    paths = {}
    for path in glob.glob(os.path.join(tree, '**/lib/modules/*/kernel/**/*.ko*'), recursive=True):
        paths[os.path.basename(path).split('.ko')[0].replace('-', '_')] = path
    order = []

    def add(name):
        path = _unpacked(paths[name]) if name in paths else None
        if path is None or path in order:
            return
        with open(path, 'rb') as f:
            needs = re.search(rb'\0depends=([^\0]*)\0', f.read())
        for other in filter(None, needs.group(1).decode().split(',')):
            add(other.replace('-', '_'))
        order.append(path)

    for name in MODULES:
        add(name)
    return order


def _build_initrd(directory, initrd):
    writer = os.path.join(directory, 'writer')
    run(*shlex.split(os.environ.get('CC', 'gcc')), '-O2', '-Wall', '-static', '-s', '-pthread', '-o', writer,
        *(s for s in SOURCES if s.endswith('.c')))
    files = [('init', writer)]
    modules = os.path.join(directory, 'modules')
    for name in sorted(os.listdir(modules)):
        files.append((f'modules/{name}', os.path.join(modules, name)))
    with open(initrd + '.new', 'wb') as f:
        _write_cpio(f, files)
    os.rename(initrd + '.new', initrd)


def _write_cpio(f, files):
    """An archive as the kernel wants it ("newc"). It needs no device nodes, which
    only root could make: our init opens the console itself."""
    number = 0

    def entry(name, mode, data=b''):
        nonlocal number
        number += 1
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        header = b'070701' + b''.join(b'%08x' % n for n in fields) + name.encode() + b'\0'
        f.write(header + b'\0' * (-len(header) % 4) + data + b'\0' * (-len(data) % 4))

    entry('dev', 0o40755)
    entry('modules', 0o40755)
    for name, path in files:
        with open(path, 'rb') as source:
            entry(name, 0o100755, source.read())
    entry('TRAILER!!!', 0)


# Domain XML

def os_xml(kernel, initrd, region=REGION, rate=0, dev='/dev/vda', report=100, extra=''):
    """What goes into <os>. rate: records per second, 0 for as many as possible.
    report: milliseconds between lines on the console."""
    cmdline = (f'{CMDLINE} ferry.dev={dev} ferry.offset={region.offset} ferry.size={region.size} '
               f'ferry.rate={rate} ferry.report={report} {extra}').strip()
    return f'<kernel>{kernel}</kernel><initrd>{initrd}</initrd><cmdline>{cmdline}</cmdline>'


def serial_file_xml(path):
    """The console in a file, for Log. It is appended to when the domain starts
    again."""
    return f"<serial type='file'><source path='{path}' append='on'/><target port='0'/></serial>"


def serial_unix_xml(path):
    """The console on a unix socket; QEMU drops what nobody is there to read."""
    return f"<serial type='unix'><source mode='bind' path='{path}'/><target port='0'/></serial>"


def agent_xml(path):
    """The guest's agent, on a unix socket."""
    return (f"<channel type='unix'><source mode='bind' path='{path}'/>"
            "<target type='virtio' name='org.qemu.guest_agent.0'/></channel>")


# The console

Report = collections.namedtuple('Report', 'time ack gap max host')
Freeze = collections.namedtuple('Freeze', 'ack frozen thawed')


class Log:
    """Reads what the guest says, as it says it. Times in seconds. A Report holds
    the guest's time and, in "host", when it was seen here; "gap" is the longest
    time between two writes since the report before it, "max" since boot. A Freeze
    says which record was the last one, and when it began and ended; "thawed" is
    None until it has."""

    POLL = 0.01
    REPORT = re.compile(r'ferry-guest t=(\d+) ack=(\d+) gap=(\d+) max=(\d+) end')
    START = re.compile(r'ferry-guest start .* resume=(\d+)')
    FREEZE = re.compile(r'ferry-guest (frozen|thawed) t=(\d+) ack=(\d+) end')
    TROUBLE = re.compile(r'ferry-guest (?:error|fatal) .*')

    def __init__(self, path):
        self.path = path
        self.reports = []
        self.troubles = []
        self.starts = []
        self.freezes = []
        self._boot = 0  # the first report of this life of the guest
        self._rest = ''
        self._file = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        """Reads what is left."""
        self._stop.set()
        self._thread.join()

    def _follow(self):
        while not self._stop.wait(self.POLL):
            self._read_more()
        self._read_more()
        if self._file:
            self._file.close()

    def _read_more(self):
        if not self._file:
            try:
                self._file = open(self.path, errors='replace', newline='\n')
            except FileNotFoundError:
                return
        text = self._file.read()
        if not text:
            return
        now = time.monotonic()
        *lines, self._rest = (self._rest + text).split('\n')
        for line in lines:
            self._line(line.strip(), now)

    def _line(self, line, now):
        """Parses a whole line only: search() requires the line's end."""
        if m := self.REPORT.search(line):
            t, ack, gap, longest = map(int, m.groups())
            self.reports.append(Report(t / 1e6, ack, gap / 1e6, longest / 1e6, now))
        elif m := self.FREEZE.search(line):
            t, ack = int(m.group(2)) / 1e6, int(m.group(3))
            if m.group(1) == 'frozen':
                self.freezes.append(Freeze(ack, t, None))
            else:
                self.freezes[-1] = self.freezes[-1]._replace(thawed=t)
        elif m := self.START.search(line):
            self.starts.append(int(m.group(1)))
            self._boot = len(self.reports)
            if self.acknowledged() >= self.starts[-1]:
                self.troubles.append(f'{self.acknowledged()} was acknowledged, '
                                     f'but the guest found only what is before {self.starts[-1]}')
        elif m := self.TROUBLE.search(line):
            self.troubles.append(m.group(0))

    def tail(self):
        """The end of what was said, for error messages."""
        return _read(self.path)[-600:].strip() or 'nothing'

    def acknowledged(self):
        """The newest record that the guest said is on its disk."""
        return self.reports[-1].ack if self.reports else 0

    def next_report(self, seconds=60):
        """Waits for a report that the guest makes from now on: it covers all
        that happened until now."""
        count = len(self.reports)
        try:
            wait_for(lambda: len(self.reports) > count or self.troubles, seconds, self.POLL, 'the guest to write')
        except AssertionError as e:
            raise AssertionError(f'{e}; its console says: {self.tail()}') from None
        if self.troubles:
            raise AssertionError(f'the guest is in trouble: {self.troubles[0]}')
        return self.reports[-1]

    def wait_writing(self, seconds=120):
        """Until the guest is up and writes."""
        return self.reports[-1] if self.reports else self.next_report(seconds)

    def longest_gap(self, since=0, until=None):
        """The longest time between two writes in reports[since:until]."""
        return max((r.gap for r in self.reports[since:until]), default=0.0)

    def time_lost(self):
        """By how much the guest's clock fell behind the host's since it started:
        the time that the guest was paused, which its own clock cannot show. A
        report may be late but never early, so the least distance of the two
        clocks in a while is the true one."""
        distances = [r.host - r.time for r in self.reports[self._boot:]]
        if len(distances) < 2:
            return 0.0
        n = min(20, len(distances) // 2)
        return max(min(distances[i:i + n]) for i in range(n, len(distances) - n + 1)) - min(distances[:n])


# The disk

def part_of(image, fmt, offset, size):
    """A range of what an image shows a guest, as a name that qemu-img takes
    with format raw."""
    return 'json:' + json.dumps({'driver': 'raw', 'offset': offset, 'size': size,
                                 'file': {'driver': fmt, 'file': {'driver': 'file', 'filename': image}}})


def read_part(image, fmt, offset, size):
    """Reads a range of what an image that no QEMU uses shows a guest. A program that has written it may be about
    to close it."""
    with tempfile.NamedTemporaryFile(prefix='ferry-part-', dir=os.path.dirname(os.path.abspath(image))) as f:
        end = time.monotonic() + 20
        while True:
            try:
                run('qemu-img', 'convert', '-f', 'raw', '-O', 'raw', part_of(image, fmt, offset, size), f.name)
                return f.read()
            except Failed as e:
                if 'Failed to get shared' not in str(e) or time.monotonic() > end:
                    raise
            time.sleep(0.1)


def _record(data, slots):
    """Returns the number of a valid record, None if there is no record at all,
    or raises ValueError."""
    if data.count(0) == RECORD:
        return None
    magic, seq, _, its_slots = HEADER.unpack_from(data)
    if magic != MAGIC or its_slots != slots:
        raise ValueError('holds no record of this guest')
    if CRC.unpack_from(data, RECORD - CRC.size)[0] != zlib.crc32(data[:-CRC.size]):
        raise ValueError(f'holds record {seq} with a wrong checksum')
    return seq


Verified = collections.namedtuple('Verified', 'newest count')


def verify(image, fmt, acknowledged, region=REGION, newest=None):
    """Checks an image that nobody writes to: every record is valid, those up to
    the acknowledged one are there unless newer ones replaced them, and there is
    no hole, that is, the image is the disk at one point in time. newest: what
    was acknowledged later than the image can be. Returns the newest record and
    the number of records. Raises Lost with what is wrong, Failed if the image
    cannot be read or is too small."""
    data = read_part(image, fmt, region.offset, region.size)
    slots = region.slots
    wrong = []
    found = {}
    for slot in range(slots):
        try:
            seq = _record(data[slot * RECORD:(slot + 1) * RECORD], slots)
        except ValueError as e:
            wrong.append(f'slot {slot} {e}')
            continue
        if seq is not None and seq % slots != slot:
            wrong.append(f'slot {slot} holds record {seq}, which belongs elsewhere')
        elif seq is not None:
            found[slot] = seq

    last = max(found.values(), default=0)
    if last < acknowledged:
        wrong.append(f'the newest record is {last}, {acknowledged} was acknowledged')
    if newest is not None and last > newest:
        wrong.append(f'the newest record is {last}, later than {newest}')
    for seq in range(max(1, max(last, acknowledged) - slots + 1), max(last, acknowledged) + 1):
        if found.get(seq % slots) != seq:
            kind = 'was acknowledged and' if seq <= acknowledged else 'comes before the newest and'
            wrong.append(f'record {seq} {kind} is not there: slot {seq % slots} holds {found.get(seq % slots)}')
    if wrong:
        more = f' (and {len(wrong) - 5} more)' if len(wrong) > 5 else ''
        raise Lost(f'{image}: ' + '; '.join(wrong[:5]) + more)
    return Verified(last, len(found))


if __name__ == '__main__':
    print(*build(), sep='\n')
