"""Two libvirt hosts on this machine, for migrations: each is a libvirtd with
namespaces of its own (network, mount, host name), joined by a cable. Stock
daemons, with Ferry's module or without.

    with Pair('ferry', 'stock') as pair:
        pair.a.virsh('start', 'guest')
        pair.a.virsh('migrate', '--live', '--copy-storage-all', 'guest', pair.b.uri)

A host sees its own image folder under the path pair.images, and one that it has
in common with the other under pair.shared; Machine.real() is how the test gets to
a host's files. Nothing is left at the end: a process that is still in one of the
network namespaces is killed, and with the last one the namespace goes.

FERRY_ROOT_A, FERRY_ROOT_B: the root folder of another release for that host, as ./ferry check --on makes it.

Called as a program this is the child process of a Client.

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later
"""

import concurrent.futures
import contextlib
import ctypes
import difflib
import itertools
import json
import os
import pprint
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import uuid

import ferrytest
from ferrytest import QUICK, Failed, LibvirtError, Monitor, check, run, wait_for

LIBVIRT_PORT = 16509
OLD_MACHINE = 'pc-q35-7.2'  # of the oldest QEMU: newer ones know it, too

# Puts the host into a root folder with another release of Debian, if one is named. What the test and both hosts
# share has the same path there.
ENTER = """
set -e
if [ -n "$3" ]; then
    pair=$(dirname "$1")
    mount --rbind "$3" "$3"
    cd "$3"
    mount --bind /proc proc
    mount --rbind /sys sys
    mount --rbind /dev dev
    mount -t tmpfs ferry-test var/tmp
    mkdir -p ".$pair" .host
    mount --rbind "$pair" ".$pair"
    mkdir -p "$4" ".$4"
    mount --rbind "$4" ".$4"
    pivot_root . .host
    cd /
    umount -l .host
fi
"""

# What a host has of its own. There are no cgroups: both hosts would use the same ones, so
# ending a domain would kill the other host's.
SETTLE = ENTER + """
for dir in $(grep -E '^[^ ]+ [^ ]+ cgroup2? ' /proc/self/mounts | cut -d' ' -f2); do umount -l "$dir"; done
mount --bind "$1/run" /run
mount --bind "$1/lib" /var/lib/libvirt
mount --bind "$1/cache" /var/cache/libvirt
mount --bind "$1/log" /var/log/libvirt
mount --bind "$1/etc" /etc/libvirt
mount --bind "$1/../hosts" /etc/hosts
mount --bind "$1/images" "$1/../images"
hostname "$2"
ip link set lo up
echo ready
exec sleep 3600
"""


def die_with_parent():
    """Runs in a child: a test that is killed leaves no daemon."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class Client:
    """Connections in a child process, so that no call can hang the test: calls
    may run side by side, on one each.

        c.call('guest', 'abortJob')
        job = c.begin('guest', 'migrateToURI3', uri, params, flags)
        ...
        job.result(30)

    An error of libvirt's is raised as LibvirtError. An argument {'open': URI}
    stands for another connection. c.events are lists: ['lifecycle', domain, event,
    detail], ['job', domain, statistics], ['block', domain, disk, type, status], and ['block
    path', domain, path, type, status]."""

    def __init__(self, uri):
        self.events = []
        self.waiting = {}
        self.numbers = itertools.count(1)
        self.lock = threading.Lock()
        self.waiting[0] = ready = concurrent.futures.Future()
        self.child = subprocess.Popen(['/usr/bin/python3', os.path.abspath(__file__), uri], text=True,
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=die_with_parent)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        try:
            ready.result(30)
        except BaseException:
            self.close()
            raise

    def _read(self):
        for line in self.child.stdout:
            said = json.loads(line)
            if 'event' in said:
                self.events.append(said['event'])
                continue
            with self.lock:
                job = self.waiting.pop(said['number'])
            if 'error' in said:
                job.set_exception(LibvirtError(said['code'], said['error'], said['domain']))
            else:
                job.set_result(said['result'])
        with self.lock:
            self.dead = True
            left = list(self.waiting.values())
        for job in left:
            job.set_exception(Failed('the client ended'))

    dead = False

    def begin(self, domain, method, *args):
        """A call of a domain's method, or of the connection's if domain is None.
        Returns its Future."""
        job = concurrent.futures.Future()
        with self.lock:
            if self.dead:
                raise Failed('the client ended')
            number = next(self.numbers)
            self.waiting[number] = job
            self.child.stdin.write(json.dumps(dict(number=number, domain=domain, method=method, args=args)) + '\n')
            self.child.stdin.flush()
        return job

    def call(self, domain, method, *args, timeout=30):
        return self.begin(domain, method, *args).result(timeout)

    def freeze(self):
        """The client stands still until it is thawed or closed."""
        self.child.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.child.send_signal(signal.SIGCONT)

    def close(self):
        self.child.kill()
        self.child.wait()
        self.reader.join(5)
        for pipe in self.child.stdin, self.child.stdout:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


class Machine:
    """One of the two hosts. name: a or b"""

    def __init__(self, pair, name, driver, address):
        self.pair, self.name, self.driver, self.address = pair, name, driver, address
        # of another release, as ./ferry check --on makes it; '': this one's
        self.root = os.environ.get(f'FERRY_ROOT_{name.upper()}', '')
        self.dir = os.path.join(pair.dir, name)
        self.daemon = self.space = None
        self.client = None
        for sub in 'run', 'lib', 'cache', 'log', 'etc', 'images', 'modules':
            os.makedirs(os.path.join(self.dir, sub))
        os.makedirs(os.path.join(self.dir, 'run', 'lock'))
        self.capabilities = ferrytest.Capabilities(os.path.basename(self.root) or 'daemon',
                                                   os.path.join(self.dir, 'cache'))
        self.socket = os.path.join(self.dir, 'run', 'libvirt', 'libvirt-sock')
        # from outside, and from the other host
        self.uri = f'qemu+unix:///system?socket={urllib.parse.quote(self.socket)}'
        self.tcp = f'qemu+tcp://{address}/system'
        self.log = os.path.join(self.dir, 'libvirtd.log')
        self.make_etc()
        self.make_modules()
        for path in '/var/lib/libvirt', '/var/cache/libvirt', '/var/log/libvirt', '/etc/libvirt':
            os.makedirs(self.root + path, exist_ok=True)
        self.space = subprocess.Popen(['unshare', '-m', '-n', '-u', '--propagation', 'private', 'sh', '-c', SETTLE,
                                       'sh', self.dir, f'ferry-{name}', self.root,
                                       os.path.join(ferrytest.BUILD, 'guest')], stdin=subprocess.DEVNULL,
                                      stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent)
        check(self.space.stdout.readline() == 'ready\n', 'the namespaces cannot be set up')
        self.net = os.readlink(f'/proc/{self.space.pid}/ns/net')
        check(self.net != os.readlink('/proc/self/ns/net'), 'the network namespace is not its own')

    def make_etc(self):
        with open(os.path.join(ferrytest.TOP, 'tests', 'qemu.conf')) as f:
            conf = f.read()
        # connections between daemons count as dead after 8 s; Ferry waits 6 s for an NBD
        # server
        self.write_etc('qemu.conf', conf + 'keepalive_interval = 2\nkeepalive_count = 3\n')
        self.write_etc('ferry.conf', 'migrate_reconnect = 6\n')
        self.write_etc('libvirtd.conf',
                       'listen_tls = 0\nlisten_tcp = 1\nauth_tcp = "none"\nauth_unix_ro = "none"\n'
                       'auth_unix_rw = "none"\nkeepalive_interval = -1\n'
                       f'host_uuid = "{uuid.uuid4()}"\nlog_outputs = "1:file:{self.log}"\n'
                       f'log_filters = "{os.environ.get("FERRY_LOG", "2:qemu 2:ferry 3:*")}"\n')
        for name in 'libvirt.conf', 'qemu-lockd.conf':
            self.write_etc(name, '')

    def write_etc(self, name, text):
        with open(os.path.join(self.dir, 'etc', name), 'w') as f:
            f.write(text)

    def make_modules(self):
        """The QEMU driver and what it cannot do without: this host starts no
        networks."""
        if self.driver == 'ferry':
            check(ferrytest.DRIVER_DIR, 'FERRY_DRIVER_DIR is not set: run this through ./ferry')
        folder = self.built(ferrytest.DRIVER_DIR) if self.driver == 'ferry' else ferrytest.STOCK_DIR
        for name in os.listdir(self.root + folder):
            if name.endswith(('driver_qemu.so', 'driver_secret.so', 'driver_storage.so')):
                file = os.path.join(folder, name)
                if os.path.islink(self.root + file):
                    file = os.path.join(folder, os.readlink(self.root + file))
                os.symlink(file, os.path.join(self.dir, 'modules', name))

    def built(self, path):
        """The host's own build of something that was built here."""
        return os.path.join('/ferry/build', os.path.relpath(path, ferrytest.BUILD)) if self.root else path

    # Its files, its processes

    def daemon_command(self):
        return ['libvirtd', '--listen']

    def inside(self, *args):
        """A command line that runs in the host."""
        return ['nsenter', '-t', str(self.space.pid), '-m', '-n', '-u', *[str(a) for a in args]]

    def run(self, *args, **kwargs):
        return run(*self.inside(*args), **kwargs)

    def real(self, path):
        """A path of the host's as the test can use it; not for qemu-img where a
        backing image is named, use run() for that."""
        return f'/proc/{self.space.pid}/root{path}'

    def image(self, name):
        return self.real(self.pair.image(name))

    def pids(self):
        """Everything that runs in the host."""
        found = []
        for pid in filter(str.isdigit, os.listdir('/proc')):
            with contextlib.suppress(OSError):
                if os.readlink(f'/proc/{pid}/ns/net') == self.net:
                    found.append(int(pid))
        return found

    def qemu_pids(self):
        """The QEMUs of domains, without those that libvirtd starts to probe capabilities."""
        found = []
        for pid in self.pids():
            with contextlib.suppress(OSError), open(f'/proc/{pid}/cmdline') as f:
                args = f.read().split('\0')
                if 'qemu-system' in args[0] and any(a.startswith('guest=') for a in args):
                    found.append(pid)
        return sorted(found)

    def kill_qemu(self):
        """SIGKILL to the only QEMU there is."""
        pid, = self.qemu_pids()
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not os.path.exists(f'/proc/{pid}'), 10, 0.02, f'the end of QEMU {pid}')

    # The daemon

    may_fall_back = False  # the loader may take the stock driver

    def start(self):
        env = dict(os.environ, LIBVIRT_DRIVER_DIR=os.path.join(self.dir, 'modules'), LC_ALL='C.UTF-8')
        logged = os.path.getsize(self.log) if os.path.exists(self.log) else 0
        # a sanitizer has to be the first library
        if not env.get('FERRY_DAEMON_PRELOAD'):
            env['LD_PRELOAD'] = QUICK and self.built(QUICK)
        self.daemon = subprocess.Popen(self.inside(*self.daemon_command()), env=env, stdin=subprocess.DEVNULL,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                       preexec_fn=die_with_parent)

        def answers():
            check(self.daemon.poll() is None, f'libvirtd ended: see {self.log}')
            try:
                self.client = Client(self.uri)
                return True
            except LibvirtError:
                return False
        wait_for(answers, 30, 0.1, 'libvirtd')
        if self.driver == 'ferry' and not self.may_fall_back:
            with open(self.log, errors='replace') as f:
                f.seek(logged)
                ferrytest.check_loaded(f.read())

    def stop(self, how=signal.SIGTERM):
        """Ends the daemon; QEMUs stay."""
        if self.client:
            self.client.close()
            self.client = None
        if self.daemon:
            # what was started is nsenter, and became libvirtd
            self.daemon.send_signal(how)
            try:
                self.daemon.wait(20)
            except subprocess.TimeoutExpired:
                self.daemon.kill()
                self.daemon.wait(20)
                raise AssertionError(f'libvirtd of {self.name} did not end')
            finally:
                self.daemon = None

    def kill(self):
        """The daemon gets no chance to clean up."""
        self.stop(signal.SIGKILL)

    def restart(self):
        self.kill()
        self.start()

    def freeze(self):
        """The daemon stands still, until it is thawed, or killed."""
        self.daemon.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.daemon.send_signal(signal.SIGCONT)

    def close(self):
        """Ends all that runs here, the namespaces' keeper last."""
        with contextlib.suppress(Exception):
            self.kill()
        self.capabilities.keep()
        if not self.space:
            return

        def gone():
            left = [pid for pid in self.pids() if pid != self.space.pid]
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not left
        try:
            wait_for(gone, 20, 0.05, f'the processes of {self.name} to end')
        finally:
            self.space.kill()
            self.space.wait(20)
            self.space.stdout.close()

    # Calls

    def virsh(self, *args, timeout=60, **kwargs):
        """From outside: not as a client in the host."""
        return run('virsh', '-q', '-c', self.uri, *args, timeout=timeout, **kwargs)

    def virsh_fails(self, *args, **kwargs):
        """A virsh call that must fail; returns what it said."""
        try:
            out = self.virsh(*args, **kwargs)
        except Failed as e:
            return str(e)
        raise AssertionError(f'virsh {" ".join(map(str, args))} did not fail: {out}')

    def call(self, domain, method, *args, **kwargs):
        return self.client.call(domain, method, *args, **kwargs)

    def domains(self):
        """Names, with True for those that run."""
        return {name: bool(on) for name, on in self.call(None, 'ferry_domains')}

    def running(self, name):
        """Does it run, with its CPUs?"""
        return self.domains().get(name) and self.call(name, 'state')[0] == 1

    def monitor_path(self, name):
        return os.path.join(self.dir, 'run', f'{name}.qmp')

    @contextlib.contextmanager
    def monitor(self, name):
        """QMP of a domain whose XML came from Pair.domain(): works during a
        migration, and without a daemon."""
        mon = Monitor(self.monitor_path(name))
        try:
            yield mon
        finally:
            mon.close()

    def qmp(self, name, command, **arguments):
        with self.monitor(name) as mon:
            return mon(command, **arguments)

    def log_text(self, start=0):
        with open(self.log, errors='replace') as f:
            f.seek(start)
            return f.read()

    # What there is

    def listening(self):
        """(address, port) of each TCP socket that waits for connections, the
        daemon's own not counted."""
        found = set()
        for name in 'tcp', 'tcp6':
            with open(f'/proc/{self.space.pid}/net/{name}') as f:
                for line in f.readlines()[1:]:
                    fields = line.split()
                    address, _, port = fields[1].partition(':')
                    if fields[3] == '0A' and int(port, 16) != LIBVIRT_PORT:
                        found.add((self._address(address), int(port, 16)))
        return sorted(found)

    @staticmethod
    def _address(text):
        if len(text) > 8:
            return '::' if not int(text, 16) else text
        return '.'.join(str(b) for b in reversed(bytes.fromhex(text)))

    def sockets(self):
        """Unix sockets of the host that wait for connections and have a name."""
        with open(f'/proc/{self.space.pid}/net/unix') as f:
            rows = [line.split() for line in f.readlines()[1:]]
        return sorted(r[7] for r in rows if len(r) > 7 and int(r[3], 16) & 0x10000)

    def journals(self):
        with contextlib.suppress(FileNotFoundError):
            return sorted(os.listdir(os.path.join(self.dir, 'lib', 'ferry')))
        return []

    def files(self, path):
        """Names of all below a folder."""
        top = self.real(path)
        return sorted(os.path.relpath(os.path.join(base, n), top)
                      for base, dirs, names in os.walk(top) for n in dirs + names)

    def content(self, path, fmt):
        """What an image shows a guest; for the host it has this path."""
        fd, tmp = tempfile.mkstemp(prefix='content-', dir=self.pair.dir)
        os.close(fd)
        try:
            self.run('qemu-img', 'convert', '-U', '-f', fmt, '-O', 'raw', path, tmp)
            with open(tmp, 'rb') as f:
                return f.read()
        finally:
            os.unlink(tmp)

    def info(self, path):
        """qemu-img's view of an image."""
        return json.loads(self.run('qemu-img', 'info', '-U', '--output', 'json', path))

    def block_state(self, name):
        """Of a running domain, as QEMU sees it."""
        with self.monitor(name) as mon:
            nodes = mon('query-named-block-nodes', flat=True)
            return {
                'status': mon('query-status')['status'],
                'nodes': {n['node-name']: (n['drv'], n['ro'], n['cache'], n['detect_zeroes'],
                                           sorted(b.get('name', '') for b in n.get('dirty-bitmaps', [])))
                          for n in nodes},
                'tops': sorted((b['qdev'], b.get('inserted', {}).get('node-name')) for b in mon('query-block')),
                'jobs': [(j['id'], j['type'], j['status']) for j in mon('query-jobs')],
                'exports': [e['id'] for e in mon('query-block-exports')],
                'objects': sorted(o['name'] for o in mon('qom-list', path='/objects')),
                'capabilities': [c['capability'] for c in mon('query-migrate-capabilities') if c['state']],
                'parameters': mon('query-migrate-parameters'),
            }

    def saved_job(self, name):
        """What the driver would know of a domain's job if it were started again."""
        with open(os.path.join(self.dir, 'run', 'libvirt', 'qemu', f'{name}.xml')) as f:
            return re.findall('<job .*', f.read())

    def state(self):
        """All that a migration that failed must leave as it was, here."""
        domains = {}
        for name, on in self.domains().items():
            one = domains[name] = {'state': self.call(name, 'state')}
            # the stock driver forgets the alias of a controller that is none when it starts again
            one['live XML'] = re.sub("(<controller type='usb' index='0' model='none')>.*?</controller>", r'\1/>',
                                     self.call(name, 'XMLDesc', 0), flags=re.S)
            if self.call(name, 'isPersistent'):
                one['configuration'] = self.call(name, 'XMLDesc', 2)
            if on:
                one['job'] = self.call(name, 'jobStats', 0).get('type')
                one['saved job'] = self.saved_job(name)
                one.update(self.block_state(name))
        return {
            'domains': domains,
            'QEMUs': self.qemu_pids(),
            'listening': self.listening(),
            'sockets': self.sockets(),
            'journals': self.journals(),
            'images': self.files(self.pair.images),
            'shared': self.files(self.pair.shared),
        }


class Pair:
    """The two hosts, a and b, and the cable between them. Use as a context
    manager."""

    def __init__(self, driver_a='ferry', driver_b='ferry', machine=Machine):
        ferrytest.adopt_qemus()
        self.drivers = driver_a, driver_b
        self.dir = tempfile.mkdtemp(prefix='ferry-two-', dir=os.environ.get('FERRY_TMP', '/var/tmp'))
        os.chmod(self.dir, 0o755)
        self.images = os.path.join(self.dir, 'images')
        self.shared = os.path.join(self.dir, 'shared')
        os.mkdir(self.images)
        os.mkdir(self.shared)
        with open(os.path.join(self.dir, 'hosts'), 'w') as f:
            f.write('127.0.0.1 localhost\n10.88.0.1 ferry-a\n10.88.0.2 ferry-b\n')
        self.machines = []
        try:
            for name, driver, address in ('a', driver_a, '10.88.0.1'), ('b', driver_b, '10.88.0.2'):
                self.machines.append(machine(self, name, driver, address))
            self.a, self.b = self.machines
            # both ends are made inside: the machine's own network never sees them
            self.a.run('ip', 'link', 'add', 'cable', 'type', 'veth', 'peer', 'name', 'cable',
                       'netns', self.b.space.pid)
            for machine in self.machines:
                machine.run('ip', 'addr', 'add', f'{machine.address}/24', 'dev', 'cable')
                machine.run('ip', 'link', 'set', 'cable', 'up')
            for machine in self.machines:
                machine.start()
        except BaseException:
            self.close(keep=True)
            raise

    def close(self, keep=False):
        try:
            for machine in self.machines:
                machine.close()
        finally:
            if keep:
                print(f'# files kept in {self.dir}', file=sys.stderr, flush=True)
            else:
                shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close(keep=exc[0] is not None)

    def image(self, name):
        return os.path.join(self.images, name)

    def domain(self, name, disks, **kwargs):
        """Domain XML that means the same on both, with a monitor for each."""
        # /run/NAME.qmp is a different file on each host
        xml = ferrytest.with_monitor(ferrytest.domain_xml(name, disks, **kwargs), f'/run/{name}.qmp')
        return xml.replace("machine='q35'", f"machine='{OLD_MACHINE}'") if any(m.root for m in self.machines) else xml

    # The cable

    def cut(self, machine=None):
        """Pulls the cable at the far end: what is sent is lost, and no connection is told.
        The near end has no route either."""
        (machine or self.b).run('ip', 'link', 'set', 'cable', 'down')

    def mend(self, machine=None):
        (machine or self.b).run('ip', 'link', 'set', 'cable', 'up')

    @contextlib.contextmanager
    def slow(self, rate='16mbit'):
        """A slow cable."""
        for machine in self.machines:
            machine.run('tc', 'qdisc', 'add', 'dev', 'cable', 'root', 'tbf', 'rate', rate, 'burst', '64k',
                        'latency', '200ms')
        try:
            yield
        finally:
            self.fast()

    def fast(self):
        """A cable that is not slow any more."""
        for machine in self.machines:
            machine.run('tc', 'qdisc', 'del', 'dev', 'cable', 'root', check_exit=False)

    # Checks

    def state(self):
        return {machine.name: machine.state() for machine in self.machines}

    def check_state(self, before, seconds=10, paused=False):
        """Fails, and says where, unless both hosts become again what they were;
        a QEMU that was told to end, or a socket, may take a moment. paused: guests
        may have been, so that it is no matter why they run."""
        end = time.monotonic() + seconds
        while True:
            try:
                after = self.state()
            except (LibvirtError, Failed, OSError):
                # a domain that is just about to go
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)
                continue
            for state in (before, after) if paused else ():
                for machine in state.values():
                    for domain in machine['domains'].values():
                        del domain['state'][1:]
            if after == before:
                return
            if time.monotonic() > end:
                diff = '\n'.join(difflib.unified_diff(pprint.pformat(before, width=110).splitlines(),
                                                      pprint.pformat(after, width=110).splitlines(),
                                                      'before', 'after', lineterm='', n=2))
                raise AssertionError(f'state changed:\n{diff}')
            time.sleep(0.2)

    def check_idle(self):
        """Fails unless no host has anything, images included."""
        for machine in self.machines:
            state = machine.state()
            left = {key: value for key, value in state.items() if value and key != 'sockets'}
            left.update({'sockets': [s for s in state['sockets'] if '/qemu/' in s or 'nbd' in s]})
            left = {key: value for key, value in left.items() if value}
            check(not left, f'left on {machine.name}: {left}')


# The child process of a Client

def plain(value):
    """What JSON can say; an object of libvirt's is its name."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (int, float, str, type(None))):
        return value
    return value.name() if hasattr(value, 'name') else str(value)


def serve(uri):
    import libvirt
    lock = threading.Lock()

    def say(**what):
        with lock:
            print(json.dumps(what), flush=True)

    def loop():
        while True:
            libvirt.virEventRunDefaultImpl()

    @contextlib.contextmanager
    def connection():
        """A connection that no other call uses. Before 10.0 libvirt's client may miss a
        second call on a connection until the first is answered."""
        with lock:
            mine = idle.pop() if idle else None
        mine = mine or libvirt.open(uri)
        try:
            yield mine
        finally:
            with lock:
                idle.append(mine)

    def answer(number, domain, method, args):
        try:
            args = [libvirt.open(a['open']) if isinstance(a, dict) and 'open' in a else a for a in args]
            with connection() as mine:
                if method == 'ferry_domains':
                    result = []
                    for d in mine.listAllDomains():
                        # one may go meanwhile
                        with contextlib.suppress(libvirt.libvirtError):
                            result.append((d.name(), d.isActive()))
                else:
                    result = getattr(mine.lookupByName(domain) if domain else mine, method)(*args)
            say(number=number, result=plain(result))
        except libvirt.libvirtError as e:
            say(number=number, error=str(e), code=e.get_error_code(), domain=e.get_error_domain())
        except Exception as e:
            say(number=number, error=f'{type(e).__name__}: {e}', code=-1, domain=-1)

    libvirt.registerErrorHandler(lambda ctx, err: None, None)
    libvirt.virEventRegisterDefaultImpl()
    try:
        conn = libvirt.open(uri)
    except libvirt.libvirtError as e:
        say(number=0, error=str(e), code=e.get_error_code(), domain=e.get_error_domain())
        return
    idle = [conn]
    threading.Thread(target=loop, daemon=True).start()
    for kind, name, pick in (
            (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, 'lifecycle', lambda event, detail, _: [event, detail]),
            (libvirt.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED, 'job', lambda stats, _: [stats]),
            (libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2, 'block', lambda disk, type_, status, _: [disk, type_, status]),
            (libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB, 'block path',
             lambda path, type_, status, _: [path, type_, status])):
        conn.domainEventRegisterAny(None, kind, lambda conn, dom, *rest, name=name, pick=pick: say(
            event=[name, dom.name(), *pick(*rest)]), None)
    say(number=0, result='ready')
    for line in sys.stdin:
        # a thread for each call, since one may wait for the end of another
        threading.Thread(target=answer, kwargs=json.loads(line), daemon=True).start()
    os._exit(0)


if __name__ == '__main__':
    serve(sys.argv[1])
