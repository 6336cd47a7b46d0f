"""What the suites of backups share: documents, a guest that knows about its
bitmaps and checkpoints, and clients that read an export.

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later
"""

import contextlib
import json
import os
import re
import socket
import subprocess
import tempfile

import guest as writer
from ferrytest import (CHUNK, Failed, Guest, LibvirtError, Session, adopt_qemus, check, check_image, create_image,
                       disk_xml, domain_xml, pattern_content, put_image, run, wait_for)

MIB = 1 << 20
SIZE = 8 * MIB
LAST = SIZE // CHUNK - 1
SLOW = MIB // 4  # bytes/s: at this speed half of SIZE takes 16 s
SECRET = '6f3c1f6e-9a4b-4b52-9a54-0f1c2b3a4d5e'
KEY = ['--object', 'secret,id=key,data=swordfish']

NAMESPACE = 'urn:ferry:domainbackup:1.0'
REUSE = 1
BACKUP = 5  # VIR_DOMAIN_BLOCK_JOB_TYPE_BACKUP
COMPLETED, FAILED, CANCELED = 0, 1, 2

# virErrorNumber
(INTERNAL_ERROR, INVALID_ARG, OPERATION_FAILED, XML_ERROR, XML_DETAIL, SYSTEM_ERROR, OPERATION_INVALID,
 CONFIG_UNSUPPORTED) = 1, 8, 9, 27, 35, 38, 55, 67
BLOCK_COPY_ACTIVE, OPERATION_UNSUPPORTED, AGENT_UNRESPONSIVE = 83, 84, 86
NO_CHECKPOINT, NO_BACKUP, CHECKPOINT_INCONSISTENT = 103, 104, 109


# Documents

def store(name, what, at, fmt='qcow2', kind='file', attrs='', extra=''):
    """A <disk> of a <domainbackup>. what: target or scratch; at: the path, or the children
    of a network source's element."""
    driver = f"<driver type='{fmt}'/>" if fmt else ''
    if kind == 'network':
        source = f"<{what} protocol='nbd' name='disk'>{at}{extra}</{what}>"
    else:
        source = f"<{what} {'dev' if kind == 'block' else 'file'}='{at}'>{extra}</{what}>"
    return f"<disk name='{name}' type='{kind}' {attrs}>{driver}{source}</disk>"


def target(name, at, fmt='qcow2', **kwargs):
    return store(name, 'target', at, fmt, **kwargs)


def scratch(name, at, fmt='qcow2', **kwargs):
    return store(name, 'scratch', at, fmt, **kwargs)


def encrypted():
    return f"<encryption format='luks'><secret type='passphrase' uuid='{SECRET}'/></encryption>"


def backup_xml(mode, *disks, incremental='', server='', ferry=''):
    inc = f'<incremental>{incremental}</incremental>' if incremental else ''
    listed = f"<disks>{''.join(disks)}</disks>" if disks else ''
    return f"<domainbackup xmlns:ferry='{NAMESPACE}' mode='{mode}'>{inc}{server}{ferry}{listed}</domainbackup>"


def push(*disks, slow=False, **kwargs):
    ferry = f'<ferry:bandwidth>{SLOW}</ferry:bandwidth>' if slow else ''
    return backup_xml('push', *disks, ferry=kwargs.pop('ferry', '') + ferry, **kwargs)


def pull(*disks, server, **kwargs):
    return backup_xml('pull', *disks, server=server, **kwargs)


def unix(path):
    return f"<server transport='unix' socket='{path}'/>"


def tcp(port=None, tls=False, name='127.0.0.1'):
    return (f"<server name='{name}'" + (f" port='{port}'" if port else '') +
            (" tls='yes'" if tls else '') + '/>')


def checkpoint_xml(name, *disks):
    listed = ''.join(f"<disk name='{d}'/>" for d in disks)
    return (f"<domaincheckpoint><name>{name}</name>" +
            (f'<disks>{listed}</disks>' if disks else '') + '</domaincheckpoint>')


# Places

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def loop_device(path):
    device = run('losetup', '-f', '--show', path).strip()
    try:
        yield device
    finally:
        run('losetup', '-d', device)


@contextlib.contextmanager
def child(*args):
    """A program that runs meanwhile."""
    process = subprocess.Popen([str(a) for a in args], stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


CLIENT = """
import nbd, sys, time
h = nbd.NBD()
h.connect_uri(sys.argv[1])
while True:
    h.pread(65536, 0)
    time.sleep(0.01)
"""


def reader(url):
    """A client that stays connected and reads all the time."""
    return child('/usr/bin/python3', '-c', CLIENT, url)


@contextlib.contextmanager
def small_filesystem(folder, size):
    """A folder with room for that much."""
    os.makedirs(folder, exist_ok=True)
    run('mount', '-t', 'tmpfs', '-o', f'size={size}', 'ferry-test', folder)
    try:
        yield folder
    finally:
        run('umount', folder)


# The guest

class BackupGuest(Guest):
    """A Guest whose state includes checkpoints and bitmaps. change: edits the domain's XML
    before the domain is started."""

    def __init__(self, *args, change=None, **kwargs):
        self.change = change
        super().__init__(*args, **kwargs)

    def boot(self, session=None):
        if self.change:
            self.xml = self.change(self.xml)
        super().boot(session)

    def checkpoints(self):
        if self.session:
            return sorted(self.session.call(self.name, 'listAllCheckpoints', 0))
        return sorted(self.host.virsh('checkpoint-list', self.name, '--name').split())

    def metadata(self):
        """Names and parents of the checkpoints that the next driver finds."""
        folder = os.path.join(self.host.root, 'lib', 'qemu', 'checkpoint', self.name)
        found = {}
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            with open(os.path.join(folder, name)) as f:
                found[name] = re.findall(r'<parent>\s*<name>(.*)</name>', f.read())
        return found

    def all_bitmaps(self):
        return {(n['node-name'], b.get('name')): (b['recording'], b['persistent'], b['busy'])
                for n in self.mon('query-named-block-nodes', flat=True) for b in n.get('dirty-bitmaps', [])}

    def state(self):
        return dict(super().state(), checkpoints=self.checkpoints(), metadata=self.metadata(),
                    bitmaps=self.all_bitmaps(), backup=self.backup_running(), job=self.job())

    def job(self):
        """What the domain is doing according to its status file, from which the next driver
        would go on."""
        with open(os.path.join(self.host.root, 'run', 'qemu', f'{self.name}.xml')) as f:
            return re.findall(r"<job type='\w+' async='(\w+)'", f.read())

    def backup_running(self):
        try:
            if self.session:
                return bool(self.session.call(self.name, 'backupGetXMLDesc', 0))
            return bool(self.host.virsh('backup-dumpxml', self.name))
        except LibvirtError as e:
            check(e.code == NO_BACKUP, f'code {e.code}: {e}')
        except Failed as e:
            check('no domain backup job present' in str(e), str(e))
        return False

    def now(self):
        """What the disks hold at this moment."""
        return {disk: bytes(content) for disk, content in self.content.items()}

    def begin(self, xml, checkpoint=None, flags=0):
        """checkpoint: its name, or a document"""
        if checkpoint and not checkpoint.startswith('<'):
            checkpoint = checkpoint_xml(checkpoint)
        self.session.call(self.name, 'backupBegin', xml, checkpoint, flags)

    def hurry(self):
        """Removes the speed limit of a push."""
        for id_, _ in self.jobs():
            with contextlib.suppress(LibvirtError):  # over already
                self.session.call(self.name, 'blockJobSetSpeed', id_.rsplit('-', 1)[1], 0, 0)

    def wait_over(self, seconds=30):
        wait_for(lambda: not self.backup_running() and self.jobs() == [] and self.host.live_files() == [] and
                 self.job() == [],
                 seconds, 0.02, 'the end of the backup')

    def abort(self):
        self.session.call(self.name, 'abortJob')
        check(not self.backup_running() and self.jobs() == [], 'abortJob came back before the end')

    def statistics(self, flags=0):
        return self.session.call(self.name, 'jobStats', flags)

    def completed(self):
        """The job-completed events of the domain so far."""
        return [e[1] for e in self.session.other_events() if e[0] == 'job-completed']

    def job_events(self):
        """(event, disk, status) of the disks' backup jobs. An event that names a path is
        listed under the disk of that path."""
        out = []
        for event, disk, kind, status in self.session.events(wait=0.1):
            check(kind == BACKUP, f'an event of type {kind}')
            out.append((event, os.path.basename(disk).replace('source-', ''), status))
        return out


@contextlib.contextmanager
def a_guest(host, formats=('qcow2', 'qcow2'), secrets=False, driver='', **kwargs):
    """A guest with disks vda, vdb and so on, each with data and outside the folder for
    targets, and a driver that stays."""
    disks = {}
    for i, fmt in enumerate(formats):
        name = f'vd{chr(ord("a") + i)}'
        content = pattern_content(SIZE, 1 + 6 * i)
        path = put_image(host.path(f'source-{name}'), fmt, content)
        disks[name] = disk_xml(name, path, fmt, driver), content
    with BackupGuest(host, disks, **kwargs) as guest:
        with a_driver(guest, secrets):
            yield guest


@contextlib.contextmanager
def a_driver(guest, secrets=False):
    """One driver that stays for a while. The test may kill the driver inside."""
    with Session(guest.host, secrets=secrets) as session:
        guest.session = session
        if secrets:
            session.request(secret=f"<secret ephemeral='no' private='no'><uuid>{SECRET}</uuid>"
                            "<usage type='volume'><volume>target</volume></usage></secret>", value='swordfish')
        # waits until the driver is back; the domain may be off
        with contextlib.suppress(LibvirtError):
            session.call(guest.name, 'blockJobInfo', 'vda', 0)
        try:
            yield session
        finally:
            guest.session = None


@contextlib.contextmanager
def another_driver(guest):
    """A driver to use after that of a_guest() has ended."""
    old = guest.session
    old.close()
    with a_driver(guest) as session:
        yield session
    guest.session = old


class Writing:
    """A Linux guest that writes numbered records to its disk, as fast as it can
    unless told otherwise."""

    def __init__(self, host, region=MIB * 8, rate=0):
        self.host, self.rate = host, rate
        self.region = writer.Region(0, region)
        self.dir = tempfile.mkdtemp(prefix='linux-', dir=host.dir)
        self.disk = create_image(os.path.join(self.dir, 'linux'), 16 * MIB)
        self.console = os.path.join(self.dir, 'console.log')

    def __enter__(self):
        adopt_qemus()
        kernel, initrd = writer.build()
        self.host.define(domain_xml('linux', [disk_xml('vda', self.disk)], memory=writer.MEMORY,
                                    os_extra=writer.os_xml(kernel, initrd, self.region, self.rate),
                                    devices=writer.serial_file_xml(self.console)))
        self.host.virsh('start', 'linux')
        self.log = writer.Log(self.console)
        self.log.wait_writing()
        return self

    def __exit__(self, *exc):
        self.log.close()
        self.host.virsh('blockjob linux vda; destroy linux; undefine linux --checkpoints-metadata', check_exit=False)

    def wait_full(self):
        """Waits until every place holds a record: whatever the guest writes then replaces
        something."""
        while self.log.next_report().ack < self.region.slots:
            pass

    def verify(self, image, at_least, newest=None, fmt='qcow2'):
        return writer.verify(image, fmt, at_least, self.region, newest)


def overwrite(guest, *disks):
    """The guest overwrites much of what a backup has to show."""
    for disk in disks or ('vda', 'vdb'):
        guest.write(disk, 211, 0)
        guest.write(disk, 212, LAST * CHUNK)
        guest.write(disk, 213, 16 * CHUNK, MIB)
        guest.write(disk, 214, 5 * CHUNK + 1024, 512)


OVERWRITTEN = {0, LAST, 5} | set(range(16, 32))


# What was backed up

def check_disks(what, contents, specs):
    for disk, spec in specs.items():
        check_image(f'{what} of {disk}', contents[disk], *spec)


def check_parts(what, content, chunks, *spec):
    """Checks an image of an incremental backup without its backing image: these chunks, and
    zeroes elsewhere."""
    expect = bytearray(len(content))
    for i in chunks:
        expect[i * CHUNK:(i + 1) * CHUNK] = content[i * CHUNK:(i + 1) * CHUNK]
    check_image(what, expect, *spec)


def rebase(path, backing):
    """An incremental image on top of what was backed up before."""
    run('qemu-img', 'rebase', '-u', '-f', 'qcow2', '-F', 'qcow2', '-b', backing, path)


def export(name, path=None, port=None):
    return f'nbd+unix:///{name}?socket={path}' if path else f'nbd://127.0.0.1:{port}/{name}'


def exports(url):
    """Names and descriptions of what a server has."""
    return {e['export-name']: e for e in json.loads(run('nbdinfo', '--list', '--json', url))['exports']}


def dirty(url, bitmap):
    """The chunks that an export's bitmap marks as changed."""
    extents = json.loads(run('nbdinfo', '--json', f'--map=qemu:dirty-bitmap:{bitmap}', url))
    return {at // CHUNK for e in extents if e['type'] & 1
            for at in range(e['offset'], e['offset'] + e['length'], CHUNK)}


def nbdcopied(url):
    """What nbdcopy reads."""
    p = subprocess.run(['nbdcopy', url, '-'], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, timeout=60)
    check(p.returncode == 0, f'nbdcopy {url}: {p.stderr.decode()}')
    return p.stdout


def check_exports(what, contents, urls):
    """Both qemu-img and nbdcopy must see the disks as they were."""
    for disk, url in urls.items():
        check_image(f'{what}: export of {disk}', contents[disk], url, 'raw')
        check(nbdcopied(url) == contents[disk], f'{what}: nbdcopy of {disk} differs')
