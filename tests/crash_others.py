"""What others do in the crash walk: another client at the same time, a driver without Ferry
in between, somebody who puts other files where the operation has its own. See crash.py.

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later
"""

import copy
import os
import shlex
import stat
import threading
import time

import crash
import faultmatrix
from ferrytest import QUICK, Failed, LibvirtError, Monitor, Session, check, run, wait_for

# seconds in which a second call may end by itself; otherwise it waits for the first one
SECOND = 1
BOUND = 40
# seconds in which a call that needs only the domain's lock is answered: storage hangs for longer
# (FAULT_HANG_US in faults_files.c)
ANSWERED = 4


# Another client

CHECKPOINT_XML = '<domaincheckpoint><name>second</name></domaincheckpoint>'


class Calls:
    """Calls of several threads through one Session: each runs in a thread of the session's,
    too."""

    def __init__(self, session):
        self.session = session
        self.lock = threading.Lock()

    def request(self, **what):
        with self.lock:
            number = self.session.request(**what, background=True)
        while True:
            with self.lock:
                result = self.session.end(number, 0.01)
            if result != 'still running':
                return result
            time.sleep(0.01)


class Client(threading.Thread):
    """Does something while others do something else. said: its error, or nothing"""

    def __init__(self, act):
        super().__init__(daemon=True)
        self.act = act
        self.said = ''
        self.wrong = None
        self.start()

    def run(self):
        try:
            self.act()
        except (LibvirtError, Failed) as e:
            self.said = str(e) or 'an error'
        except Exception as e:  # for the thread that waits for this one
            self.wrong = e

    def end(self, seconds):
        """Returns what it said."""
        self.join(seconds)
        check(not self.is_alive(), f'the call has not ended within {seconds} s')
        if self.wrong:
            raise self.wrong
        return self.said


def undefine(scene):
    if not scene.transient:
        # metadata of checkpoints would refuse it otherwise
        scene.call('undefineFlags', faultmatrix.UNDEFINE_METADATA)
        scene.transient = True


def define(scene):
    """The configuration stays what it is, and is another object."""
    if not scene.transient:
        xml = scene.call('XMLDesc', faultmatrix.INACTIVE)
        scene.bench.call(None, 'defineXML', xml.replace('<memory', '<title>again</title><memory'))


def check_checkpoint(scene):
    """What another client has made is whole: every disk's image, the one that the guest is on, has its
    bitmap. Deletes it."""
    nodes = {n['node-name']: n for n in scene.qmp('query-named-block-nodes', flat=True)}
    disks = [d for d in scene.qmp('query-block') if d.get('inserted')]
    for disk in disks:
        found = nodes[disk['inserted']['node-name']].get('dirty-bitmaps', [])
        check([b['name'] for b in found if b.get('recording')] == ['second'],
              f"{disk['inserted']['file']} of {disk['qdev']} lacks the bitmap of a checkpoint: {found}")
    check(len(disks) == len(scene.DISKS), f'there are {len(disks)} disks')
    scene.call('delete', 0, checkpoint='second')


def second_call(fault, scene, act):
    return {'second-define': lambda: define(scene), 'second-destroy': lambda: scene.call('destroy'),
            'second-undefine': lambda: undefine(scene),
            'second-same': lambda: act(scene), 'second-end': scene.stop,
            crash.CHECKPOINT: lambda: scene.call('checkpointCreateXML', CHECKPOINT_XML, 0),
            'second-delete': lambda: scene.call('delete', 0, checkpoint='c1')}[fault]


def both(bench, scene, case, act):
    """Makes the call of the case, and the second one when a step of the first has let go of
    the job. Returns what each said; None for the second if there was no such moment."""
    bench.calls = Calls(bench.session)
    try:
        first = Client(lambda: act(scene))
        wait_for(lambda: crash.happened(bench.log()) or not first.is_alive(), BOUND, 0.01,
                 'a step to let go of the job')
        if not crash.happened(bench.log()):
            return first.end(BOUND), None
        second = Client(second_call(case.fault, scene, act))
        second.join(SECOND)
        bench.fault(None)
        return first.end(BOUND), second.end(BOUND)
    finally:
        bench.calls = None


def beside(bench, scene, act):
    """Makes the call of the case, and fails unless another client's short calls are answered all
    the time. Returns what the call said."""
    bench.calls = Calls(bench.session)
    try:
        first = Client(lambda: act(scene))
        while first.is_alive():
            asked = time.monotonic()
            # it may be gone, or still be called otherwise
            Client(lambda: bench.call(scene.name, 'isActive')).end(BOUND)
            took = time.monotonic() - asked
            check(took < ANSWERED, f'another client was not answered for {took:.1f} s')
            first.join(0.2)
        return first.end(BOUND)
    finally:
        bench.calls = None


# A driver without Ferry

def without_ferry(bench, scene, restart):
    """A stock driver runs for a while. restart: it stops the domain and starts it again"""
    host = copy.copy(bench.host)
    host.env = {k: v for k, v in host.env.items() if k != 'LIBVIRT_DRIVER_DIR'} | {'LD_PRELOAD': QUICK}
    with Session(host) as session:
        # it has reconnected when it answers
        try:
            session.call(scene.name, 'blockJobInfo', scene.DISKS[0], 0)
        except LibvirtError:
            pass
        if not restart:
            return
        session.call(scene.name, 'destroy')
        try:
            if scene.transient:
                session.call(None, 'createXML', scene.xml, scene.START)
            else:
                session.call(scene.name, 'createWithFlags', scene.START)
        except LibvirtError:
            # It does not end a backup whose QEMU has ended, and so starts nothing before it is
            # started again itself. By then Ferry is there.
            return
    scene.qmp.close()
    scene.qmp = Monitor(scene.path('qmp'))


# Somebody who may write in the folder of the images

class Swap:
    """Something else at the place of a file of the operation, and a victim that it leads to."""

    def __init__(self, scene, case):
        self.kind = case.fault
        self.path = scene.path(scene.SWAPS[case.number % len(scene.SWAPS)])
        self.victim = scene.host.path('victim')
        with open(self.victim, 'w') as f:
            f.write('of somebody else\n')
        os.chmod(self.victim, 0o600)
        self.before = self.look(self.victim)

    def command(self):
        path, victim = shlex.quote(self.path), shlex.quote(self.victim)
        return f'run rm -rf {path}; ' + {'swap-symlink': f'ln -s {victim} {path}', 'swap-link': f'ln {victim} {path}',
                                         'swap-fifo': f'mkfifo {path}', 'swap-folder': f'mkdir {path}',
                                         'swap-file': f'echo mine > {path}'}[self.kind]

    @staticmethod
    def look(path):
        """All but the owner: QEMU's user could have such a file, and labels are given by
        name (docs/guarantees.rst)."""
        st = os.lstat(path)
        content = ''
        if stat.S_ISREG(st.st_mode):
            with open(path) as f:
                content = f.read()
        return stat.S_IFMT(st.st_mode), content

    def check(self):
        check(self.look(self.victim) == self.before, f'the victim was touched: {self.look(self.victim)}')
        check(os.path.lexists(self.path), 'what somebody else has put there was removed')
        kind, content = self.look(self.path)
        right = {'swap-symlink': (stat.S_IFLNK, ''), 'swap-link': self.before, 'swap-fifo': (stat.S_IFIFO, ''),
                 'swap-folder': (stat.S_IFDIR, ''), 'swap-file': (stat.S_IFREG, 'mine\n')}[self.kind]
        check((kind, content) == right, f'what somebody else has put there is {kind:o} {content!r} now')

    def close(self):
        run('rm', '-rf', self.path, self.victim)
