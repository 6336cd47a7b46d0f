#!/usr/bin/python3
"""One driver, stock or Ferry, that stays, and the clock beside it.

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later

Which driver it is was decided by the environment (LIBVIRT_DRIVER_DIR) before
this process began: two cannot live in one process. Times are taken here and
not where the requests come from, or a pipe and a JSON parser would be timed
with them. READY is waited for by event, which costs both drivers nothing;
polling would take CPU from the QEMU that is measured.

Requests and replies are lines of JSON: {"call": NAME, "args": {...}}.
"""

import json
import os
import sys
import threading
import time

import libvirt

EVENTS = {libvirt.VIR_DOMAIN_BLOCK_JOB_READY: 'ready',
          libvirt.VIR_DOMAIN_BLOCK_JOB_COMPLETED: 'completed',
          libvirt.VIR_DOMAIN_BLOCK_JOB_FAILED: 'failed',
          libvirt.VIR_DOMAIN_BLOCK_JOB_CANCELED: 'canceled'}
TICK = os.sysconf('SC_CLK_TCK')

seen = {}        # domain name -> {event: when}
change = threading.Condition()


def block_job(_conn, dom, _disk, _type, status, _opaque):
    now = time.monotonic()
    with change:
        seen.setdefault(dom.name(), {}).setdefault(EVENTS.get(status, str(status)), now)
        change.notify_all()


def loop():
    while True:
        libvirt.virEventRunDefaultImpl()


def await_event(name, event, seconds=600):
    """Returns when the event came. Any other end of the job is an error."""
    def there():
        return set(seen.get(name, ())) & {event, 'failed', 'canceled', 'completed'}
    with change:
        if not change.wait_for(there, seconds):
            raise RuntimeError(f'no event {event} within {seconds} s')
        if event not in seen[name]:
            raise RuntimeError(f'waited for {event}, got {sorted(seen[name])}')
        return seen[name][event]


def cpu(pid):
    """CPU seconds that a process has used, with threads that have ended."""
    with open(f'/proc/{pid}/stat') as f:
        fields = f.read().rsplit(')', 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


class Calls:
    """What can be asked for."""

    def __init__(self, conn):
        self.conn = conn

    def start(self, xml, paused):
        """Starts a transient domain."""
        dom = self.conn.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED if paused else 0)
        seen.pop(dom.name(), None)

    def copy(self, name, disk, xml, flags, params, qemu, ready=True):
        """Copies a disk; to READY unless told otherwise. Returns seconds from
        the call to its return and to READY, and what CPU that took."""
        dom = self.conn.lookupByName(name)
        with change:
            seen.pop(name, None)
        before = (cpu(qemu), cpu(os.getpid()))
        start = time.monotonic()
        dom.blockCopy(disk, xml, params, flags)
        out = {'call': time.monotonic() - start}
        if ready:
            out['ready'] = await_event(name, 'ready') - start
            out['qemu_cpu'] = cpu(qemu) - before[0]
            out['driver_cpu'] = cpu(os.getpid()) - before[1]
        return out

    def pivot(self, name, disk):
        """Pivots; returns the seconds until the call returned, and when it
        began and ended on the clock that every process shares."""
        dom = self.conn.lookupByName(name)
        start = time.monotonic()
        dom.blockJobAbort(disk, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
        end = time.monotonic()
        return {'call': end - start, 'start': start, 'end': end}

    def abort(self, name, disk):
        self.conn.lookupByName(name).blockJobAbort(disk, 0)

    def destroy(self, name):
        self.conn.lookupByName(name).destroy()


def main():
    libvirt.registerErrorHandler(lambda ctx, err: None, None)
    libvirt.virEventRegisterDefaultImpl()
    conn = libvirt.open(sys.argv[1])
    threading.Thread(target=loop, daemon=True).start()
    conn.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2, block_job, None)
    calls = Calls(conn)
    print(json.dumps({'result': 'ready'}), flush=True)

    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = {'result': getattr(calls, request['call'])(**request['args'])}
        except (libvirt.libvirtError, RuntimeError, OSError) as e:
            reply = {'error': f'{request["call"]}: {e}'}
        print(json.dumps(reply), flush=True)


if __name__ == '__main__':
    main()
