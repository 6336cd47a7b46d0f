#!/usr/bin/python3
"""One driver, stock or Ferry, that stays, and the clock beside it.

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later

Which driver it is was decided by the environment (LIBVIRT_DRIVER_DIR) before
this process began: two cannot live in one process. Times are taken here and
not where the requests come from, or a pipe and a JSON parser would be timed
with them. READY, and the end of a backup, are waited for by event, which costs
both drivers nothing; polling would take CPU from the QEMU that is measured.

Requests and replies are lines of JSON: {"call": NAME, "args": {...}}.
"""

import json
import os
import sys
import threading
import time

import libvirt
import libvirt_qemu

EVENTS = {libvirt.VIR_DOMAIN_BLOCK_JOB_READY: 'ready',
          libvirt.VIR_DOMAIN_BLOCK_JOB_COMPLETED: 'completed',
          libvirt.VIR_DOMAIN_BLOCK_JOB_FAILED: 'failed',
          libvirt.VIR_DOMAIN_BLOCK_JOB_CANCELED: 'canceled'}
TICK = os.sysconf('SC_CLK_TCK')

seen = {}        # domain name -> {event: when}
ends = {}        # domain name -> (when its job ended, statistics)
change = threading.Condition()


def block_job(_conn, dom, _disk, _type, status, _opaque):
    now = time.monotonic()
    with change:
        seen.setdefault(dom.name(), {}).setdefault(EVENTS.get(status, str(status)), now)
        change.notify_all()


def job_completed(_conn, dom, stats, _opaque):
    now = time.monotonic()
    with change:
        ends[dom.name()] = (now, stats)
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


def await_end(name, seconds=600):
    """Returns when the domain's job ended, and its statistics."""
    with change:
        if not change.wait_for(lambda: name in ends, seconds):
            raise RuntimeError(f'the job of {name} does not end within {seconds} s')
        when, stats = ends[name]
        if not stats.get('success', True):
            raise RuntimeError(f'the job of {name} failed: {stats}')
        return when, stats


def cpu(pid):
    """CPU seconds that a process has used, with threads that have ended."""
    with open(f'/proc/{pid}/stat') as f:
        fields = f.read().rsplit(')', 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


class Calls:
    """What can be asked for."""

    def __init__(self, conn):
        self.conn = conn

    def start(self, xml, paused, persistent=False):
        """Starts a domain."""
        flags = libvirt.VIR_DOMAIN_START_PAUSED if paused else 0
        if persistent:
            dom = self.conn.defineXML(xml)
            dom.createWithFlags(flags)
        else:
            dom = self.conn.createXML(xml, flags)
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

    def caught_up(self, name, disk, seconds=60):
        """Until the mirror has copied what was written."""
        dom = self.conn.lookupByName(name)
        end = time.monotonic() + seconds
        while True:
            info = dom.blockJobInfo(disk, 0)
            if info['cur'] == info['end']:
                return
            if time.monotonic() > end:
                raise RuntimeError(f'the mirror does not catch up within {seconds} s')
            time.sleep(0.01)

    def abort(self, name, disk):
        self.conn.lookupByName(name).blockJobAbort(disk, 0)

    def begin(self, name, xml, qemu, checkpoint=None, wait=False):
        """Begins a backup. Returns seconds from the call to its return and, if
        told to wait, to the event of the job's end and until the domain has no
        job, what CPU QEMU took, and the statistics."""
        dom = self.conn.lookupByName(name)
        with change:
            ends.pop(name, None)
        before = cpu(qemu)
        start = time.monotonic()
        dom.backupBegin(xml, checkpoint, 0)
        out = {'call': time.monotonic() - start}
        if wait:
            when, out['stats'] = await_end(name)
            out['event'] = when - start
            self.no_job(dom)
            out['wall'] = time.monotonic() - start
            out['cpu'] = cpu(qemu) - before
        return out

    def no_job(self, dom, seconds=60):
        """Until the domain has no job. The event may be a little earlier."""
        end = time.monotonic() + seconds
        while dom.jobStats().get('type', libvirt.VIR_DOMAIN_JOB_NONE) != libvirt.VIR_DOMAIN_JOB_NONE:
            if time.monotonic() > end:
                raise RuntimeError(f'the job does not end within {seconds} s')
            time.sleep(0.001)

    def end(self, name):
        """Until the domain has no job."""
        self.no_job(self.conn.lookupByName(name))

    def abort_job(self, name):
        """Returns seconds from the call until the domain has no job."""
        dom = self.conn.lookupByName(name)
        start = time.monotonic()
        dom.abortJob()
        self.no_job(dom)
        return time.monotonic() - start

    def checkpoint(self, name, xml):
        self.conn.lookupByName(name).checkpointCreateXML(xml, 0)

    def checkpoint_delete(self, name, checkpoint):
        self.conn.lookupByName(name).checkpointLookupByName(checkpoint, 0).delete(0)

    def qmp(self, name, command, arguments=None):
        reply = json.loads(libvirt_qemu.qemuMonitorCommand(
            self.conn.lookupByName(name), json.dumps({'execute': command, 'arguments': arguments or {}}), 0))
        if 'error' in reply:
            raise RuntimeError(f'{command}: {reply["error"].get("desc")}')
        return reply['return']

    def hmp(self, name, lines):
        """Commands for QEMU's human monitor."""
        dom = self.conn.lookupByName(name)
        for line in lines:
            libvirt_qemu.qemuMonitorCommand(dom, line, libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP)

    def destroy(self, name):
        dom = self.conn.lookupByName(name)
        persistent = dom.isPersistent()
        dom.destroy()
        if persistent:
            dom.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA)


def main():
    libvirt.registerErrorHandler(lambda ctx, err: None, None)
    libvirt.virEventRegisterDefaultImpl()
    conn = libvirt.open(sys.argv[1])
    threading.Thread(target=loop, daemon=True).start()
    conn.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2, block_job, None)
    conn.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED, job_completed, None)
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
