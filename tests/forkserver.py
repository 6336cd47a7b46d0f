#!/usr/bin/python3
"""Starts drivers in the tests that do so thousands of times: a process that has loaded Python, libvirt
and Ferry's module forks each of them (see Session in ferrytest.py). To load these costs more than all
that such a driver does. Nothing of libvirt has run in that process but its global set-up.

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys

MESSAGE = 64 << 10


class Child:
    """What the fork server has started. Like a Popen, with two pipes; how it ended is not known."""

    def __init__(self, pidfd, stdin, stdout):
        self.pidfd, self.stdin, self.stdout = pidfd, stdin, stdout

    def __del__(self):
        os.close(self.pidfd)

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def wait(self, timeout=None):
        """timeout: in seconds"""
        if not select.select([self.pidfd], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired('a driver', timeout)
        return 'it has ended'

    def poll(self):
        """None while it runs"""
        return self.wait() if select.select([self.pidfd], [], [], 0)[0] else None


class ForkServer:
    """env: of all its children"""

    def __init__(self, module, env):
        self.env = dict(env)
        self.socket, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(['/usr/bin/python3', os.path.abspath(__file__), module],
                                            env=self.env, stdin=theirs, close_fds=True)

    def start(self, *args):
        """Runs session.py with these arguments. Returns a Child."""
        stdin, to_child = os.pipe()
        from_child, stdout = os.pipe()
        try:
            socket.send_fds(self.socket, [json.dumps(args).encode()], [stdin, stdout])
            _, fds, _, _ = socket.recv_fds(self.socket, 1, 1)
        finally:
            os.close(stdin)
            os.close(stdout)
        return Child(*fds, os.fdopen(to_child, 'w'), os.fdopen(from_child))

    def close(self):
        self.socket.close()
        self.process.wait()


def main():
    # libvirt looks it up among what is loaded
    ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL | os.RTLD_NOW)
    import session
    with socket.socket(fileno=os.dup(0)) as server:
        while True:
            args, fds, _, _ = socket.recv_fds(server, MESSAGE, 2)
            if not args:
                return
            pid = os.fork()
            if pid == 0:
                break
            for fd in fds:
                os.close(fd)
            pidfd = os.pidfd_open(pid)
            socket.send_fds(server, [b'.'], [pidfd])
            os.close(pidfd)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
    for fd, name in enumerate(fds):
        os.dup2(name, fd)
        os.close(name)
    sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, 'w')
    sys.argv[1:] = json.loads(args)
    session.main()


if __name__ == '__main__':
    main()
