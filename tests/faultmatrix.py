"""The fault matrix: every step of every plan fails, loses QEMU, or loses the
driver, before and after it acts or is undone. Afterwards everything is as
before the operation or as after it, and the operation works when it is tried
again.

Nobody writes these cases: the plans are read out of the module (plans.py), the
faults are put between engine and step (faults.c). What is written is how to
set a plan going, and what "before" and "after" look like: a Scene.

While no driver runs "ferry status" is asked what the next one will do, and that
is compared with what it does.

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later
"""

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import plans
from ferrytest import (BUILD, COMMAND, MODULE, Failed, Guest, Host, LibvirtError, Monitor, Session, adopt_qemus, check,
                       disk_xml, domain_xml, main, qemu_io, run, wait_for, with_monitor)
from forkserver import ForkServer

PRELOAD = os.environ.get('FERRY_FAULTS', os.path.join(BUILD, 'meson', 'tests', 'libferryfaults.so'))
FAULTS = ('error', 'disconnect', 'kill-qemu', 'kill-driver')

# The suite whose scenes run all plans of an operation. An operation that no suite is
# responsible for is an error in every suite.
SUITES = {
    'copy': 'suite-faults',
    'snapshot': 'suite-faults',
    'backup': 'suite-faults-backup',
    'checkpoint': 'suite-faults-backup',
    'migration': 'suite-faults-migration',
    'incoming': 'suite-faults-migration',
}

# libvirt's constants, which are only available with its Python module
INACTIVE = 2
PAUSED = 1
NO_DOMAIN = 42
UNDEFINE_METADATA = 1 << 1 | 1 << 4 # of snapshots and checkpoints


class Bench:
    """A driver that can be broken and started again. meanwhile() is called while no driver
    runs."""

    def __init__(self, host):
        adopt_qemus()
        self.host = host
        self.meanwhile = lambda: None
        self.fault_file = host.path('fault')
        host.env.update(LD_PRELOAD=PRELOAD, FERRY_FAULT_FILE=self.fault_file, FERRY_FAULT_IMAGES=host.dir)
        self.fault(None)
        self.server = ForkServer(MODULE, host.env)
        self.session = Session(host, server=self.server)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        self.session.close()
        self.server.close()

    def fault(self, what):
        with open(self.fault_file, 'w') as f:
            f.write(what or '')

    def call(self, domain, method, *args, **kwargs):
        """A call to a driver that may die of it."""
        try:
            return self.session.request(domain=domain, method=method, args=args, **kwargs)
        except (BrokenPipeError, Failed):
            self.fault(None)
            self.restart()
            raise Failed('the driver died')

    def restart(self):
        self.session.kill()
        self.meanwhile()
        self.session = Session(self.host, server=self.server)

    def foretell(self, domain):
        return foretell(os.path.join(self.host.root, 'lib', 'ferry'), domain)


def foretell(journals, domain):
    """What "ferry status" says of the domain's operations while no driver runs: what becomes of them.
    journals: the folder"""
    said = json.loads(run(COMMAND, 'status', '--json', '--journals', journals, domain))
    check(said['daemon'] is None and said['set-aside'] == [], f'ferry status says {said}')
    return [op['next-start'] for op in said['operations']]


class Scene:
    """A domain that something is about to be done with.

    A class says which plans it sets going:
        PLANS = {(operation, plan): (prepare, act)}
        UNDONE = the same for plans that act() undoes
    """

    PLANS = {}
    UNDONE = {}
    DISKS = ('vda',)
    BUS = 'virtio'
    SOURCE = 'qcow2' # format of the disks' images
    TRANSIENT = False
    START = PAUSED # virDomainCreateFlags
    killed = False # the QEMU that wrote to the images was

    def __init__(self, bench, number):
        self.bench = bench
        self.host = bench.host
        self.name = f'g{number}'
        self.transient = self.TRANSIENT
        self.prepare()
        disks = [disk_xml(d, self.image(d), self.SOURCE).replace("bus='virtio'", f"bus='{self.BUS}'") for d in self.DISKS]
        self.xml = with_monitor(domain_xml(self.name, disks), self.path('qmp'))
        if not self.transient:
            bench.session.call(None, 'defineXML', self.xml)
        self.start()

    def start(self):
        if self.transient:
            self.bench.session.call(None, 'createXML', self.xml, self.START)
        else:
            self.bench.session.call(self.name, 'createWithFlags', self.START)
        self.qmp = Monitor(self.path('qmp'))

    @classmethod
    def impossible(cls, plan, fault):
        """Is this a fault that cannot happen to this plan?"""
        return False

    def path(self, name):
        return self.host.path(f'{self.name}-{name}')

    def image(self, disk):
        return self.path(f'{disk}.{self.SOURCE}')

    def call(self, method, *args, **kwargs):
        return self.bench.call(self.name, method, *args, **kwargs)

    def write(self, pattern, offset, length):
        """Writes to the first disk as the guest would."""
        disk = Guest.alias(self.DISKS[0])
        self.qmp.hmp(qemu_io(disk, f'aio_write -P {pattern} {offset} {length}'))
        self.qmp.hmp(qemu_io(disk, 'aio_flush'))
        # only what was flushed has to survive a SIGKILL of QEMU
        self.qmp.hmp(qemu_io(disk, 'flush'))

    def running(self):
        try:
            return self.call('isActive') == 1
        except LibvirtError as e:
            if self.transient and e.code == NO_DOMAIN:
                return False
            raise

    def settle(self, fault):
        """Until the driver has dealt with whatever happened: a call that takes
        the domain's job comes after recovery, or after the end of QEMU, which
        the driver also kills when it has lost the connection."""
        def settled():
            try:
                self.call('blockJobInfo', self.DISKS[0], 0)
                return fault not in ('kill-qemu', 'disconnect')
            except LibvirtError:
                return not self.running()
        wait_for(settled, 60, 0.02, 'recovery')

    def config_source(self):
        """The first disk's image in the configuration; of a transient domain where it is now,
        None when it has ended."""
        if self.transient and not self.running():
            return None
        xml = ET.fromstring(self.call('XMLDesc', INACTIVE))
        return xml.find('devices/disk/source').get('file')

    def live_disks(self):
        """The disks' live XML; the numbers of nodes are not the user's."""
        xml = self.call('XMLDesc', 0)
        return re.sub(r" index='\d+'", '', ''.join(re.findall(r'<disk.*?</disk>', xml, re.S)))

    def journal(self):
        """Is there one? What it says may differ, and it may go just now."""
        def text(path):
            try:
                with open(path) as f:
                    return f.read()
            except FileNotFoundError:
                return ''
        return any(f"name='{self.name}'" in text(f) for f in self.host.live_files())

    def files(self):
        return sorted(f.lstrip('.')[len(self.name):] for f in os.listdir(self.host.dir)
                      if f.lstrip('.').startswith(self.name + '-') and not f.endswith('-qmp'))

    def state(self):
        """All that an operation may change and must put back. Whether a mirror
        is ready by now is a matter of time, and not looked at."""
        state = {'config': self.config_source(), 'files': self.files(), 'journal': self.journal()}
        if self.running():
            nodes = self.qmp('query-named-block-nodes', flat=True)
            jobs = self.qmp('query-jobs')
            state.update(
                live=self.live_disks().replace(" ready='yes'", ''),
                nodes=sorted((re.sub(r'\d+', 'N', n['node-name']), str(n['cache']), n['ro'],
                              n.get('backing_file_depth'), bitmaps(n)) for n in nodes),
                exports=sorted(e['id'] for e in self.qmp('query-block-exports')),
                objects=sorted(o['name'] for o in self.qmp('qom-list', path='/objects')),
                jobs=sorted((j['id'], re.sub('running|standby', 'ready', j['status'])) for j in jobs))
        state.update(self.more_state())
        return {k: re.sub(r'libvirt-\d+-', 'libvirt-N-', re.sub(r'\bg\d+-', 'g-', repr(v)))
                for k, v in state.items()}

    def more_state(self):
        return {}

    def prepare(self):
        """Makes the images."""
        raise NotImplementedError

    def nudge(self, act):
        """For a step that does not know what it did: makes the next call, which finds out
        and goes on, unless an event came first."""
        try:
            act(self)
        except LibvirtError:
            pass

    def check_stopped(self):
        """QEMU is gone. Checks what must hold besides an empty journal."""

    def check_data(self):
        """The domain is shut off and the operation was repeated. Checks the data."""

    def again(self, states):
        """Whatever the outcome was, the user can now have what was asked for."""

    def drop_kept(self):
        """Removes what an end that came when the work was done has left to the user."""

    def finish(self):
        if self.running():
            self.call('destroy')
        if not self.transient:
            self.call('undefineFlags', UNDEFINE_METADATA)
        self.qmp.close()
        for f in os.listdir(self.host.dir):
            if f.lstrip('.').startswith(self.name + '-'):
                os.unlink(self.host.path(f))


def bitmaps(node):
    return sorted((b.get('name', ''), b['recording'], b['persistent'], b.get('inconsistent', False))
                  for b in node.get('dirty-bitmaps', []))


def reference(bench, cls, trigger):
    """The states without the operation, before it, and after it, when nothing
    goes wrong."""
    prepare, act = trigger
    scene = cls(bench, 0)
    states = [scene.state()]
    prepare(scene)
    states.append(scene.state())
    act(scene)
    states.append(scene.state())
    scene.finish()
    return states


def check_foretold(scene, foretold, states, undone, early):
    """What is there now, or soon, is what "ferry status" had said. undone: act() is an end of what the plan
    has begun. early: the driver was killed before the step that the journal names, so that the job which
    was to go on may not be there."""
    def came():
        now = scene.state()
        if 'depends' in foretold:
            return now in states
        if 'goes-on' in foretold:
            # one that ends by itself may have done so by now
            return now == states[2] or now in states and (early or now['journal'] == 'True')
        if 'forward' in foretold or undone:
            return now == states[2]
        return now in states[:2]
    wait_for(came, 20, 0.2, f'what was foretold: {foretold}')


def case(bench, number, cls, trigger, states, name, fault):
    prepare, act = trigger
    scene = cls(bench, number)
    foretold = []

    def foretell():
        foretold[:] = bench.foretell(scene.name)
    bench.meanwhile = foretell
    prepare(scene)
    bench.fault(name)
    said = 'nothing'
    try:
        act(scene)
    except (LibvirtError, Failed) as e:
        said = str(e)
    bench.fault(None)
    if fault in ('error', 'unknown'):
        check('injected failure' in said, f'the error was not reported: {said}')
    scene.settle(fault)
    bench.meanwhile = lambda: None

    if not scene.running():
        check(fault in ('disconnect', 'kill-qemu'), 'the domain stopped')
        scene.killed = True
        # what is left on storage may be dealt with behind the end of QEMU
        wait_for(lambda: not scene.journal(), 20, 0.1, 'the journal to go')
        scene.check_stopped()
    else:
        check(fault not in ('kill-qemu', 'disconnect'), 'QEMU survived')
        if fault == 'unknown':
            scene.nudge(act)
        # a worker may still be at it, after a restart
        try:
            wait_for(lambda: scene.state() in states, 20, 0.2)
        except AssertionError:
            raise AssertionError('neither before nor after: ' + difference(scene.state(), states)) from None
        if foretold:
            check_foretold(scene, foretold, states, trigger in cls.UNDONE.values(), '/before/' in name)
        scene.again(states)
        config = scene.config_source()
        scene.call('destroy')
        check(scene.config_source() == config, 'the configuration changed with the end of QEMU')
        scene.check_data()
    scene.finish()


def difference(state, states):
    """How the state differs from the nearest of the right ones."""
    def wrong(right):
        return [f'{k}: {state.get(k)}, not {right.get(k)}' for k in sorted({*state, *right})
                if state.get(k) != right.get(k)]
    return '; '.join(min((wrong(s) for s in states), key=len))


def clear(bench):
    """Cleans up, so that a failed case cannot disturb the next one."""
    bench.session.kill()
    for pid in bench.host.qemu_pids():
        os.kill(pid, 9)
    for f in bench.host.live_files():
        os.unlink(f)
    bench.session = Session(bench.host, server=bench.server)


def cases(cls, classes):
    """Every case there is: (trigger, name, fault). Once a plan can not go back
    a step cannot say that nothing happened: it fails as 'unknown' there. A plan
    that no scene sets going is an error, unless it is another suite's."""
    for operation, plan, steps in plans.plans(MODULE):
        check(operation in SUITES, f"no suite walks the plans of operation '{operation}'")
        check(SUITES[operation] != os.path.basename(sys.argv[0]) or
              any((operation, plan) in c.PLANS for c in classes), f'no trigger for plan {operation}/{plan}')
        undone = plans.undone(steps)
        for step, past, *_ in steps:
            for when in ('before', 'after'):
                for fault in FAULTS:
                    if cls.impossible(plan, fault):
                        continue
                    if (operation, plan) in cls.PLANS:
                        fault = 'unknown' if fault == 'error' and past else fault
                        yield cls.PLANS[(operation, plan)], f'{plan}/{step}/{when}/{fault}', fault
                    # steps are undone right after one another
                    if (operation, plan) in cls.UNDONE and step in undone and fault != 'error' and (when, step) in (
                            ('after', step), ('before', undone[-1])):
                        yield cls.UNDONE[(operation, plan)], f'{plan}/{step}/undo-{when}/{fault}', fault


def walk(cls, classes, one, clear):
    """one() for each case, clear() after one that went wrong."""
    only = os.environ.get('FERRY_CASE', '')
    bad = number = 0
    for trigger, name, fault in cases(cls, classes):
        if only not in name:
            continue
        number += 1
        try:
            one(number, trigger, name, fault)
        except Exception as e:  # a case may fail in any way
            bad += 1
            print(f'     {name}: {type(e).__name__}: {e}', flush=True)
            clear()
    print(f'     {number} cases, {bad} bad', flush=True)
    check(number and not bad, f'{bad} of {number} cases')


def matrix(cls, classes):
    def test():
        states = {}
        with Host() as host, Bench(host) as bench:
            def one(number, trigger, name, fault):
                if trigger not in states:
                    states[trigger] = reference(bench, cls, trigger)
                case(bench, number, cls, trigger, states[trigger], name, fault)
            walk(cls, classes, one, lambda: clear(bench))
    test.__name__ = f'faults_{cls.__name__.lower()}'
    return test


def together(path, names):
    """Runs the matrices at the same time: they mostly wait."""
    children = [subprocess.Popen([path, name], stdout=subprocess.PIPE, text=True) for name in names]
    totals = [0, 0]
    for child in children:
        out = child.communicate()[0]
        totals = [a + b for a, b in zip(totals, map(int, re.search(r'(\d+) passed, (\d+) failed', out).groups()))]
        print('\n'.join(out.splitlines()[:-1]), flush=True)
    print('{} passed, {} failed'.format(*totals))
    return 1 if totals[1] else 0


def suite(path, classes, matrix=matrix):
    """What a suite of the matrix does: all its scenes, or those named."""
    tests = [matrix(c, classes) for c in classes]
    return main(tests) if len(sys.argv) > 1 else together(path, [t.__name__ for t in tests])
