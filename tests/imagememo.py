"""What qemu-img and qemu-io have said of an image, or made of it, is remembered: the walks make and
examine the same few images ten thousand times, and to start such a program costs more than all that
it does.

Two images are the same if all their bytes are, and those of the images below; names of images below
do not count, since they have the scene's number in them. A file whose time, size and inode are those
of the last look has the same bytes. An image that somebody has open is not looked up: qemu-img fails
on one that is locked.

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later
"""

import fcntl
import hashlib
import os
import stat
import struct
import subprocess
import tempfile
import time

MAGIC = b'QFI\xfb'
DATA_FILE = 1 << 2
OFD_GETLK = 36
CLOCK_REALTIME_COARSE = 5
# the bytes of a file that QEMU locks
LOCKED_FROM, LOCKED = 100, 200
# larger images are not remembered
LARGEST = 64 << 20
KEPT = 400
CHUNK = 64 << 10

_buffer = memoryview(bytearray(CHUNK))
_zeroes = memoryview(bytes(CHUNK))
_said = {}
_made = {}
_seen = {} # (device, inode): (_version(), digest)


class Unknown(Exception):
    """Nothing can be remembered of this image."""


def _chunks(f, size):
    """Yields (offset, bytes) for all that is neither a hole nor zero: where the holes are does not
    matter. The bytes are valid until the next one only."""
    at = 0
    while at < size:
        try:
            at = os.lseek(f, at, os.SEEK_DATA)
        except OSError: # a hole to the end
            return
        end = os.lseek(f, at, os.SEEK_HOLE)
        while at < end:
            length = os.preadv(f, [_buffer[:min(end - at, CHUNK - at % CHUNK)]], at)
            data = _buffer[:length]
            if data != _zeroes[:length]:
                yield at, data
            at += length


def _is_locked(f):
    """Does a process hold QEMU's locks?"""
    lock = struct.pack('hhqqi4x', fcntl.F_WRLCK, os.SEEK_SET, LOCKED_FROM, LOCKED, 0)
    return struct.unpack('hhqqi4x', fcntl.fcntl(f, OFD_GETLK, lock))[0] != fcntl.F_UNLCK


def _below(path, f):
    """(offset, length, name) of what a qcow2 image has in its header of the image below; or None."""
    header = os.pread(f, 80, 0)
    if header[:4] != MAGIC:
        return None
    version, offset, length = struct.unpack('>IQI', header[4:20])
    if version < 3 or struct.unpack('>Q', header[72:80])[0] & DATA_FILE:
        raise Unknown
    if not offset:
        return None
    return offset, length, os.path.join(os.path.dirname(path), os.pread(f, length, offset).decode())


def _version(st):
    return st.st_size, st.st_mtime_ns, st.st_ctime_ns


def _see(st, digest):
    _keep(_seen, (st.st_dev, st.st_ino), (_version(st), digest))


class Image:
    """What an image is known by, without the name of the one below; with its bytes, if wanted."""

    def __init__(self, path, whole=False, depth=0):
        f = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            st = os.fstat(f)
            if not stat.S_ISREG(st.st_mode) or st.st_size > LARGEST or depth > 8 or _is_locked(f):
                raise Unknown
            self.below = _below(path, f)
            self.size = st.st_size
            self.chunks = []
            version, self.own = _seen.get((st.st_dev, st.st_ino), (None, None))
            if whole or version != _version(st):
                self._read(f, st, whole)
            self.digest = self.own
            if self.below:
                below = Image(self.below[2], depth=depth + 1).digest
                self.digest = hashlib.sha1(self.own + below + str(self.below[1]).encode()).digest()
        finally:
            os.close(f)

    def _read(self, f, st, whole):
        # the clock of the times of files: what is written later than now will be seen by its time
        now = time.clock_gettime_ns(CLOCK_REALTIME_COARSE)
        h = hashlib.sha1(str(self.size).encode())
        offset, length, _ = self.below or (0, 0, '')
        for at, data in _chunks(f, self.size):
            if at <= offset < at + len(data):
                data[offset - at:offset - at + length] = bytes(length)
            h.update(str(at).encode())
            h.update(data)
            if whole:
                self.chunks.append((at, bytes(data)))
        self.own = h.digest()
        if max(st.st_mtime_ns, st.st_ctime_ns) < now:
            _see(st, self.own)

    def put(self, path, name):
        """Writes the image into a file that is there, or makes it. name: of the image below"""
        f = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
        try:
            os.ftruncate(f, self.size)
            for at, data in self.chunks:
                os.pwrite(f, data, at)
            if self.below:
                os.pwrite(f, name, self.below[0])
            # nobody else writes to what is being made
            _see(os.fstat(f), self.own)
        finally:
            os.close(f)


def _image(path, whole=False):
    try:
        return Image(path, whole)
    except (OSError, Unknown, UnicodeDecodeError):
        return None


def _keep(memory, key, value):
    if len(memory) >= KEPT:
        memory.pop(next(iter(memory)))
    memory[key] = value


def examine(path, *command):
    """Runs a command that only reads the image, whose path is appended to it. Returns its exit code and
    what it printed, errors included: without the path."""
    image = _image(path)
    key = (command, image.digest) if image else None
    if key not in _said:
        p = subprocess.run([*map(str, command), path], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, text=True, timeout=120)
        said = p.returncode, p.stdout.replace(path, 'IMAGE')
        if not key:
            return said
        _keep(_said, key, said)
    return _said[key]


def content(path, fmt):
    """Returns the checksum of what a guest would read."""
    image = _image(path)
    key = ('content', fmt, image.digest) if image else None
    if key in _said:
        return _said[key]
    fd, tmp = tempfile.mkstemp(prefix='content-', dir=os.path.dirname(path))
    os.close(fd)
    try:
        subprocess.run(['qemu-img', 'convert', '-f', fmt, '-O', 'raw', path, tmp], check=True, timeout=120,
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        with open(tmp, 'rb') as f:
            said = hashlib.sha1(f.read()).hexdigest()
    finally:
        os.unlink(tmp)
    if key:
        _keep(_said, key, said)
    return said


def make(path, run, key, backing=None):
    """Makes path, which need not be there, what run() makes of it. key: what else that depends on;
    backing: the image below, if it is new"""
    before = _image(path)
    below = _image(backing) if backing else None
    if (os.path.lexists(path) and not before) or (backing and not below):
        run()
        return
    name = os.fsencode(backing or '')
    if before and before.below:
        name = os.fsencode(before.below[2])
    key = (key, before and before.digest, below and below.digest, len(name))
    if key in _made:
        _made[key].put(path, name)
        return
    run()
    after = _image(path, whole=True)
    if after and (not after.below or after.below[1] == len(name)):
        _keep(_made, key, after)
