"""The crash walk of what one host does alone: block copy, backups, checkpoints.
See crash.py.

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later
"""

import collections
import contextlib
import os
import re
import shutil
import signal
import time
import zlib

import crash
import crash_others
import faultmatrix
from crash_state import MORE, look, look_off, roughly, undefined, unheld, unowned
from ferrytest import (Failed, Guest, Host, LibvirtError, check, check_qcow2, frontend, qemu_io, reads, wait_for,
                       written)

BLOCK_JOB_READY = 3
NOGROUP = 65534
OTHER = 100000
ENDED = 'once of the whole'


class Bench(faultmatrix.Bench):
    """Counts how often the driver died, and reads which faults happened."""

    def __init__(self, host):
        self.calls = None # of several clients at once
        super().__init__(host)
        self.deaths = 0
        self.journals = os.path.join(host.root, 'lib', 'ferry')

    def call(self, domain, method, *args, **kwargs):
        if self.calls:
            return self.calls.request(domain=domain, method=method, args=args, **kwargs)
        return super().call(domain, method, *args, **kwargs)

    def restart(self):
        """A driver may die while it starts, too."""
        self.deaths += 1
        try:
            super().restart()
        except Failed:
            self.fault(None)
            super().restart()

    def at_restart(self, act):
        """The next time that no driver runs."""
        def once():
            self.meanwhile = lambda: None
            act()
        self.meanwhile = once

    def log(self):
        return crash.read_log(self.fault_file)

    def forget(self):
        """Removes what the faults left behind, for the next case."""
        self.fault(None)
        self.meanwhile = lambda: None
        self.damaged = {}
        crash.forget(self.fault_file)

    def lose_power(self, scene, case):
        """Driver and QEMU are dead: puts into place what a host has when it comes up again."""
        if scene.transient:
            # the stock driver leaves these for ever
            shutil.rmtree(os.path.join(self.host.root, 'lib', 'qemu', 'checkpoint', scene.name), ignore_errors=True)
        def lost(what):
            return case.fault != crash.SOME or zlib.crc32(f'{case.number} {what}'.encode()) & 1
        late = case.fault == crash.LATE or not lost('journal')
        for pid in self.host.qemu_pids():
            wait_for(lambda: not os.path.exists(f'/proc/{pid}'), 10, 0.01, f'the end of QEMU {pid}')
        if case.fault != crash.LATE:
            crash.lose_names(self.fault_file, lambda path: lost(os.path.basename(path)))
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


class Reference:
    """What a scene looks like when nothing goes wrong.

    states: without the operation, before it, after it; base: the same as Scene.state() has
    it; off: QEMU died after the operation (the first) or before it; told: what clients were
    told of its end; jobs: is there a job before it; commands: how many commands each step
    sends to QEMU; traits: what else they do (crash.sent())"""

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
        with contextlib.suppress(AssertionError):
            # some end behind their call; some go on
            wait_for(lambda: not scene.journal(), 1, 0.01)
        bench.fault(None)
        self.states.append(look(scene))
        self.told = bench.finals(since)
        self.commands, self.traits = crash.sent(bench.log())
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
        self.bench.close()
        self.host.close()

    def folder(self):
        return self.host.dir

    def clear(self):
        """Cleans up, so that a failed case cannot disturb the next one."""
        self.bench.session.kill()
        self.bench.close()
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
        return crash.attempt(case, ref.commands, ref.traits, lambda line: self.attempt(case, ref, line))

    def attempt(self, case, ref, line):
        """Returns None when the fault happened, or else how many commands the steps
        sent."""
        prepare, act = case.trigger
        bench = self.bench
        bench.forget()
        scene = case.cls(bench, case.number)
        prepare(scene)
        self.since, self.deaths = bench.now(), bench.deaths
        self.arm(case, scene)
        swap = crash_others.Swap(scene, case) if case.fault in crash.SWAPPED else None
        bench.fault(line.replace(case.fault, swap.command()) if swap else line)
        said, second = self.act(case, scene, act)
        log = bench.log()
        happened = case.when == 'ended' or crash.happened(log)
        if happened and swap:
            self.check_swapped(scene, swap)
        elif happened and crash.WHAT.get(case.fault) == 'meet':
            self.check_second(case, ref, scene, act, said, second)
        elif happened:
            self.outcome(case, ref, scene, act, said)
        if swap:
            swap.close()
        scene.finish()
        return None if happened else crash.sent(log)[0]

    def arm(self, case, scene):
        """Prepares what happens while no driver runs."""
        bench = self.bench
        if 'power-loss' in case.fault:
            bench.at_restart(lambda: bench.lose_power(scene, case))
        elif case.fault in crash.DAMAGED:
            bench.at_restart(lambda: bench.damage(case.fault))
        elif case.fault in crash.STOCK:
            bench.at_restart(lambda: crash_others.without_ferry(bench, scene, case.fault == 'stock-restart'))
        elif case.fault in crash.TWICE:
            what = case.fault[len('twice-'):]
            bench.at_restart(lambda: bench.fault(f'any/{"journal" if what == "enospc" else "step"}/{what}'))

    def act(self, case, scene, act):
        """Makes the call, and lets a driver that died of it come back. Returns what the call
        said, and what another client's said."""
        said, second = '', None
        if crash.WHAT.get(case.fault) == 'meet':
            said, second = crash_others.both(self.bench, scene, case, act)
        elif case.fault == 'image-hang':
            said = crash_others.beside(self.bench, scene, act)
        else:
            try:
                act(scene)
            except (LibvirtError, Failed) as e:
                said = str(e) or 'an error'
        if case.fault in crash.TWICE:
            self.await_second()
        self.bench.fault(None)
        if case.when == 'ended':
            check(not said, f'the call failed without a fault: {said}')
            self.strike(case)
        try:
            scene.running()
        except Failed:
            pass
        self.bench.meanwhile = lambda: None
        return said, second

    def await_second(self):
        """The second fault needs a step, which recovery may not have."""
        end = time.monotonic() + 1
        while time.monotonic() < end and not self.twice():
            time.sleep(0.02)

    def twice(self):
        return sum(line.startswith('fault ') for line in self.bench.log()) > 1

    def strike(self, case):
        """Lets the operation end, and then injects the fault."""
        if 'power-loss' in case.fault:
            for pid in self.host.qemu_pids():
                os.kill(pid, signal.SIGKILL)
        self.bench.restart()

    def outcome(self, case, ref, scene, act, said):
        dies = (case.fault in ('kill-qemu', 'disconnect') or 'power-loss' in case.fault or
                case.fault == 'twice-kill-qemu' and self.twice())
        if case.fault == 'error' and not case.undone and case.when in ('before', 'after'):
            check('injected failure' in said, f'the error was not reported: {said or "nothing"}')
        if case.fault == 'error':
            check('internal error' not in said, f'the error does not say what failed: {said}')
        if case.fault in crash.JOURNAL and said:
            check('journal' in said, f'the error does not name the journal: {said}')
        scene.settle('kill-qemu' if dies else case.fault)
        if case.fault == 'stock-restart':
            self.check_restarted(scene, ref)
        elif case.fault in crash.DAMAGED and self.bench.damaged:
            self.check_damaged(scene, case)
        elif dies:
            check(not scene.running(), 'QEMU survived')
            scene.killed = True
            self.check_stopped(case, ref, scene, said)
        else:
            check(scene.running(), 'the domain stopped')
            self.check_running(case, ref, scene, act, said)

    # Others

    def check_second(self, case, ref, scene, act, said, second):
        if case.fault == 'second-destroy' and not second:
            scene.settle('kill-qemu')
            check(not scene.running(), 'QEMU survived')
            scene.killed = True
            self.check_stopped(case, ref, scene, said)
            return
        scene.settle(case.fault)
        check(scene.running(), 'the domain stopped')
        if case.fault == crash.CHECKPOINT and not second:
            crash_others.check_checkpoint(scene)
        if case.fault in ('second-end', 'second-delete') and not second:
            # What there is then depends on which of them was first: it is whole, and clients
            # were told once.
            self.check_whole(ref, scene)
        else:
            # the same call twice: one of them did it
            said = '' if case.fault == 'second-same' and not second else said
            self.check_running(case, ref, scene, act, said)

    def check_whole(self, ref, scene):
        wait_for(lambda: scene.stop() or not scene.journal(), 20, 0.1, 'the journal to go')
        self.check_told(scene)
        scene.drop_kept()
        scene.restarted()
        scene.again(ref.base)
        scene.call('destroy')
        self.check_images(scene)

    def check_swapped(self, scene, swap):
        """Fails unless what somebody else has is as it was, and the guest runs on."""
        scene.settle('error')
        check(scene.running(), 'the domain stopped')
        wait_for(lambda: scene.stop() or not scene.journal(), 20, 0.1, 'the journal to go')
        check(scene.qmp('query-jobs') == [], 'there are jobs')
        swap.check()
        self.end(scene)
        swap.check()
        for image in scene.images():
            if image != swap.path:
                check_qcow2(image)

    def check_restarted(self, scene, ref):
        """A driver without Ferry has stopped the domain and started it again: nothing that
        belongs to an earlier QEMU happens to this one."""
        if not scene.running():
            scene.qmp.close()
            scene.start()
        wait_for(lambda: not scene.journal(), 20, 0.1, 'the journal to go')
        check(scene.qmp('query-jobs') == [], 'there are jobs')
        scene.killed = True
        scene.check_left(self.host.log_text())
        scene.restarted()
        scene.again(ref.base)
        scene.call('destroy')
        self.check_images(scene)

    # Events

    def check_told(self, scene, right=None):
        """Fails unless clients were told the right number of ends. right: exactly these;
        ENDED: the job that stands for the whole (a disk's, or the domain's when there are
        several disks) ended once; None: the same, or nothing, since the operation may not
        have begun for clients. After a restart of the driver only its new clients count, so
        fewer events are right, too."""
        restarted = self.bench.deaths != self.deaths
        whole = scene.WHOLE or ('domain' if len(scene.JOBS) > 1 else ''.join(scene.JOBS))

        def told():
            found = self.bench.finals((0, 0) if restarted else self.since)
            once = all(n == 1 and who in {whole, *scene.JOBS} for who, n in found.items())
            if right is None or restarted:
                return once
            return once and (not whole or whole in found) if right == ENDED else found == right
        try:
            wait_for(told, 5, 0.05)
        except AssertionError:
            raise AssertionError(f'clients were told {self.bench.finals((0, 0) if restarted else self.since)} '
                                 f'of the end, not {right}') from None

    # QEMU runs

    def check_running(self, case, ref, scene, act, said):
        about = (roughly if case.fault == 'error' and 'during' in case.when else
                 unheld if case.fault == 'image-hang' else
                 undefined if scene.transient and not scene.TRANSIENT else dict)
        states = [about(s) for s in ref.states]

        def now():
            return about(look(scene))
        if case.fault == 'image-erofs' and case.undone:
            self.remove_left(scene)
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
        if state not in states:
            # a look may meet what only passes: an image that QEMU opens anew, or that a program has open
            wait_for(lambda: now() in states, 20, 0.1,
                     f'what was right to be so again: {faultmatrix.difference(state, states)}')
            state = now()
        here = [i for i, s in enumerate(states) if s == state]
        check(here, f'it is right now and then: {faultmatrix.difference(state, states)}')
        check(case.when != 'ended' or 2 in here, 'what was over is undone')
        # an end that does not wait for storage any more goes on by itself
        ends = not said or (case.fault == 'image-hang' and case.undone)
        if self.bench.deaths == self.deaths and not case.past:
            check((2 in here) == ends,
                  f'the call said {said or "nothing"}, and the state is {"after" if 2 in here else "before"}')
        self.check_told(scene, ref.told if 2 in here else ENDED if 1 not in here else None if scene.LATER else {})
        scene.again(ref.base)
        self.end(scene)
        self.check_images(scene)

    @staticmethod
    def end(scene):
        config = scene.config_source()
        scene.call('destroy')
        check(scene.transient or scene.config_source() == config, 'the configuration changed with the end of QEMU')

    def remove_left(self, scene):
        """What could not be removed is in the log, by its name."""
        wait_for(lambda: not scene.journal(), 20, 0.1, 'the journal to go')
        left = re.findall(rf"warning .* cannot remove '(.*/{scene.name}-.*?)': Read-only", self.host.log_text())
        check(left, 'the log does not say what could not be removed')
        for path in left:
            os.unlink(path)

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
        for disk in scene.DISKS:
            self.check_writable(scene, Guest.alias(disk))
        if scene.transient:
            scene.used = [scene.config_source()]
        self.end(scene)
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
        check(reads(image, 'qcow2', 0x77, '7M', '64k'), f'{image}, which the configuration names, is out of date')

    def check_other(self, case):
        prepare, act = case.trigger
        other = case.cls(self.bench, OTHER + case.number)
        prepare(other)
        act(other)
        other.finish()
