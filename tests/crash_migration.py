"""The crash walk of storage migration: see crash.py.

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later
"""

import contextlib
import os

import libvirt

import crash
import plans
import scenes_migration
from ferrytest import CHUNK, MODULE, Failed, LibvirtError, check, image_content, wait_for
from scenes_migration import DISKS, NAME

ROWS = {'migration': 'migration source', 'incoming': 'migration destination'}
# lifecycle events
STARTED, STOPPED = 2, 5


class Storage(scenes_migration.Storage):
    ALONE = False
    TOGETHER = False
    LATEST = ''
    ROWS = {key: ROWS[key[0]] for key in scenes_migration.Storage.PLANS}


class Switch(scenes_migration.Switch):
    ALONE = False
    TOGETHER = False
    LATEST = ''
    ROWS = {key: ROWS[key[0]] for key in scenes_migration.Switch.PLANS}


MIGRATION = [Storage, Switch]


class Walk:
    """Tries cases."""

    def __init__(self):
        self.bench = None
        self.last = {plan: plans.undone(steps)[-1] for _, plan, steps in plans.plans(MODULE)}
        self.references = {}

    def folder(self):
        return self.bench and self.bench.pair.dir

    def clear(self):
        """Gives both hosts up: the guest may be on either of them."""
        if self.bench:
            self.bench.pair.close()
        self.bench = None

    close = clear

    def begin(self, *lines, where='a', undone=None):
        """Begins a migration, with a fault for a case or without one for the reference."""
        if not self.bench:
            self.bench = scenes_migration.Bench()
        self.damaged = {}
        for machine in self.bench.pair.machines:
            machine.fault()
            crash.forget(machine.fault_file())
        self.bench.start()
        self.events = {m: len(m.client.events) for m in self.bench.pair.machines}
        machine = getattr(self.bench.pair, where)
        machine.fault(*lines, *([f'{undone}/{self.last[undone]}/after/error'] if undone else []))
        return machine

    def reference(self, trigger):
        """Returns what the steps send to QEMU when nothing goes wrong; for undos, when
        nothing goes wrong but the failure that makes the engine undo them."""
        if trigger not in self.references:
            where, undone = trigger
            machine = self.begin('record', where=where, undone=undone)
            said = self.bench.migrate(False)
            check(bool(said) == bool(undone), f'the migration said {said or "nothing"}')
            self.references[trigger] = crash.sent(crash.read_log(machine.fault_file()))
            self.clear()
        return self.references[trigger]

    def case(self, case):
        """Returns True, or None when there is nothing to try; raises otherwise."""
        known = self.reference(case.trigger) if crash.asks(case) else ({}, {})
        return crash.attempt(case, *known, lambda line: self.attempt(case, line))

    def attempt(self, case, line):
        """Returns None when the fault happened, or else how many commands the steps
        sent."""
        where, undone = case.trigger
        machine = self.begin(line, where=where, undone=undone)
        p2p = bool(case.number % 2)
        said = self.bench.migrate(p2p)
        machine.fault()
        log = crash.read_log(machine.fault_file())
        # the failure that makes the engine undo the steps does not count as the fault
        if not crash.happened([entry for entry in log if not undone or entry != 'fault error']):
            self.clear()
            return crash.sent(log)[0]
        self.outcome(case, machine, p2p, said)
        return None

    def outcome(self, case, machine, p2p, said):
        dead = case.fault in crash.DAMAGED or case.fault == 'kill-driver' or 'power-loss' in case.fault
        if dead:
            check(machine.died(5), f'the daemon lives: {said}')
            self.restart(case, machine)
        if self.damaged:
            self.check_damaged(machine)
            return
        source = machine is self.bench.a
        if 'power-loss' in case.fault and case.past and not source:
            # as far as that host knows, the guest may have run there: its images stay
            self.bench.before['b']['images'] = sorted(os.path.basename(p) for p in self.bench.paths.values())
        lost = case.fault in ('kill-qemu', 'disconnect') or 'power-loss' in case.fault
        outcome = self.bench.settle(['nowhere', 'at_destination'] if lost and source else
                                    ['at_source', 'at_destination'])
        if not said:
            check(outcome == 'at_destination', f'the migration succeeded, and the guest is {outcome}')
        elif not dead and not case.past:
            check(outcome != 'at_destination', f'the migration failed ({said}), and the guest is at the destination')
        if not dead:
            self.check_told(outcome)
        self.again(outcome, p2p)

    def restart(self, case, machine):
        """Starts again what died: the daemon, and more after a power loss."""
        machine.stop()
        journals = os.path.join(machine.dir, 'lib', 'ferry')
        if 'power-loss' in case.fault:
            wait_for(lambda: not machine.qemu_pids(), 10, 0.02, 'the end of QEMU')
            crash.boot(machine.fault_file(), os.path.join(machine.dir, 'run'), journals, case.fault == crash.LATE)
            os.mkdir(os.path.join(machine.dir, 'run', 'lock'))
        elif case.fault in crash.DAMAGED:
            self.damaged = crash.damage(journals, case.fault)
        machine.start()

    def check_told(self, outcome):
        """Fails unless clients got the right events: a guest that moved stopped once and
        started once, and a guest that stayed did neither."""
        moved = outcome == 'at_destination'
        a, b = self.bench.pair.machines

        def counts():
            return (self.count(a, STOPPED), self.count(b, STARTED) - self.count(b, STOPPED))
        wait_for(lambda: counts() == (int(outcome != 'at_source'), int(moved)), 5, 0.05,
                 f'events of a guest that is {outcome}, not {counts()}')

    def count(self, machine, kind):
        return sum(e[0] == 'lifecycle' and e[2] == kind for e in machine.client.events[self.events[machine]:])

    def again(self, outcome, p2p):
        bench = self.bench
        bench.check_prepared_image()
        if outcome == 'nowhere':
            bench.a.call(NAME, 'create')
        if outcome != 'at_destination':
            bench.write(bench.a, 0x41, 3 * CHUNK)
            said = bench.migrate(p2p)
            check(not said, f'the second try failed: {said}')
            bench.settle(['at_destination'])
        bench.arrived()
        bench.finish()

    def check_damaged(self, machine):
        """Fails unless the journal was set aside and the guest goes on in one place, with
        its data."""
        log = machine.log
        # the folder's path inside the host
        crash.check_set_aside(self.damaged, log, lambda path: f'/var/lib/libvirt/ferry/{os.path.basename(path)}')
        bench = self.bench
        here = wait_for(self.whereabouts, 30, 0.2, 'the guest to run')
        bench.write(here, 0x51, 5 * CHUNK)
        # a daemon that is still starting may report a domain as not running right after it
        # has ended it
        check(here.qemu_pids(), 'the guest is gone')
        try:
            here.call(NAME, 'destroy')
        except LibvirtError as e:
            check(e.code == libvirt.VIR_ERR_OPERATION_INVALID, e)
        wait_for(lambda: not here.qemu_pids(), 10, 0.05, 'the end of QEMU')
        for target, fmt in DISKS.items():
            check(image_content(here.real(bench.paths[target]), fmt) == bytes(bench.content[target]),
                  f'{target} has lost data')
        self.clear()

    def whereabouts(self):
        """The only host on which the guest runs."""
        with contextlib.suppress(Failed, LibvirtError, OSError):
            self.bench.let_on(self.bench.state())
        found = []
        for machine in self.bench.pair.machines:
            try:
                if machine.running(NAME):
                    found.append(machine)
            except LibvirtError:
                pass
        check(len(found) < 2, 'it runs on both hosts')
        return found[0] if found else None
