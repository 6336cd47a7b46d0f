"""The scenes of block copy, for those who break it: see faultmatrix.py.

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later
"""

import os

import faultmatrix
from ferrytest import LibvirtError, check, check_qcow2, copy_xml, create_image, reads, run, wait_for, write_image

SIZE = '8M'
WRITTEN_AT = 5 << 20
CHUNK = 64 << 10

COPY, SHALLOW, REUSE, RAW = 8, 1, 2, 4
PIVOT = 2
OPERATION_FAILED = 9


class Copy(faultmatrix.Scene):
    """A disk that is copied, all of it, to an image that the copy creates."""

    flags = COPY
    used = () # the image that the guest of a transient domain had, if that is known
    FORMAT = 'qcow2' # of the target

    def prepare(self):
        self.source = self.image(self.DISKS[0])
        self.target = self.path(f'target.{self.FORMAT}')
        self.written = False
        self.prepare_images()

    def prepare_images(self):
        create_image(self.source, SIZE)
        write_image(self.source, 0x11, 0, '3M')

    def copy(self):
        return self.call('blockRebase', self.DISKS[0], self.target, 0, self.flags)

    def pivot(self):
        return self.call('blockJobAbort', self.DISKS[0], PIVOT)

    def wait_ready(self):
        def ready():
            self.call('blockJobInfo', self.DISKS[0], 0)
            return self.is_ready()
        wait_for(ready, 60, 0.02, 'the copy to be ready')

    def copied(self):
        self.copy()
        self.wait_ready()
        self.write(0x33, WRITTEN_AT, CHUNK)
        self.written = True

    def check_image(self, image):
        """What the guest has written is there."""
        patterns = [(0x11, 1 << 20, 2 << 20)] + ([(0x33, WRITTEN_AT, CHUNK)] if self.written else [])
        fmt = 'qcow2' if image.endswith('.qcow2') else 'raw'
        if fmt == 'qcow2':
            check_qcow2(image, self.killed)
        for pattern, offset, length in patterns:
            check(reads(image, fmt, pattern, offset, length), f'{image} has lost data at {offset}')

    def check_stopped(self):
        config = self.config_source()
        if self.transient:
            # whoever starts it again has to choose: what there is must be right
            for image in self.there():
                self.check_image(image)
            return
        check(config in (self.source, self.target), f'config names {config}')
        check(config == self.target or self.flags & REUSE or not os.path.exists(self.target),
              'the target was left behind')
        self.check_image(config)

    def there(self):
        """Of a transient domain that has ended: the images that may be the guest's."""
        return [image for image in self.used or (self.source, self.target) if os.path.exists(image)]

    def drop_kept(self):
        if not self.flags & REUSE and self.config_source() != self.target and os.path.exists(self.target):
            self.check_image(self.target)
            os.unlink(self.target)

    def check_data(self):
        for image in [self.config_source()] if not self.transient else self.there():
            self.check_image(image)

    def is_ready(self):
        return " ready='yes'" in self.call('XMLDesc', 0)

    def may_copy(self, states):
        return self.state() == states[0]

    def again(self, states):
        """A restarted driver may finish the pivot by itself before this call."""
        def done():
            if self.config_source() == self.target and not self.journal():
                return True
            try:
                if self.is_ready():
                    self.pivot()
                elif self.may_copy(states):
                    self.copy()
                else:
                    self.call('blockJobInfo', self.DISKS[0], 0)
            except LibvirtError:
                pass
            return False
        wait_for(done, 60, 0.05, 'the second try to succeed')

    PLANS = {
        ('copy', 'start'): (lambda scene: None, copy),
        ('copy', 'pivot'): (copied, pivot),
    }


class Shallow(Copy):
    """A copy to a reused image with its own backing file: all steps have work to do."""

    flags = COPY | SHALLOW | REUSE

    def prepare_images(self):
        base = self.path('base.qcow2')
        base2 = self.path('base2.qcow2')
        create_image(base, SIZE)
        write_image(base, 0x22, 0, '2M')
        run('cp', base, base2)
        create_image(self.source, None, backing=(base, 'qcow2'))
        write_image(self.source, 0x11, '1M', '3M')
        create_image(self.target, None, backing=(base2, 'qcow2'))


class Partial(Copy):
    """A copy of all images of a chain but the lowest, onto that. The call is over when the first of
    them is being copied, but the operation goes on, so it is waited for."""

    flags = SHALLOW
    # what each image below the top has, and where
    LAYERS = (('base', 0x22, '0', '8M'), ('mid1', 0x44, '3M', '4M'), ('mid2', 0x55, '3584k', '512k'))

    def prepare_images(self):
        below = None
        for name, pattern, offset, length in self.LAYERS:
            image = self.path(f'{name}.qcow2')
            create_image(image, SIZE, backing=below)
            write_image(image, pattern, offset, length)
            below = image, 'qcow2'
        create_image(self.source, None, backing=below)
        write_image(self.source, 0x11, '1M', '2M')

    def check_image(self, image):
        super().check_image(image)
        for pattern, at in (0x22, '0'), (0x44, '3M'), (0x55, '3584k'), (0x44, '4M'), (0x22, '7680k'):
            check(reads(image, 'qcow2', pattern, at, '256k'), f'{image} has lost data at {at}')

    def copy(self, params=None):
        base = (f"<backingStore type='file'><format type='qcow2'/><source file='{self.path('base.qcow2')}'/>"
                '</backingStore>')
        return self.call('blockCopy', self.DISKS[0], copy_xml(self.target, extra=base), params or {}, self.flags)

    def copy_all(self):
        """Raises what the log says if the copy fails behind the call."""
        before = len(self.host.log_text())
        self.copy()

        def ready():
            self.call('blockJobInfo', self.DISKS[0], 0)
            xml = self.call('XMLDesc', 0)
            if '<mirror' not in xml:
                raise LibvirtError(OPERATION_FAILED, '\n'.join(
                    line for line in self.host.log_text()[before:].splitlines() if ' ferryReport' in line))
            return " ready='yes'" in xml
        wait_for(ready, 60, 0.02, 'the copy to be ready')

    PLANS = {('copy', 'start'): (lambda scene: None, copy_all)}


class Group(Copy):
    """Copies of two disks that are pivoted together: all or none."""

    DISKS = ('vda', 'vdb')

    def targets(self):
        return [self.path(f'{d}-target.{self.FORMAT}') for d in self.DISKS]

    def prepare(self):
        super().prepare()
        self.target = self.targets()[0]

    def prepare_images(self):
        for disk in self.DISKS:
            create_image(self.image(disk), SIZE)
            write_image(self.image(disk), 0x11, 0, '3M')

    def copy(self):
        for disk, target in zip(self.DISKS, self.targets()):
            if f"file='{target}'" not in self.call('XMLDesc', 0):
                self.call('blockRebase', disk, target, 0, self.flags)

    def pivot(self):
        return self.call('blockJobAbort', ','.join(self.DISKS), PIVOT)

    def is_ready(self):
        return self.call('XMLDesc', 0).count(" ready='yes'") == len(self.DISKS)

    def may_copy(self, states):
        """Some may have ended, and others not have begun."""
        return '<mirror' not in self.call('XMLDesc', 0) or super().may_copy(states)

    def nudge(self, act):
        """Some may have finished, so they are no group any more."""
        for disk in self.DISKS:
            try:
                self.call('blockJobAbort', disk, PIVOT)
            except LibvirtError:
                pass

    def check_sides(self):
        """The configuration names all sources, or all targets."""
        if self.transient and not self.running():
            return False
        xml = self.call('XMLDesc', faultmatrix.INACTIVE)
        moved = {f"file='{t}'" in xml for t in self.targets()}
        check(len(moved) == 1, f'some disks have moved, and others have not: {xml}')
        return moved.pop()

    def check_stopped(self):
        super().check_stopped()
        if not self.transient and not self.check_sides():
            check(not any(map(os.path.exists, self.targets())), 'a target was left behind')

    def check_data(self):
        super().check_data()
        self.check_sides()

    def drop_kept(self):
        for target in self.targets():
            if not self.check_sides() and os.path.exists(target):
                os.unlink(target)

    PLANS = {('copy', 'pivot'): (Copy.copied, pivot)}
