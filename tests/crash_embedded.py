"""The crash walk of what one host does alone: block copy, backups, checkpoints.
See crash.py.

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later
"""

import collections
import hashlib
import json
import os
import re
import signal
import stat
import tempfile

import crash
import faultmatrix
from ferrytest import Failed, Host, LibvirtError, check, check_qcow2, frontend, qemu_io, run, wait_for, written

BLOCK_JOB_READY = 3
NOGROUP = 65534
OTHER = 100000
ENDED = 'once of the whole'


class Bench(faultmatrix.Bench):
    """Counts how often the driver died, and reads which faults happened."""

    def __init__(self, host):
        super().__init__(host)
        self.deaths = 0
        self.journals = os.path.join(host.root, 'lib', 'ferry')

    def restart(self):
        self.deaths += 1
        super().restart()

    def log(self):
        return crash.read_log(self.fault_file)

    def forget(self):
        """Removes what the faults left behind, for the next case."""
        self.fault(None)
        self.meanwhile = lambda: None
        self.damaged = {}
        crash.forget(self.fault_file)

    def lose_power(self, late):
        """Driver and QEMU are dead: puts into place what a host has when it comes up again.
        late: the disk got all that was written, not only what was synced."""
        for pid in self.host.qemu_pids():
            wait_for(lambda: not os.path.exists(f'/proc/{pid}'), 10, 0.01, f'the end of QEMU {pid}')
        if not late:
            crash.lose_names(self.fault_file)
        crash.boot(self.fault_file, os.path.join(self.host.root, 'run'), self.journals, late)

    def damage(self, how):
        self.damaged = crash.damage(self.journals, how)

    def finals(self, since):
        """How often clients were told that a job ended, by disk."""
        blocks, others = since
        told = collections.Counter()
        for name, disk, _, status in self.session.events()[blocks:]:
            if name == 'BLOCK_JOB_2' and status != BLOCK_JOB_READY:
                told[disk] += 1
        told['domain'] = sum(e[0] == 'job-completed' for e in self.session.other_events()[others:])
        return {k: v for k, v in told.items() if v}

    def now(self):
        return len(self.session.events()), len(self.session.other_events())


# What there is

def plain(scene, text):
    """XML without what differs from domain to domain and does not matter."""
    text = re.sub(r'[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}', 'UUID', text)
    text = re.sub(rf'(domain-\d+-|\b){scene.name}\b', 'NAME', text)
    text = re.sub(r" (id|index)='\d+'", '', text).replace(" ready='yes'", '').replace('libvirt-0', 'libvirt-')
    # the stock driver forgets the alias of a controller with model='none' when it starts
    # again
    return re.sub(r"(<controller type='usb'[^>]* model='none')>.*?</controller>", r'\1/>',
                  re.sub(r'libvirt-\d+', 'libvirt-N', text), flags=re.S)


def scene_files(scene):
    for name in scene.files():
        path = scene.host.path(scene.name + name)
        if os.path.exists(path):
            yield name, path


def owners(scene):
    """Owner, mode and labels of each file."""
    found = {}
    for name, path in scene_files(scene):
        if name in scene.BELOW:
            continue
        st = os.stat(path)
        found[name] = (st.st_uid, st.st_gid, oct(st.st_mode),
                       sorted((x, os.getxattr(path, x)) for x in os.listxattr(path) if 'timestamp' not in x))
    return found


def locks(scene):
    """The image locks that QEMU holds."""
    inodes = {str(os.stat(path).st_ino): name for name, path in scene_files(scene)}
    with open('/proc/locks') as f:
        rows = [line.split() for line in f]
    return sorted((inodes[r[5].split(':')[2]], r[3], r[6], r[7]) for r in rows
                  if r[1] == 'OFDLCK' and r[5].split(':')[2] in inodes)


def listening(scene):
    with open('/proc/net/unix') as f:
        rows = [line.split() for line in f.readlines()[1:]]
    return sorted(plain(scene, r[7]) for r in rows
                  if len(r) > 7 and int(r[3], 16) & 0x10000 and f'{scene.name}-' in r[7] and scene.host.dir in r[7])


# Not in Scene.state(), with which again() compares
MORE = ('definition', 'owners', 'saved job', 'live XML', 'locks', 'stats', 'listening')


def look(scene):
    """The state of the fault matrix (Scene.state()), and more (MORE)."""
    state = scene.state()
    state['definition'] = plain(scene, scene.call('XMLDesc', faultmatrix.INACTIVE))
    state['owners'] = owners(scene)
    if scene.running():
        with open(os.path.join(scene.host.root, 'run', 'qemu', f'{scene.name}.xml')) as f:
            state['saved job'] = re.findall("<job type='.*?' async='.*?'", f.read())
        state.update({'live XML': plain(scene, scene.call('XMLDesc', 0)), 'locks': locks(scene),
                      'stats': scene.call('jobStats', 0)['type'], 'listening': listening(scene)})
    return state


def roughly(state):
    """The state without O_DIRECT: when QEMU refused a command, a copy may go on without it."""
    return {k: re.sub("'direct': (True|False), ", '', v) if k == 'nodes' else v for k, v in state.items()}


def unowned(state):
    """The state without owners: after a power loss the stock driver gives no image back to
    its owner."""
    return {k: v for k, v in state.items() if k != 'owners'}


def content(path):
    """Format, bitmaps and checksum of an image that nobody has open: qemu-img fails on a
    locked image."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        return 'no file'
    info = json.loads(run('qemu-img', 'info', '--output', 'json', path))
    bitmaps = info.get('format-specific', {}).get('data', {}).get('bitmaps', [])
    fd, tmp = tempfile.mkstemp(prefix='crash-', dir=os.path.dirname(path))
    os.close(fd)
    try:
        run('qemu-img', 'convert', '-f', info['format'], '-O', 'raw', path, tmp)
        with open(tmp, 'rb') as f:
            return info['format'], sorted(b['name'] for b in bitmaps), hashlib.sha1(f.read()).hexdigest()
    finally:
        os.unlink(tmp)


def look_off(scene):
    """The state of a domain that does not run: what is on the disk."""
    state = {'config': scene.config_source(), 'files': scene.files(), 'journal': scene.journal(),
             'definition': scene.call('XMLDesc', faultmatrix.INACTIVE), 'owners': owners(scene),
             'QEMUs': len(scene.host.qemu_pids()), 'listening': listening(scene)}
    if hasattr(scene, 'metadata'):
        state.update(metadata=scene.metadata(), checkpoints=scene.checkpoints())
    spoilt = scene.spoilt()
    state['data'] = {name: content(path) for name, path in scene_files(scene) if path not in spoilt}
    return {k: plain(scene, repr(v)) for k, v in state.items()}


class Reference:
    """What a scene looks like when nothing goes wrong.

    states: without the operation, before it, after it; base: the same as Scene.state() has
    it; off: QEMU died after the operation (the first) or before it; told: what clients were
    told of its end; jobs: is there a job before it; commands: how many commands each step
    sends to QEMU; synced: the steps whose journal is synced"""

    def __init__(self, bench, cls, trigger):
        prepare, act = trigger
        scene = cls(bench, 0)
        self.states = [look(scene)]
        prepare(scene)
        self.states.append(look(scene))
        since = bench.now()
        bench.forget()
        bench.fault('record')
        act(scene)
        bench.fault(None)
        self.states.append(look(scene))
        self.told = bench.finals(since)
        self.commands, self.synced = crash.sent(bench.log())
        self.off = [self._off(scene, cls.DEATHS[0])]
        for how in cls.DEATHS:
            for call in (prepare,), (prepare, act):
                if (how, call) != (cls.DEATHS[0], (prepare, act)):
                    scene = cls(bench, 0)
                    for one in call:
                        one(scene)
                    self.off.append(self._off(scene, how))
        self.jobs = self.states[1]['jobs'] != '[]'
        self.base = [{k: v for k, v in s.items() if k not in MORE} for s in self.states]

    @staticmethod
    def _off(scene, how):
        pid, = scene.host.qemu_pids()
        os.kill(pid, how)
        scene.settle('kill-qemu')
        state = look_off(scene)
        scene.finish()
        return state


def make_host(root=None):
    """A host whose QEMU has a group of its own, so that it shows when a file changes hands
    and is not given back."""
    host = Host(root=root)
    if os.geteuid() == 0:
        path = os.path.join(host.root, 'etc', 'qemu.conf')
        with open(path) as f:
            conf = f.read().replace('group = "+0"', f'group = "+{NOGROUP}"')
        with open(path, 'w') as f:
            f.write(conf)
    return host


class Walk:
    """Tries cases."""

    def __init__(self):
        self.host = make_host()
        self.bench = Bench(self.host)
        self.references = {}  # which know the folder by its name

    def close(self):
        self.bench.session.close()
        self.host.close()

    def folder(self):
        return self.host.dir

    def clear(self):
        """Cleans up, so that a failed case cannot disturb the next one."""
        self.bench.session.kill()
        self.host.close()
        os.mkdir(self.host.dir)
        self.host = make_host(self.host.dir)
        self.bench = Bench(self.host)

    def reference(self, case):
        key = case.cls, case.trigger
        if key not in self.references:
            self.references[key] = Reference(self.bench, *key)
        return self.references[key]

    def case(self, case):
        """Returns True, or None when there is nothing to try; raises otherwise."""
        ref = self.reference(case)
        return crash.attempt(case, ref.commands, ref.synced, lambda line: self.attempt(case, ref, line))

    def attempt(self, case, ref, line):
        """Returns None when the fault happened, or else how many commands the steps
        sent."""
        prepare, act = case.trigger
        bench = self.bench
        bench.forget()
        scene = case.cls(bench, case.number)
        prepare(scene)
        self.since, self.deaths = bench.now(), bench.deaths
        if 'power-loss' in case.fault:
            bench.meanwhile = lambda: bench.lose_power(case.fault == crash.LATE)
        elif case.fault in crash.DAMAGED:
            bench.meanwhile = lambda: bench.damage(case.fault)
        bench.fault(line)
        said = ''
        try:
            act(scene)
        except (LibvirtError, Failed) as e:
            said = str(e) or 'an error'
        bench.fault(None)
        if case.when == 'ended':
            check(not said, f'the call failed without a fault: {said}')
            self.strike(case)
        try:
            scene.running()
        except Failed:
            pass
        bench.meanwhile = lambda: None
        log = bench.log()
        happened = case.when == 'ended' or crash.happened(log)
        if happened:
            self.outcome(case, ref, scene, act, said)
        scene.finish()
        return None if happened else crash.sent(log)[0]

    def strike(self, case):
        """Lets the operation end, and then injects the fault."""
        if 'power-loss' in case.fault:
            for pid in self.host.qemu_pids():
                os.kill(pid, signal.SIGKILL)
        self.bench.restart()

    def outcome(self, case, ref, scene, act, said):
        dies = case.fault in ('kill-qemu', 'disconnect') or 'power-loss' in case.fault
        if case.fault == 'error' and not case.undone and case.when in ('before', 'after'):
            check('injected failure' in said, f'the error was not reported: {said or "nothing"}')
        if case.fault in crash.JOURNAL and said:
            check('journal' in said, f'the error does not name the journal: {said}')
        scene.settle('kill-qemu' if dies else case.fault)
        if case.fault in crash.DAMAGED and self.bench.damaged:
            self.check_damaged(scene, case)
        elif dies:
            check(not scene.running(), 'QEMU survived')
            scene.killed = True
            self.check_stopped(case, ref, scene, said)
        else:
            check(scene.running(), 'the domain stopped')
            self.check_running(case, ref, scene, act, said)

    # Events

    def check_told(self, scene, right=None):
        """Fails unless clients were told the right number of ends. right: exactly these;
        ENDED: the job that stands for the whole (a disk's, or the domain's when there are
        several disks) ended once; None: the same, or nothing, since the operation may not
        have begun for clients. After a restart of the driver only its new clients count, so
        fewer events are right, too."""
        restarted = self.bench.deaths != self.deaths
        whole = 'domain' if len(scene.JOBS) > 1 else ''.join(scene.JOBS)

        def told():
            found = self.bench.finals((0, 0) if restarted else self.since)
            once = all(n == 1 and who in {whole, *scene.JOBS} for who, n in found.items())
            if right is None or restarted:
                return once
            return once and (not whole or whole in found) if right == ENDED else found == right
        try:
            wait_for(told, 2, 0.05)
        except AssertionError:
            raise AssertionError(f'clients were told {self.bench.finals((0, 0) if restarted else self.since)} '
                                 f'of the end, not {right}') from None

    # QEMU runs

    def check_running(self, case, ref, scene, act, said):
        about = roughly if case.fault == 'error' and 'during' in case.when else dict
        states = [about(s) for s in ref.states]

        def now():
            return about(look(scene))
        try:
            if case.past and said:
                # the step does not know what it did: the next call finds out
                try:
                    wait_for(lambda: now() in states, 1, 0.2)
                except AssertionError:
                    scene.nudge(act)
            wait_for(lambda: now() in states, 20, 0.1)
        except AssertionError:
            raise AssertionError(f'neither before nor after ({said or "no error"}): ' +
                                 faultmatrix.difference(now(), states)) from None
        state = now()
        here = [i for i, s in enumerate(states) if s == state]
        check(case.when != 'ended' or 2 in here, 'what was over is undone')
        if self.bench.deaths == self.deaths and not case.past:
            check(2 in here if not said else 2 not in here,
                  f'the call said {said or "nothing"}, and the state is {"after" if 2 in here else "before"}')
        self.check_told(scene, ref.told if 2 in here else {} if 1 in here else ENDED)
        scene.again(ref.base)
        config = scene.config_source()
        scene.call('destroy')
        check(scene.config_source() == config, 'the configuration changed with the end of QEMU')
        self.check_images(scene)

    def check_images(self, scene):
        scene.check_data()
        for image in scene.images():
            check_qcow2(image, scene.killed)

    # QEMU is gone

    def check_stopped(self, case, ref, scene, said):
        about = unowned if 'power-loss' in case.fault else dict
        off = [about(s) for s in (ref.off[:1] if case.when == 'ended' else ref.off)]

        def now():
            return about(look_off(scene))
        try:
            wait_for(lambda: now() in off, 5, 0.2)
        except AssertionError:
            raise AssertionError(f'neither before nor after ({said or "no error"}): ' +
                                 faultmatrix.difference(now(), off)) from None
        scene.check_stopped()
        self.check_images(scene)
        self.check_told(scene, ENDED if ref.jobs or not said else None)
        scene.qmp.close()
        scene.start()
        scene.restarted()
        scene.again(ref.base)
        scene.call('destroy')
        self.check_images(scene)

    # The journal is damaged

    def check_damaged(self, scene, case):
        """Fails unless the guest runs with its data, the journal is kept as .bad and named
        in the log, and other domains are not concerned."""
        crash.check_set_aside(self.bench.damaged, self.host.path('libvirt.log'))
        check(scene.running(), 'the domain stopped')
        for i, _ in enumerate(scene.DISKS):
            self.check_writable(scene, f'virtio-disk{i}')
        config = scene.config_source()
        scene.call('destroy')
        check(scene.config_source() == config, 'the configuration changed with the end of QEMU')
        check(not scene.journal(), 'QEMU ended, and the journal did not')
        self.check_images(scene)
        for image in scene.images():
            self.check_newest(image)
        self.check_other(case)

    @staticmethod
    def check_writable(scene, alias):
        before = written(scene.qmp('query-blockstats'), alias)
        scene.qmp.hmp(qemu_io(alias, 'aio_write -P 0x77 7M 64k'))
        wait_for(lambda: written(scene.qmp('query-blockstats'), alias)[0] != before[0], 10, 0.02,
                 f'a write of the guest to {frontend(alias)}')
        scene.qmp.hmp(qemu_io(alias, 'flush'))

    @staticmethod
    def check_newest(image):
        out = run('qemu-io', '-r', '-f', 'qcow2', '-c', 'read -P 0x77 7M 64k', image, check_exit=False)
        check('Pattern verification failed' not in out, f'{image}, which the configuration names, is out of date')

    def check_other(self, case):
        prepare, act = case.trigger
        other = case.cls(self.bench, OTHER + case.number)
        prepare(other)
        act(other)
        other.finish()
