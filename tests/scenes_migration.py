"""The scenes of storage migration, for those who break it: see faultmatrix.py.

The plans run in the daemons of two hosts (twohosts.py), which have the faults
loaded.

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later
"""

import difflib
import os
import pprint
import shutil
import time

import libvirt

import faultmatrix
import twohosts
from ferrytest import (CHUNK, Failed, LibvirtError, check, disk_xml, image_content, pattern_content,
                       put_image, qemu_io, wait_for, written)

MIB = 1 << 20
SIZE = 4 * MIB
FLAGS = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_NON_SHARED_DISK
RUNNING = libvirt.VIR_DOMAIN_RUNNING
NAME = 'guest'
# At the destination the image of the first disk is missing, and the other disk's image
# exists.
DISKS = {'vda': 'qcow2', 'vdb': 'raw'}


class Machine(twohosts.Machine):
    """A host whose daemon can be broken."""

    def daemon_command(self):
        return ['env', f'LD_PRELOAD={faultmatrix.PRELOAD}', f'FERRY_FAULT_FILE={self.fault_file()}',
                *super().daemon_command()]

    def fault_file(self):
        return os.path.join(self.dir, 'fault')

    def fault(self, *lines):
        with open(self.fault_file(), 'w') as f:
            f.write('\n'.join(lines))

    def died(self, seconds=0):
        """Is the daemon dead?"""
        end = time.monotonic() + seconds
        while self.daemon.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        return self.daemon.poll() is not None


class Storage:
    """See faultmatrix.Scene. A trigger here is (the host whose daemon runs the plan, the
    plan whose last step fails, too, so that it is undone)."""

    PLANS = {('migration', 'storage'): ('a', None)}
    UNDONE = {('migration', 'storage'): ('a', 'storage')}

    @classmethod
    def impossible(cls, plan, fault):
        """The images are created before there is a QEMU that could die."""
        return plan in ('volumes', 'images') and fault in ('disconnect', 'kill-qemu')


class Switch(Storage):
    """Two scenes, only so that they run at the same time."""

    PLANS = {('migration', 'finish'): ('a', None), ('incoming', 'images'): ('b', None),
             ('incoming', 'volumes'): ('b', None), ('incoming', 'serve'): ('b', None)}
    UNDONE = {('incoming', 'images'): ('b', 'images'), ('incoming', 'volumes'): ('b', 'volumes'),
              ('incoming', 'serve'): ('b', 'serve')}


class Bench:
    """Two hosts, and the domain that is to go from one to the other."""

    def __init__(self):
        self.pair = twohosts.Pair(machine=Machine)
        self.a, self.b = self.pair.machines
        self.paths = {'vda': self.pair.image('vda.qcow2'), 'vdb': self.pair.image('vdb.raw')}
        for target, fmt in DISKS.items():
            put_image(os.path.join(self.pair.dir, target), fmt, pattern_content(SIZE, ord(target[-1])))
        with open(self.b.real(self.paths['vdb']), 'wb') as f:
            f.truncate(SIZE)
        self.a.call(None, 'defineXML', self.pair.domain(
            NAME, [disk_xml(t, self.paths[t], f) for t, f in DISKS.items()], memory=16))

    def start(self):
        """Starts the guest at the source, with its original data."""
        self.content = {}
        for target in DISKS:
            shutil.copyfile(os.path.join(self.pair.dir, target), self.a.real(self.paths[target]))
            self.content[target] = pattern_content(SIZE, ord(target[-1]))
        self.a.call(NAME, 'create')
        self.before = self.state()
        self.inode = os.stat(self.b.real(self.paths['vdb'])).st_ino

    def write(self, machine, pattern, offset):
        """Writes as the guest would, on the given host."""
        with machine.monitor(NAME) as mon:
            for i, target in enumerate(DISKS):
                alias = f'virtio-disk{i}'
                before = written(mon('query-blockstats'), alias)
                mon.hmp(qemu_io(alias, f'aio_write -P {pattern + i} {offset} {CHUNK}'))
                wait_for(lambda: written(mon('query-blockstats'), alias) != before, 20, 0.01, f'a write to {target}')
                check(written(mon('query-blockstats'), alias) == (before[0] + CHUNK, before[1]),
                      f'the guest cannot write to {target} on {machine.name}')
                mon.hmp(qemu_io(alias, 'flush'))
                self.content[target][offset:offset + CHUNK] = bytes([pattern + i]) * CHUNK

    p2p = False

    def migrate(self, p2p):
        """Migrates. Returns the error that the client got, or ''."""
        self.p2p = p2p
        if p2p:
            job = self.a.client.begin(NAME, 'migrateToURI3', self.b.tcp, {}, FLAGS | libvirt.VIR_MIGRATE_PEER2PEER)
        else:
            job = self.a.client.begin(NAME, 'migrate3', {'open': self.b.uri}, {}, FLAGS)
        try:
            job.result(60)
        except TimeoutError:
            raise AssertionError('the migration did not end within 60 s') from None
        except (LibvirtError, Failed) as e:
            return str(e) or 'an error'
        return ''

    def state(self):
        """The state of both hosts. The reason why the guest runs is left out, since the
        guest may have been paused for a moment."""
        state = self.pair.state()
        for machine in state.values():
            for domain in machine['domains'].values():
                del domain['state'][1:]
        return state

    def at_source(self, state):
        """How the hosts differ from what they were before the migration."""
        if state == self.before:
            return ''
        texts = [pprint.pformat(s, width=150).splitlines() for s in (self.before, state)]
        return '\n'.join(difflib.unified_diff(*texts, 'before', 'after', lineterm='', n=0))

    def left(self, machine, state, runs, ours):
        """What is wrong with a host on which nothing is under way. runs: the state of NAME;
        ours: the images there."""
        right = {'QEMUs': state['QEMUs'] if runs else [], 'listening': [], 'journals': [], 'images': ours,
                 'sockets': [s for s in state['sockets'] if 'nbd' not in s], 'shared': []}
        wrong = [f'{machine.name}: {k} {state[k]}, not {v}' for k, v in right.items() if state[k] != v]
        domain = state['domains'].get(NAME)
        # at the destination there is no configuration
        if not runs and (domain is not None) != (machine is self.a):
            wrong.append(f'{machine.name}: domains {list(state["domains"])}')
        if domain and bool(domain.get('nodes')) != runs:
            wrong.append(f'{machine.name}: it {"does not run" if runs else "runs"}')
        if runs and domain and domain.get('nodes'):
            for key in 'jobs', 'exports', 'saved job':
                if domain[key]:
                    wrong.append(f'{machine.name}: {key} {domain[key]}')
            if any(n[0] == 'nbd' for n in domain['nodes'].values()):
                wrong.append(f'{machine.name}: nodes {list(domain["nodes"])}')
            if domain['state'][0] != RUNNING or domain['status'] != 'running':
                wrong.append(f'{machine.name}: its CPUs are {domain["status"]}, {domain["state"]}')
        return wrong

    def at_destination(self, state):
        images = ['vda.qcow2', 'vdb.raw']
        return '; '.join(self.left(self.a, state['a'], False, images) + self.left(self.b, state['b'], True, images))

    def nowhere(self, state):
        return '; '.join(self.left(self.a, state['a'], False, ['vda.qcow2', 'vdb.raw']) +
                         self.left(self.b, state['b'], False, ['vdb.raw']))

    def let_on(self, state):
        """A source that lost the other daemon after the memory had arrived leaves its guest
        paused (docs/guarantees.rst). Does what a user would do: looks at the destination,
        and resumes the guest if it is not there."""
        a, b = (state[m]['domains'].get(NAME, {}) for m in 'ab')
        if self.p2p and a.get('status') == 'postmigrate' and not b.get('nodes'):
            self.a.call(NAME, 'resume')

    def settle(self, outcomes, seconds=30):
        """Waits for one of the outcomes, and returns it."""
        end = time.monotonic() + seconds
        while True:
            try:
                state = self.state()
                check(not all(m['domains'].get(NAME, {}).get('status') == 'running' for m in state.values()),
                      'it runs on both hosts')
                self.let_on(state)
                wrong = {outcome: getattr(self, outcome)(state) for outcome in outcomes}
                for outcome in outcomes:
                    if not wrong[outcome]:
                        return outcome
            except (Failed, LibvirtError, OSError) as e:
                # a QEMU ends just now
                wrong = {'state': repr(e)}
            for machine in self.pair.machines:
                check(not machine.died(), f'the daemon of {machine.name} died, too')
            if time.monotonic() > end:
                raise AssertionError('neither here nor there: ' + '; '.join(f'{k}: {w}' for k, w in wrong.items()))
            time.sleep(0.1)

    def check_prepared_image(self):
        check(os.stat(self.b.real(self.paths['vdb'])).st_ino == self.inode, 'an image that was there was replaced')

    def arrived(self):
        """Fails unless the guest can write at the destination, and all it ever wrote is
        there."""
        self.check_prepared_image()
        self.write(self.b, 0x51, 5 * CHUNK)
        self.b.call(NAME, 'destroy')
        for target, fmt in DISKS.items():
            found = image_content(self.b.real(self.paths[target]), fmt)
            for at in range(0, max(len(found), SIZE), CHUNK):
                a, b = found[at:at + CHUNK], self.content[target][at:at + CHUNK]
                check(a == b, f'{target}: at {at} it begins with {a[:4].hex()}, not {b[:4].hex()}')

    def finish(self):
        """Cleans up for the next case. QEMU was told to end, which takes it a moment."""
        os.unlink(self.b.real(self.paths['vda']))
        wait_for(lambda: self.nowhere(self.state()) == '', 10, 0.05, 'the end of the case')
