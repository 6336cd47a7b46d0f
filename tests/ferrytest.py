"""What the live tests, the demo and the benchmarks share.

A Host is an embedded QEMU driver with a root folder of its own: stock, or with
Ferry in it. Since an embedded driver lives in the process that uses it, every
Host.virsh() call is a driver restart. A Session keeps one driver in a child
process and collects its events.
"""

import contextlib
import ctypes
import difflib
import filecmp
import glob
import hashlib
import json
import os
import pprint
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import uuid

import imagememo

TOP = os.environ.get('FERRY_TOP', os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get('FERRY_BUILD', os.path.join(TOP, 'build'))
DRIVER_DIR = os.environ.get('FERRY_DRIVER_DIR', '')  # what libvirt loads
COMMAND = os.path.join(BUILD, 'stage', 'usr', 'bin', 'ferry')  # the administrator's
# what that loads: ./ferry says which, else the newest one
MODULES = glob.glob(os.path.join(os.path.dirname(DRIVER_DIR), '*', 'libferry_driver_qemu.so'))
MODULE = os.environ.setdefault('FERRY_MODULE', max(MODULES, key=os.path.getmtime, default=''))
STOCK_DIR = '/usr/lib/x86_64-linux-gnu/libvirt/connection-driver'
STOCK = os.path.join(STOCK_DIR, 'libvirt_driver_qemu.so')
LIBVIRT = '/usr/lib/x86_64-linux-gnu/libvirt.so.0'
# what the log says when the loader has not loaded Ferry
FELL_BACK = 'the stock QEMU driver runs'
# see quick.c; FERRY_SLOW_START: domains start as they do for users
QUICK = '' if 'FERRY_SLOW_START' in os.environ else os.path.join(BUILD, 'meson', 'tests', 'libferryquick.so')
QEMU = shutil.which('qemu-system-x86_64')


# virsh commands that change nothing and do not wait for a domain's job
LOOKING = ('domstate', 'dumpxml', 'list', 'domblklist', 'define', 'undefine', 'version', 'dominfo', 'uri',
           'checkpoint-list', 'checkpoint-dumpxml', 'checkpoint-parent', 'checkpoint-info', 'backup-dumpxml')


# how qemu-img check ends when there are leaked clusters and no corruption
LEAKS = 3

FROM_QEMU = 10  # virErrorDomain of the QEMU driver


class Failed(Exception):
    """A command failed: the exception's text is what it said."""


def check(condition, what):
    if not condition:
        raise AssertionError(what)


def run(*args, env=None, check_exit=True, timeout=120):
    """Runs a command; returns what it printed."""
    p = subprocess.run([str(a) for a in args], env=env, timeout=timeout, text=True,
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if check_exit and p.returncode != 0:
        raise Failed(f'{" ".join(map(str, args))}: exit {p.returncode}: {p.stderr.strip()}')
    return p.stdout


def patience(seconds):
    """How long to wait for what takes less than so many seconds on a machine that is not busy: no
    test may fail because others run beside it."""
    return seconds * max(1, os.getloadavg()[0] / os.cpu_count())


def wait_for(condition, seconds=30, step=0.05, what='a condition'):
    """Polls until condition() is true; returns its value. What is expected not to come, in less
    than 5 s, is not waited for any longer on a busy machine."""
    end = time.monotonic() + (patience(seconds) if seconds >= 5 else seconds)
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f'waited {seconds} s for {what}')
        time.sleep(step)


def fails(code, text, call, *args, domain=None):
    """A call that must fail with this code (None: with any), out of this driver, and with a
    message in which re.search() finds the text. Returns the message."""
    try:
        result = call(*args)
    except LibvirtError as e:
        check(code in (None, e.code), f'{args}: code {e.code}, not {code}: {e}')
        check(None in (code, domain) or e.domain == domain, f'{args}: domain {e.domain}: {e}')
        check(re.search(text, str(e), re.S), f'{args}: it does not say "{text}": {e}')
        return str(e)
    raise AssertionError(f'{args} did not fail: {result}')


# Images

def create_image(path, size, fmt='qcow2', backing=None, options=None):
    args = ['qemu-img', 'create', '-q', '-f', fmt]
    if options:
        args += ['-o', options]
    if backing:
        args += ['-b', backing[0], '-F', backing[1]]
    imagememo.make(str(path), lambda: run(*args, path, *([size] if size else [])), ('create', str(size), fmt, options, *(
        backing or ('', ''))[1:]), str(backing[0]) if backing else None)
    return path


def write_image(path, pattern, offset, length, fmt='qcow2'):
    """Writes a byte pattern into an image that no QEMU uses."""
    command = f'write -P {pattern} {offset} {length}'
    imagememo.make(str(path), lambda: run('qemu-io', '-f', fmt, '-c', command, path), (fmt, command))


def reads(image, fmt, pattern, offset, length):
    """Does an image that no QEMU uses hold the byte pattern there?"""
    _, out = imagememo.examine(str(image), 'qemu-io', '-r', '-f', fmt, '-c', f'read -P {pattern} {offset} {length}')
    if 'bytes at offset' not in out:
        raise Failed(f'{image} cannot be read: {out.strip()}')
    return 'Pattern verification failed' not in out


def same_data(a, a_fmt, b, b_fmt):
    """Do two images show a guest the same? Also while a QEMU uses them."""
    p = subprocess.run(['qemu-img', 'compare', '-q', '-U', '-f', a_fmt, '-F', b_fmt, a, b],
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if p.returncode > 1:
        raise Failed(p.stdout)
    return p.returncode == 0


def check_qcow2(path, killed=False):
    """Fails if an image that nobody uses is damaged. killed: a QEMU that was writing to it
    was killed: clusters that it had allocated and not used yet are leaked then, which is no
    damage."""
    code, out = imagememo.examine(str(path), 'qemu-img', 'check', '-q')
    check(code == 0 or (killed and code == LEAKS), f'qemu-img check {path}: exit {code}: {out.strip()}')


def allocated(path):
    """Bytes that a file takes on its disk."""
    return os.stat(path).st_blocks * 512


# Domains

def disk_xml(target, path, fmt='qcow2', driver='', extra=''):
    return (f"<disk type='file' device='disk'><driver name='qemu' type='{fmt}' {driver}/>"
            f"<source file='{path}'/><target dev='{target}' bus='virtio'/>{extra}</disk>")


def copy_xml(path, fmt='qcow2', extra=''):
    """What a disk is copied to: a file."""
    driver = f"<driver name='qemu' type='{fmt}'/>" if fmt else ''
    return f"<disk type='file'>{driver}<source file='{path}'/>{extra}</disk>"


def domain_xml(name, disks, memory=64, os_extra='', devices='', uuid_=None, iothreads=0, extra=''):
    """A small domain without KVM, network or graphics."""
    return f"""<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid_ or uuid.uuid4()}</uuid>
  <memory unit='MiB'>{memory}</memory>
  <vcpu>1</vcpu>
  {f'<iothreads>{iothreads}</iothreads>' if iothreads else ''}
  {extra}
  <os><type arch='x86_64' machine='q35'>hvm</type>{os_extra}</os>
  <features><acpi/></features>
  <on_reboot>restart</on_reboot>
  <devices>
    <emulator>{QEMU}</emulator>
    {''.join(disks)}
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    {devices}
  </devices>
</domain>"""


# QEMU's frontends

def frontend(alias):
    """QOM path of a disk that has the alias virtio-disk0, sata0-0-0 and so on."""
    return f'/machine/peripheral/{alias}' + ('/virtio-backend' if alias.startswith('virtio') else '')


def qemu_io(alias, command):
    """HMP command that makes a frontend do I/O, as its guest would."""
    return f'qemu-io -d {frontend(alias)} "{command}"'


def written(blockstats, alias):
    """(bytes written, writes that failed) of a frontend, out of a reply to
    query-blockstats."""
    for stat in blockstats:
        if stat.get('qdev') in (frontend(alias), alias): # which of them depends on the bus
            return stat['stats']['wr_bytes'], stat['stats']['failed_wr_operations']
    raise AssertionError(f'QEMU has no disk {alias}')


class Monitor:
    """A QMP connection of the test's own, beside the driver's: it works while
    no driver runs, and costs no restart of one. with_monitor() gives a domain
    the socket for it. events: names of the events that came before a reply"""

    def __init__(self, path):
        self.events = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(60)
        self.socket.connect(path)
        # a file for both ways forgets what it has read ahead when it is written to
        self.file = self.socket.makefile('r')
        self.file.readline()
        self('qmp_capabilities')

    def __call__(self, command, **arguments):
        arguments = {k.replace('_', '-'): v for k, v in arguments.items()}
        self.socket.sendall(json.dumps({'execute': command, 'arguments': arguments}).encode() + b'\n')
        while True:
            line = self.file.readline()
            if not line:
                raise Failed('QEMU is gone')
            reply = json.loads(line)
            if 'error' in reply:
                raise Failed(reply['error'].get('desc', str(reply)))
            if 'return' in reply:
                return reply['return']
            self.events.append(reply.get('event'))

    def hmp(self, line):
        return self('human-monitor-command', command_line=line)

    def close(self):
        try:
            self.file.close()
        except BrokenPipeError:
            pass # QEMU was gone first
        self.socket.close()


def with_monitor(xml, path):
    """The domain XML with a monitor socket for the test added."""
    xml = xml.replace("<domain type='qemu'>",
                      "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>")
    args = ['-qmp', f'unix:{path},server=on,wait=off']
    args = ''.join(f"<qemu:arg value='{a}'/>" for a in args)
    return xml.replace('</domain>', f'<qemu:commandline>{args}</qemu:commandline></domain>')


def make_ferry(folder, module=None):
    """A folder as Ferry is installed, with a driver. Returns the folder of the driver."""
    os.makedirs(os.path.join(folder, 'connection-driver'))
    shutil.copy(os.path.join(DRIVER_DIR, 'libvirt_driver_qemu.so'), os.path.join(folder, 'connection-driver'))
    shutil.copy(module or MODULE, os.path.join(folder, 'libferry_driver_qemu.so'))
    return place_driver(folder)


def place_driver(folder):
    """Does what "meson install" does with the driver there. Returns the driver's own folder."""
    run(os.path.join(TOP, 'src', 'hook', 'place'), '.', STOCK, LIBVIRT,
        env=dict(os.environ, MESON_INSTALL_DESTDIR_PREFIX=folder))
    return os.path.join(folder, build_id(STOCK))


def check_loaded(log):
    """Fails if the loader has said that it has not loaded Ferry: the stock driver would be tested."""
    check(FELL_BACK not in log, f'Ferry was not loaded: {log[log.find("Ferry "):][:500]}')


def build_id(path):
    return run(os.path.join(TOP, 'src', 'hook', 'place'), '--id', path).strip()


def prepare_cgroup():
    """The driver makes the folder for all guests, and only then gives it CPUs and memory (cgroup v1). A
    domain of another driver that starts in between fails with 'No space left on device'."""
    above = '/sys/fs/cgroup/cpuset'
    folder = os.path.join(above, 'machine')
    if os.geteuid() != 0 or not os.path.exists(os.path.join(above, 'cpuset.cpus')):
        return
    os.makedirs(folder, exist_ok=True)
    for name in ('cpuset.mems', 'cpuset.cpus'):
        with open(os.path.join(above, name)) as f, open(os.path.join(folder, name), 'w') as to:
            to.write(f.read())


class Capabilities:
    """What a driver has found out of QEMU, in its cache: to find it out takes 4 s of CPU time. A new host gets
    what the last one of its kind has left; libvirt itself knows whether that still holds."""

    def __init__(self, kind, cache):
        self.kept = os.path.join(BUILD, 'capabilities', kind)
        self.folder = os.path.join(cache, 'qemu', 'capabilities')
        if os.path.isdir(self.kept):
            shutil.copytree(self.kept, self.folder, dirs_exist_ok=True)

    def keep(self):
        for path in glob.glob(os.path.join(self.folder, '*.xml')):
            kept = os.path.join(self.kept, os.path.basename(path))
            with contextlib.suppress(OSError):  # of a build folder that is not ours
                if os.path.exists(kept) and filecmp.cmp(path, kept, shallow=False):
                    continue
                os.makedirs(self.kept, exist_ok=True)
                shutil.copy(path, f'{kept}.{os.getpid()}')
                os.replace(f'{kept}.{os.getpid()}', kept)


class Host:
    """An embedded QEMU driver. Use as a context manager: it leaves nothing
    running."""

    def __init__(self, driver='ferry', root=None, preload=None):
        prepare_cgroup()
        self.driver = driver
        self.dir = root or tempfile.mkdtemp(prefix=f'ferry-test-{driver}-', dir=os.environ.get('FERRY_TMP', '/var/tmp'))
        self.root = os.path.join(self.dir, 'root')
        self.uri = f'qemu:///embed?root={self.root}'
        self.env = dict(os.environ, LIBVIRT_LOG_OUTPUTS=f'3:file:{self.dir}/libvirt.log', LC_ALL='C.UTF-8')
        # each driver that starts would run dmidecode
        self.env['PATH'] = ':'.join(p for p in os.environ['PATH'].split(':') if not p.endswith('/sbin'))
        self.env.pop('LIBVIRT_DRIVER_DIR', None)
        if driver == 'ferry':
            check(DRIVER_DIR, 'FERRY_DRIVER_DIR is not set: run this through ./ferry')
            self.env['LIBVIRT_DRIVER_DIR'] = DRIVER_DIR
        self.env['LD_PRELOAD'] = preload or QUICK
        os.makedirs(os.path.join(self.root, 'etc'), exist_ok=True)
        self.capabilities = Capabilities('embedded', os.path.join(self.root, 'cache'))
        with open(os.path.join(TOP, 'tests', 'qemu.conf')) as f:
            conf = f.readlines()
        with open(os.path.join(self.root, 'etc', 'qemu.conf'), 'w') as f:
            # only root may choose whom QEMU runs as
            f.writelines(l for l in conf if os.geteuid() == 0 or not l.startswith(('user', 'group')))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close(keep=exc[0] is not None)

    def close(self, keep=False):
        text = self.log_text() if self.driver == 'ferry' else ''
        for pid in self.qemu_pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.capabilities.keep()
        if keep:
            print(f'# files kept in {self.dir}', file=sys.stderr)
        else:
            shutil.rmtree(self.dir, ignore_errors=True)
        check_loaded(text)

    def path(self, *names):
        return os.path.join(self.dir, *names)

    def qemu_pids(self):
        run_dir = os.path.join(self.root, 'run', 'qemu')
        pids = []
        if os.path.isdir(run_dir):
            for name in os.listdir(run_dir):
                if name.endswith('.pid') and name != 'driver.pid':
                    try:
                        with open(os.path.join(run_dir, name)) as f:
                            pids.append(int(f.read()))
                    except (OSError, ValueError):
                        pass
        return pids

    def virsh(self, *args, env=None, **kwargs):
        """One virsh call, one life of the driver.

        An embedded driver, stock ones too, may crash when its process ends
        while it still reconnects to a running domain. Calls that wait for the
        domain's job do not; those that only look are tried again."""
        for _ in range(5):
            try:
                return run('virsh', '-q', '-c', self.uri, *args, env=dict(self.env, **(env or {})), **kwargs)
            except Failed as e:
                if args[0] not in LOOKING or 'exit -11' not in str(e):
                    raise
        raise Failed(f'virsh {args[0]} crashed five times')

    def virsh_fails(self, *args, **kwargs):
        """A virsh call that must fail; returns what it said."""
        try:
            out = self.virsh(*args, **kwargs)
        except Failed as e:
            return str(e)
        raise AssertionError(f'virsh {" ".join(map(str, args))} did not fail: {out}')

    def define(self, xml):
        path = self.path('domain.xml')
        with open(path, 'w') as f:
            f.write(xml)
        self.virsh('define', path)

    def create(self, xml, *flags):
        """Starts a transient domain."""
        path = self.path('domain.xml')
        with open(path, 'w') as f:
            f.write(xml)
        self.virsh('create', path, *flags)

    def qmp(self, name, command, **arguments):
        arguments = {k.replace('_', '-'): v for k, v in arguments.items()}
        reply = json.loads(self.virsh('qemu-monitor-command', name,
                                      json.dumps({'execute': command, 'arguments': arguments})))
        if 'error' in reply:
            raise Failed(reply['error'].get('desc', str(reply)))
        return reply['return']

    def hmp(self, name, command):
        return self.virsh('qemu-monitor-command', name, '--hmp', command)

    def guest_write(self, name, alias, pattern, offset, length):
        """Writes to a running domain's disk as its guest would: through the
        frontend's block backend. alias: virtio-disk0."""
        # what qemu-io says goes to QEMU's stdout; its statistics tell instead
        before = self._wrote(name, alias)
        self.hmp(name, qemu_io(alias, f'aio_write -P {pattern} {offset} {length}'))
        self.hmp(name, qemu_io(alias, 'aio_flush'))
        after = self._wrote(name, alias)
        check(after == (before[0] + length, before[1]), f'write to {alias} failed')

    def _wrote(self, name, alias):
        return written(self.qmp(name, 'query-blockstats'), alias)

    def log_text(self):
        try:
            with open(self.path('libvirt.log'), errors='replace') as f:
                return f.read()
        except FileNotFoundError:
            return ''

    def live_files(self):
        """Paths of journals, status files and so on that are left."""
        out = []
        for base, _, names in os.walk(os.path.join(self.root, 'lib', 'ferry')):
            out += [os.path.join(base, n) for n in names]
        return sorted(out)

    def nodes(self, name):
        return sorted(n['node-name'] for n in
                      self.qmp(name, 'query-named-block-nodes', flat=True))

    def jobs(self, name):
        return sorted((j['id'], j['status']) for j in self.qmp(name, 'query-jobs'))

    def mirror_ready(self, name):
        return "ready='yes'" in self.virsh('dumpxml', name)

    def wait_ready(self, name, disk='vda', seconds=120):
        """Until the copy of a disk is ready, as QEMU and the XML say."""
        def ready():
            self.virsh('blockjob', name, disk)
            return self.mirror_ready(name)
        return wait_for(ready, seconds, 0.1, f'copy of {disk} to be ready')


class Session:
    """One driver that stays: a child process with an open connection, which
    runs python-libvirt calls and collects block job events.

        s.call('domain', 'blockCopy', 'vda', xml, params, flags)

    returns what the call returned, or raises LibvirtError with the code."""

    def __init__(self, host, uri=None, secrets=False, server=None):
        """secrets: with an embedded secret driver beside it; server: the ForkServer that starts it"""
        self.host = host
        args = [uri or host.uri] + ([f'secret:///embed?root={host.root}'] if secrets else [])
        if server:
            self.child = server.start(*args)
        else:
            self.child = subprocess.Popen(['/usr/bin/python3', os.path.join(TOP, 'tests', 'session.py'), *args],
                                          env=host.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._reply()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def _reply(self):
        while True:
            line = self.child.stdout.readline()
            if not line:
                raise Failed(f'session ended: {self.child.wait()}')
            # a driver that is killed in the middle may leave other words there
            if line.startswith('{'):
                return json.loads(line)
            print(f'# the driver said: {line.strip()}', file=sys.stderr, flush=True)

    def request(self, **what):
        self.child.stdin.write(json.dumps(what) + '\n')
        self.child.stdin.flush()
        reply = self._reply()
        if 'error' in reply:
            raise LibvirtError(reply['code'], reply['error'], reply.get('domain'))
        return reply['result']

    def call(self, domain, method, *args):
        """Calls a method of virDomain."""
        return self.request(domain=domain, method=method, args=args)

    def begin(self, domain, method, *args):
        """Like call(), but beside the calls that follow. Returns its number, for end()."""
        return self.request(domain=domain, method=method, args=args, background=True)

    def end(self, number, seconds=30):
        """What a call of begin() returned, or the error that it raised; 'still running' if
        it has not ended after so many seconds."""
        return self.request(**{'await': number}, seconds=seconds)

    def events(self, wait=0.0):
        """Block job events so far, oldest first, as [event, disk, type, status]."""
        return self.request(events=True, wait=wait)

    def other_events(self, wait=0.0):
        """['job-completed', statistics] and ['threshold', device, path, limit]
        events so far."""
        return self.request(events='others', wait=wait)

    def kill(self):
        """SIGKILL: the driver gets no chance to clean up."""
        self.child.kill()
        self.child.wait()

    def close(self):
        if self.child.poll() is None:
            self.child.stdin.close()
            try:
                self.child.wait(20)
            except subprocess.TimeoutExpired:
                self.child.kill()


# Guests

CHUNK = 65536


def pattern_content(size, seed=1):
    """What a disk may hold: every other chunk is a byte pattern of its own,
    the rest is zero, so that a thin image shows."""
    data = bytearray(size)
    for i in range(0, size // CHUNK, 2):
        data[i * CHUNK:(i + 1) * CHUNK] = bytes([(i + seed) % 251 + 1]) * CHUNK
    return data


def put_image(path, fmt, content, options=None):
    """Makes an image that holds content, without using space for its zeroes."""
    raw = path if fmt == 'raw' else path + '.tmp'
    with open(raw, 'wb') as f:
        for at in range(0, len(content), CHUNK):
            chunk = content[at:at + CHUNK]
            if any(chunk):
                f.seek(at)
                f.write(chunk)
        f.truncate(len(content))
    if raw != path:
        run('qemu-img', 'convert', '-f', 'raw', '-O', fmt, *(['-o', options] if options else []), raw, path)
        os.unlink(raw)
    return path


def image_content(*spec):
    """What a guest would read from an image, also one that is in use. spec: a
    path or URL and its format, or qemu-img's arguments that name the image."""
    source = spec if spec[0].startswith('-') else ['-f', spec[1], spec[0]]
    fd, tmp = tempfile.mkstemp(prefix='ferry-content-', dir=os.environ.get('FERRY_TMP', '/var/tmp'))
    os.close(fd)
    try:
        # the last argument is the image, and the output goes behind it
        run('qemu-img', 'convert', '-U', *source[:-1], '-O', 'raw', source[-1], tmp)
        with open(tmp, 'rb') as f:
            return f.read()
    finally:
        os.unlink(tmp)


def check_image(what, content, *spec):
    """Fails unless an image holds content, and nothing but zeroes behind it."""
    found = image_content(*spec)
    if found[:len(content)] == content and not any(found[len(content):]):
        return
    for at in range(0, max(len(content), len(found)), 512):
        a, b = content[at:at + 512], found[at:at + 512]
        if a != b:
            raise AssertionError(f'{what}: at {at} it is {b[:4].hex() or "nothing"}, not {a[:4].hex() or "nothing"} '
                                 f'({len(found)} bytes, not {len(content)})')
    raise AssertionError(f'{what}: {len(found)} bytes, not {len(content)}')


def adopt_qemus():
    """Takes note at once when a QEMU ends: a zombie is not dead for libvirt,
    and process 1 of some containers leaves it one for seconds. So that they are
    ours to look after, and not process 1's, orphans become children of the
    test."""
    global adopting
    if adopting:
        return
    adopting = True
    PR_SET_CHILD_SUBREAPER = 36
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    threading.Thread(target=reap_qemus, daemon=True).start()


adopting = False


def reap_qemus():
    # What the test started itself, it waits for itself: never a QEMU.
    while True:
        for tid in os.listdir('/proc/self/task'):
            try:
                with open(f'/proc/self/task/{tid}/children') as f:
                    pids = f.read().split()
            except OSError:
                continue
            for pid in pids:
                try:
                    with open(f'/proc/{pid}/stat') as f:
                        name, _, rest = f.read().rpartition(')')
                    if '(qemu-system' in name and rest.split()[0] == 'Z':
                        os.waitpid(int(pid), os.WNOHANG)
                except (OSError, ChildProcessError):
                    pass
        time.sleep(0.02)


class Guest:
    """A domain whose guest is the test: its CPUs are stopped, and the test does
    the I/O through its disks' frontends. It has a folder for images, a monitor
    (see Monitor), and remembers what it wrote to which disk.

    disks: for each target the <disk> element and what the image holds"""

    def __init__(self, host, disks, name='guest', transient=False, devices='', session=None, extra=''):
        self.host = host
        self.name = name
        self.dir = tempfile.mkdtemp(prefix='guest-', dir=host.dir)
        self.content = {target: bytearray(content or b'') for target, (_, content) in disks.items()}
        self.transient = transient
        self.session = None  # set it while a Session runs: there is one driver at a time
        self.mon = None
        # not where the images are: a test compares that folder
        fd, self.socket = tempfile.mkstemp(prefix='mon-', dir=host.dir)
        os.close(fd)
        self.xml = with_monitor(domain_xml(name, [xml for xml, _ in disks.values()], memory=32,
                                           devices=devices, extra=extra), self.socket)
        self.boot(session)

    def boot(self, session=None):
        """Starts it: session is for one whose disks need a secret."""
        adopt_qemus()
        os.path.exists(self.socket) and os.unlink(self.socket)
        if session:
            if self.transient:
                session.call(None, 'createXML', self.xml, 1)
            else:
                session.call(None, 'defineXML', self.xml)
                session.call(self.name, 'createWithFlags', 1)
        elif self.transient:
            self.host.create(self.xml, '--paused')
        else:
            self.host.define(self.xml)
            self.host.virsh('start', self.name, '--paused')
        self.mon = Monitor(self.socket)

    def restart(self):
        """Shuts it off and starts it as its configuration says."""
        self.destroy()
        self.boot_again()

    def boot_again(self):
        """Starts a persistent domain that is off."""
        os.path.exists(self.socket) and os.unlink(self.socket)
        self.host.virsh('start', self.name, '--paused')
        self.mon = Monitor(self.socket)

    def destroy(self):
        self.mon.close()
        # destroy does not wait until the driver is back, blockjob does
        self.host.virsh(f'blockjob {self.name} vda; destroy {self.name}')

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.mon:
            self.mon.close()
        self.host.virsh(f'blockjob {self.name} vda; destroy {self.name}; '
                        f'undefine {self.name} --checkpoints-metadata', check_exit=False)

    def path(self, *names):
        return os.path.join(self.dir, *names)

    def pid(self):
        with open(os.path.join(self.host.root, 'run', 'qemu', f'{self.name}.pid')) as f:
            return int(f.read())

    @staticmethod
    def alias(target):
        n = ord(target[-1]) - ord('a')
        return f'virtio-disk{n}' if target.startswith('vd') else f'sata0-0-{n}'

    def write(self, target, pattern, offset, length=CHUNK):
        """The guest writes, and flushes: another process sees it, too."""
        alias = self.alias(target)
        bytes_, failed = written(self.mon('query-blockstats'), alias)
        self.mon.hmp(qemu_io(alias, f'aio_write -P {pattern} {offset} {length}'))
        self.mon.hmp(qemu_io(alias, 'aio_flush'))
        self.mon.hmp(qemu_io(alias, 'flush'))
        check(written(self.mon('query-blockstats'), alias) == (bytes_ + length, failed),
              f'the guest cannot write to {target}')
        self.content[target][offset:offset + length] = bytes([pattern]) * length

    def flush(self, target):
        self.mon.hmp(qemu_io(self.alias(target), 'flush'))

    def discard(self, target, offset, length):
        self.mon.hmp(qemu_io(self.alias(target), f'discard {offset} {length}'))

    def flags(self):
        """Node name to what its cache mode, among others, comes down to."""
        return {n['node-name']: (n['drv'], n['ro'], n['detect_zeroes'], n['cache'])
                for n in self.mon('query-named-block-nodes', flat=True)}

    def nodes(self):
        return sorted(self.flags())

    def jobs(self):
        return sorted((j['id'], j['status']) for j in self.mon('query-jobs'))

    def bitmaps(self, node):
        for n in self.mon('query-named-block-nodes', flat=True):
            if n['node-name'] == node:
                return {b['name']: b for b in n.get('dirty-bitmaps', []) if 'name' in b}
        raise AssertionError(f'QEMU has no node {node}')

    def top(self, target):
        """The node that a frontend sits on."""
        for b in self.mon('query-block'):
            if b['qdev'] == frontend(self.alias(target)):
                return b['inserted']['node-name']
        raise AssertionError(f'QEMU has no disk {target}')

    def ready(self):
        jobs = self.mon('query-block-jobs')
        return bool(jobs) and all(j['ready'] for j in jobs)

    def wait_ready(self):
        """Until QEMU and the live XML say that the copy is ready."""
        wait_for(self.ready, 60, 0.02, 'the mirror to be ready')

        def shown():
            # dumpxml does not wait until the driver is back, blockjob does
            if not self.session:
                self.host.virsh('blockjob', self.name, 'vda')
            return "ready='yes'" in self.live()
        wait_for(shown, 5, 0.1, "<mirror ready='yes'>")

    def live(self):
        if self.session:
            return self.session.call(self.name, 'XMLDesc', 0)
        return self.host.virsh('dumpxml', self.name).strip() + '\n'

    def config(self):
        if self.transient:
            return ''
        if self.session:
            return self.session.call(self.name, 'XMLDesc', 2)
        return self.host.virsh('dumpxml', self.name, '--inactive').strip() + '\n'

    def domain_state(self):
        if self.session:
            return {1: 'running', 3: 'paused', 5: 'shut off'}.get(self.session.call(self.name, 'state')[0])
        return self.host.virsh('domstate', self.name).strip()

    def fails(self, code, text, method, *args, domain=FROM_QEMU):
        """fails() for a method of the domain; the error is the QEMU driver's unless told
        otherwise."""
        return fails(code, text, self.session.call, self.name, method, *args, domain=domain)

    def files(self):
        """What lies in the folder: sizes and checksums; of the images in use
        only that they are there, since QEMU may tidy them up."""
        used = {n.get('file', '') for n in self.mon('query-named-block-nodes', flat=True)}
        out = {}
        for base, _, names in os.walk(self.dir):
            for name in names:
                path = os.path.join(base, name)
                if path in used or not os.path.isfile(path):
                    out[path] = 'in use'
                else:
                    with open(path, 'rb') as f:
                        out[path] = (os.path.getsize(path), hashlib.sha1(f.read()).hexdigest())
        return out

    def state(self):
        """All that a failed or aborted operation must leave as it was."""
        return {
            'domain': self.domain_state(),
            'live XML': self.live(),
            'configuration': self.config(),
            'nodes': self.flags(),
            'jobs': self.jobs(),
            'tops': sorted((b['qdev'], b.get('inserted', {}).get('node-name')) for b in self.mon('query-block')),
            'objects': sorted(o['name'] for o in self.mon('qom-list', path='/objects')),
            'files': self.files(),
            'journal': self.host.live_files(),
        }

    def check_state(self, before, ignore=()):
        """Fails, and says where, unless the state is what it was before."""
        after = self.state()
        for key, value in before.items():
            if key not in ignore and after[key] != value:
                diff = '\n'.join(difflib.unified_diff(pprint.pformat(value).splitlines(),
                                                      pprint.pformat(after[key]).splitlines(), lineterm='', n=0))
                raise AssertionError(f'{key} changed:\n{diff}')


class LibvirtError(Exception):
    def __init__(self, code, text, domain=None):
        super().__init__(text)
        self.code = code
        self.domain = domain


def where(error):
    """The lines of the test that led to it, innermost last."""
    frames = [f for f in traceback.extract_tb(error.__traceback__)[1:] if not f.filename.startswith('/usr/')]
    return ' > '.join(f'{os.path.basename(f.filename)}:{f.lineno}' for f in frames)


def main(tests, argv=None):
    """Runs test functions, prints a line each, and 'N passed, N failed'."""
    names = (argv if argv is not None else sys.argv[1:])
    passed = failed = 0
    for test in tests:
        if names and test.__name__ not in names:
            continue
        start = time.monotonic()
        try:
            test()
        except Exception as e:  # a test may fail in any way
            failed += 1
            print(f'FAIL {test.__name__}: {type(e).__name__}: {e} ({where(e)})', flush=True)
            if os.environ.get('FERRY_TRACE'):
                traceback.print_exc()
        else:
            passed += 1
            print(f'ok   {test.__name__} ({time.monotonic() - start:.1f} s)', flush=True)
    print(f'{passed} passed, {failed} failed', flush=True)
    return 1 if failed or not passed else 0
