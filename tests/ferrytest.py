"""What the live tests, the demo and the benchmarks share.

A Host is an embedded QEMU driver with a root folder of its own: stock, or with
Ferry in it. Since an embedded driver lives in the process that uses it, every
Host.virsh() call is a driver restart. A Session keeps one driver in a child
process and collects its events.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid

TOP = os.environ.get('FERRY_TOP', os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get('FERRY_BUILD', os.path.join(TOP, 'build'))
DRIVER_DIR = os.environ.get('FERRY_DRIVER_DIR', '')
QEMU = shutil.which('qemu-system-x86_64')


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


def wait_for(condition, seconds=30, step=0.05, what='a condition'):
    """Polls until condition() is true; returns its value."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f'waited {seconds} s for {what}')
        time.sleep(step)


# Images

def create_image(path, size, fmt='qcow2', backing=None, options=None):
    args = ['qemu-img', 'create', '-q', '-f', fmt]
    if options:
        args += ['-o', options]
    if backing:
        args += ['-b', backing[0], '-F', backing[1]]
    run(*args, path, *([size] if size else []))
    return path


def write_image(path, pattern, offset, length, fmt='qcow2'):
    """Writes a byte pattern into an image that no QEMU uses."""
    run('qemu-io', '-f', fmt, '-c', f'write -P {pattern} {offset} {length}', path)


def same_data(a, a_fmt, b, b_fmt):
    """Do two images show a guest the same? Also while a QEMU uses them."""
    p = subprocess.run(['qemu-img', 'compare', '-q', '-U', '-f', a_fmt, '-F', b_fmt, a, b],
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if p.returncode > 1:
        raise Failed(p.stdout)
    return p.returncode == 0


def allocated(path):
    """Bytes that a file takes on its disk."""
    return os.stat(path).st_blocks * 512


# Domains

def disk_xml(target, path, fmt='qcow2', driver='', extra=''):
    return (f"<disk type='file' device='disk'><driver name='qemu' type='{fmt}' {driver}/>"
            f"<source file='{path}'/><target dev='{target}' bus='virtio'/>{extra}</disk>")


def domain_xml(name, disks, memory=64, os_extra='', devices='', uuid_=None):
    """A small domain without KVM, network or graphics."""
    return f"""<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid_ or uuid.uuid4()}</uuid>
  <memory unit='MiB'>{memory}</memory>
  <vcpu>1</vcpu>
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


class Host:
    """An embedded QEMU driver. Use as a context manager: it leaves nothing
    running."""

    def __init__(self, driver='ferry', root=None, preload=None):
        self.driver = driver
        self.dir = root or tempfile.mkdtemp(prefix=f'ferry-test-{driver}-', dir=os.environ.get('FERRY_TMP', '/var/tmp'))
        self.root = os.path.join(self.dir, 'root')
        self.uri = f'qemu:///embed?root={self.root}'
        self.env = dict(os.environ, LIBVIRT_LOG_OUTPUTS=f'3:file:{self.dir}/libvirt.log', LC_ALL='C.UTF-8')
        self.env.pop('LIBVIRT_DRIVER_DIR', None)
        if driver == 'ferry':
            check(DRIVER_DIR, 'FERRY_DRIVER_DIR is not set: run this through ./ferry')
            self.env['LIBVIRT_DRIVER_DIR'] = DRIVER_DIR
        if preload:
            self.env['LD_PRELOAD'] = preload
        os.makedirs(os.path.join(self.root, 'etc'), exist_ok=True)
        shutil.copy(os.path.join(TOP, 'tests', 'qemu.conf'), os.path.join(self.root, 'etc', 'qemu.conf'))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close(keep=exc[0] is not None)

    def close(self, keep=False):
        for pid in self.qemu_pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if keep:
            print(f'# files kept in {self.dir}', file=sys.stderr)
        else:
            shutil.rmtree(self.dir, ignore_errors=True)

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
        """One virsh call, one life of the driver."""
        return run('virsh', '-q', '-c', self.uri, *args, env=dict(self.env, **(env or {})), **kwargs)

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
        out = self.hmp(name, f'qemu-io -d /machine/peripheral/{alias}/virtio-backend '
                             f'"write -P {pattern} {offset} {length}"')
        check('wrote' in out, f'write to {alias} failed: {out}')

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

    def __init__(self, host):
        self.host = host
        self.child = subprocess.Popen(['/usr/bin/python3', os.path.join(TOP, 'tests', 'session.py'), host.uri],
                                      env=host.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._reply()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def _reply(self):
        line = self.child.stdout.readline()
        if not line:
            raise Failed(f'session ended: {self.child.wait()}')
        return json.loads(line)

    def request(self, **what):
        self.child.stdin.write(json.dumps(what) + '\n')
        self.child.stdin.flush()
        reply = self._reply()
        if 'error' in reply:
            raise LibvirtError(reply['code'], reply['error'])
        return reply['result']

    def call(self, domain, method, *args):
        """Calls a method of virDomain."""
        return self.request(domain=domain, method=method, args=args)

    def events(self, wait=0.0):
        """Block job events so far, oldest first, as [event, disk, type, status]."""
        return self.request(events=True, wait=wait)

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


class LibvirtError(Exception):
    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


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
            print(f'FAIL {test.__name__}: {type(e).__name__}: {e}', flush=True)
            if os.environ.get('FERRY_TRACE'):
                import traceback
                traceback.print_exc()
        else:
            passed += 1
            print(f'ok   {test.__name__} ({time.monotonic() - start:.1f} s)', flush=True)
    print(f'{passed} passed, {failed} failed', flush=True)
    return 1 if failed or not passed else 0
