"""What the crash walk adds to the scenes of the fault matrix: operations that
end others, and what to do before the second try when QEMU died of the first.

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later
"""

import contextlib
import os
import signal

import crash
import scenes_backup
import scenes_copy
import scenes_snapshot
from ferrytest import LibvirtError, check, check_qcow2, run, wait_for

BANDWIDTH_BYTES = 64


class Copied:
    """What the crash walk must know of a scene.

    JOBS: the disks whose block jobs send events. WHOLE: the job that stands for all of these, if it
    is not the domain's. DEATHS: the signals that end QEMU in the
    reference runs. List several if they leave different states: the crash walk ends QEMU
    with SIGKILL, and a driver that has lost the connection asks QEMU to end. ALONE: the
    operation runs on one host only. TOGETHER: several operations take the steps; the end of one,
    which is no step, is synced between them. BELOW: endings of the names of images that others are
    based on and that are only read. libvirt gives them to QEMU's user and never gives them
    back, since other domains may read them, too, so their owners are not compared. SECOND:
    what another client calls meanwhile; JOBLESS: while QEMU answers a command. SWAPS: endings of
    the names of files of the operation that somebody replaces. LATER: it goes on behind the call that
    begins it, so that clients are told when it fails. LATEST: the last step that has run when the plan
    is undone; '': all have."""

    ALONE = True
    TOGETHER = False
    BELOW = ()
    SECOND = crash.SECOND[:-1]
    JOBLESS = crash.JOBLESS
    SWAPS = ()
    LATER = False
    LATEST = ''
    JOBS = ('vda',)
    WHOLE = ''
    DEATHS = (signal.SIGKILL,)

    @classmethod
    def swapped(cls):
        return crash.SWAPPED if cls.SWAPS else ()

    def stop(self):
        """Ends what is on."""
        with contextlib.suppress(LibvirtError):
            self.call('blockJobAbort', self.DISKS[0], 0)

    def images(self):
        """The images that must be undamaged whatever happens."""
        return [i for i in ([self.config_source()] if not self.transient else self.there()) if i.endswith('.qcow2')]

    def check_left(self, log):
        """The domain was started again without Ferry. If the guest had moved, both images are
        there, the log says so, and the user has to choose."""
        if not self.flags & scenes_copy.REUSE and os.path.exists(self.target) and self.config_source() == self.source:
            check(f"'{self.target}', and the domain was started on '{self.source}'" in log, 'the log does not say so')
            self.check_image(self.target)
            os.unlink(self.target)

    def spoilt(self):
        """The user's own images that an operation may have written into: what they hold is
        not checked."""
        return [self.target] if self.flags & scenes_copy.REUSE and self.config_source() != self.target else []

    def restarted(self):
        """The domain was started again. A QEMU that was killed while it wrote an image
        may have left clusters there that nobody uses, which is no damage. A transient domain is
        on its old image again, and what it was copied to is in the way."""
        for image in self.spoilt():
            run('qemu-img', 'check', '-q', '-r', 'leaks', image)
        if self.transient and self.config_source() == self.source and os.path.exists(self.target):
            os.unlink(self.target)


class Copy(Copied, scenes_copy.Copy):
    SECOND = Copied.SECOND + (crash.CHECKPOINT,)
    SWAPS = ('target.qcow2',)
    ROWS = {('copy', 'start'): 'copy', ('copy', 'pivot'): 'pivot'}


class Shallow(Copied, scenes_copy.Shallow):
    SECOND = Copied.SECOND + (crash.CHECKPOINT,)
    BELOW = ('-base.qcow2', '-base2.qcow2')
    ROWS = Copy.ROWS


class Partial(Copied, scenes_copy.Partial):
    SECOND = Copied.SECOND + (crash.CHECKPOINT,)
    SWAPS = ('target.qcow2',)
    BELOW = ('-base.qcow2', '-mid1.qcow2', '-mid2.qcow2')
    LATER = True
    PLANS = {**scenes_copy.Partial.PLANS, ('copy', 'pivot'): (scenes_copy.Copy.copied, scenes_copy.Copy.pivot)}
    ROWS = {('copy', 'start'): 'partial copy', ('copy', 'pivot'): 'pivot of a partial copy'}


class Group(Copied, scenes_copy.Group):
    SECOND = Copied.SECOND + (crash.CHECKPOINT,)
    SWAPS = ('vda-target.qcow2', 'vdb-target.qcow2')
    JOBS = ('vda', 'vdb')
    WHOLE = 'vda'
    TOGETHER = True
    ROWS = {('copy', 'pivot'): 'pivot of a group'}

    def stop(self):
        for disk in self.DISKS:
            with contextlib.suppress(LibvirtError):
                self.call('blockJobAbort', disk, 0)

    def check_left(self, log):
        for target in self.targets():
            if os.path.exists(target) and not self.check_sides():
                check(f"'{target}', and the domain was started on '" in log, 'the log does not say so')
                check_qcow2(target, self.killed)
                os.unlink(target)

    def images(self):
        return [i for i in self.targets() if os.path.exists(i)] if self.check_sides() else list(
            map(self.image, self.DISKS))


class Snapshot(Copied, scenes_snapshot.Snapshot):
    SWAPS = ('vda-snap.qcow2', 'vda-mirror.qcow2')
    BELOW = ('-vda.qcow2', '-vdb.qcow2')
    # the stock driver's snapshot uses the configuration that another client has replaced, and crashes
    SECOND = tuple(s for s in Copied.SECOND if s != 'second-define')
    JOBLESS = tuple(s for s in Copied.JOBLESS if s != 'second-define')
    ROWS = {('snapshot', 'create'): 'snapshot'}

    def images(self):
        return self.overlays if self.taken() else list(map(self.image, self.DISKS))

    def check_left(self, log):
        check(not os.path.exists(self.mirror), 'the mirror was left behind')

    def spoilt(self):
        return []

    def restarted(self):
        pass


class HeldSnapshot(Snapshot, scenes_snapshot.HeldSnapshot):
    SWAPS = ()
    BELOW = ('-sda.raw', '-sdb.raw')
    JOBS = ('sda',)

    def images(self):
        return self.overlays if self.taken() else []


class Abort(Copied, scenes_copy.Copy):
    """A copy that is aborted when both images are the same: the target stays."""

    def abort(self):
        self.call('blockJobAbort', self.DISKS[0], 0)

    def again(self, states):
        self.wait_aborted(states)
        self.check_target()
        self.copied()
        self.abort()
        self.check_target()

    def wait_aborted(self, states):
        """A restarted driver goes on with the abort by itself, which takes some time."""
        def aborted():
            try:
                if self.state() in (states[0], states[2]):
                    return True
                self.abort()
            except LibvirtError:
                pass
            return False
        wait_for(aborted, 60, 0.05, 'the second try to succeed')

    def check_stopped(self):
        """QEMU may have died after the abort was over."""
        check(self.transient or self.config_source() == self.source, 'the configuration does not name the source')
        for image in {self.source, self.target}:
            if os.path.exists(image):
                self.check_image(image)

    def check_target(self):
        if os.path.exists(self.target):
            self.check_image(self.target)
            os.unlink(self.target)

    def restarted(self):
        self.check_target()

    PLANS = {}
    UNDONE = {('copy', 'start'): (scenes_copy.Copy.copied, abort)}
    ROWS = {('copy', 'start'): 'abort'}


class AbortEarly(Abort):
    """A copy that is aborted long before both images are the same: the target is removed."""

    def copied(self):
        self.call('blockRebase', self.DISKS[0], self.target, 1 << 16, self.flags | BANDWIDTH_BYTES)

    def again(self, states):
        self.wait_aborted(states)
        self.copied()
        self.abort()
        check(not os.path.exists(self.target), 'the target was left behind')

    def check_stopped(self):
        scenes_copy.Copy.check_stopped(self)

    UNDONE = {('copy', 'start'): (copied, Abort.abort)}


class PartialAbort(AbortEarly, scenes_copy.Partial):
    """The same while an image below the top is copied."""

    SWAPS = ('target.qcow2',)
    BELOW = Partial.BELOW
    LATEST = 'layer'

    def copied(self):
        self.copy({'bandwidth': 1})

    UNDONE = {('copy', 'start'): (copied, Abort.abort)}
    ROWS = {('copy', 'start'): 'abort of a partial copy'}


class Transient(Copy):
    TRANSIENT = True
    SWAPS = ()


class TransientAbort(AbortEarly):
    TRANSIENT = True


class Held(Copy):
    """A disk without an ioeventfd that is copied to an image that is not qcow2: its guest's
    CPUs, which run, stand still meanwhile."""

    flags = scenes_copy.COPY | scenes_copy.RAW
    FORMAT = 'raw'
    DISKS = ('sda',)
    BUS = 'sata'
    JOBS = DISKS
    START = 0
    SWAPS = ('target.raw',)
    SECOND = Copied.SECOND

    def more_state(self):
        return {'CPUs': self.qmp('query-status')['running'] if self.running() else None}


class Moved(Copy):
    """The name of the guest's image led nowhere when the copy began, and is right again: QEMU is
    held at the file that it has, until the copy ends."""

    SWAPS = SECOND = ()

    def moved(self):
        away = self.path('away')
        os.rename(self.source, away)
        self.copy()
        os.rename(away, self.source)
        self.wait_ready()

    PLANS = {('copy', 'pivot'): (moved, scenes_copy.Copy.pivot)}


class MovedAbort(Moved, Abort):
    PLANS = {}
    UNDONE = {('copy', 'start'): (Moved.moved, Abort.abort)}
    ROWS = Abort.ROWS


class Kept:
    """A domain that loses its checkpoints when QEMU dies, with their bitmaps. Before the
    second try they are deleted and made again, since backups need one to begin from. Images
    may still have bitmaps of a transient domain, or of one that somebody has undefined: these
    must be dropped first."""

    ALONE = True
    BELOW = ()
    SECOND = crash.SECOND
    JOBLESS = crash.JOBLESS
    SWAPS = ()
    swapped = Copied.__dict__['swapped']
    LATER = False
    LATEST = ''
    JOBS = ()
    WHOLE = ''
    TOGETHER = False
    # on SIGTERM QEMU writes its bitmaps to the images before it ends, on SIGKILL it does
    # not
    DEATHS = (signal.SIGKILL, signal.SIGTERM)

    def stop(self):
        with contextlib.suppress(LibvirtError):
            self.call('abortJob')

    def check_left(self, log):
        """Of a backup nothing is left but what was complete."""

    def images(self):
        return [self.image(d) for d in self.DISKS]

    def spoilt(self):
        return []

    def restarted(self):
        for name in 'c1', 'c2':
            if name not in self.checkpoints():
                self.call('checkpointCreateXML', scenes_backup.redefined_xml(name, self.DISKS), scenes_backup.REDEFINE)
            self.call('delete', 0, checkpoint=name)
        self.first()


class Checkpoints(Kept, scenes_backup.Checkpoints):
    ROWS = {('checkpoint', 'checkpoint'): 'checkpoint create', ('checkpoint', 'delete'): 'checkpoint delete'}


class Pull(Kept, scenes_backup.Pull):
    JOBS = scenes_backup.Pull.DISKS
    SWAPS = ('vda-scratch', 'nbd')
    ROWS = {('backup', 'begin'): 'backup begin'}


class PullEnd(Pull):
    PLANS = {}
    ROWS = {('backup', 'begin'): 'backup end'}


class Push(Kept, scenes_backup.Push):
    JOBS = scenes_backup.Push.DISKS
    SWAPS = ('vda-target', 'vdb-target')
    ROWS = {('backup', 'begin'): 'backup begin'}

    def restarted(self):
        if 'c2' in self.checkpoints():
            self.check_targets()
            for disk in self.DISKS:
                os.unlink(f'{self.path(disk)}-target')
        super().restarted()


class PushEnd(Push):
    """A push that ends by itself."""
    PLANS = {}
    UNDONE = {('backup', 'begin'): (scenes_backup.Push.first, scenes_backup.Push.begin)}
    ROWS = {('backup', 'begin'): 'backup end'}


Pull.UNDONE = {}
PullEnd.UNDONE = scenes_backup.Pull.UNDONE



class TransientCheckpoints(Checkpoints):
    TRANSIENT = True


class TransientPullEnd(PullEnd):
    TRANSIENT = True
    SWAPS = ()


class TransientPush(Push):
    TRANSIENT = True
    SWAPS = ()

    def check_stopped(self):
        """A push that was complete has left its images, though no checkpoint."""
        targets = [f'{self.path(d)}-target' for d in self.DISKS]
        if all(map(os.path.exists, targets)):
            self.check_targets()
            for target in targets:
                os.unlink(target)
        super().check_stopped()


EMBEDDED = [Copy, Shallow, Partial, Group, Snapshot, Abort, AbortEarly, Checkpoints, Pull, PullEnd, Push, PushEnd,
            Held, Moved, MovedAbort, Transient, TransientAbort, TransientCheckpoints, TransientPullEnd, TransientPush,
            PartialAbort, HeldSnapshot]
