"""Migrations for record-replies: two hosts, and what Ferry's part says to the QEMU
of each.

The stock driver talks to the same QEMUs, and is not replayed: see
FERRY_RECORD_STEPS in record.c. Every recording makes a case of the source's and,
when the guest arrives, one of the destination's.

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later
"""

import os

import libvirt

import ferrytest
import twohosts
from ferrytest import BUILD, LibvirtError, create_image, disk_xml, wait_for, write_image

FLAGS = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_NON_SHARED_DISK
NBD_PORT = 10809
DISKS = {'vda': 'qcow2', 'vdb': 'raw'}


class Machine(twohosts.Machine):
    """A host whose daemon writes down what it says."""

    def record(self):
        return os.path.join(self.dir, 'record')

    def daemon_command(self):
        return ['env', f'LD_PRELOAD={os.path.join(BUILD, "meson", "tests", "libferryrecord.so")}',
                f'FERRY_RECORD={self.record()}', 'FERRY_RECORD_STEPS=1', *super().daemon_command()]

    def own(self, folder):
        """A folder of that name that only this host sees."""
        os.makedirs(folder, exist_ok=True)
        os.makedirs(os.path.join(self.dir, 'own'))
        self.run('mount', '--bind', os.path.join(self.dir, 'own'), folder)

    def status(self):
        return os.path.join(self.dir, 'run', 'libvirt', 'qemu', 'g.xml')


def moving(machine):
    """Has the memory begun to move?"""
    return machine.qmp('g', 'query-migrate').get('status') == 'active'


def record(name, folder, uuid, size='16M', abort=False):
    """size: of the second disk's image at the destination. Returns a dictionary:
    what each host's case is called -> (what it knew before, what was said, how it
    ended)."""
    with twohosts.Pair(machine=Machine) as pair:
        for machine in pair.machines:
            machine.own(folder)
            for target, fmt in DISKS.items():
                length = size if machine is pair.b and target == 'vdb' else '16M'
                create_image(machine.real(f'{folder}/{target}'), length, fmt)
        for target, fmt in DISKS.items():
            write_image(pair.a.real(f'{folder}/{target}'), 0x5a, 0, '1M', fmt)
        disks = [disk_xml(target, f'{folder}/{target}', fmt) for target, fmt in DISKS.items()]
        xml = ferrytest.with_monitor(ferrytest.domain_xml('g', disks, memory=32, uuid_=uuid), '/run/g.qmp')
        pair.a.call(None, 'defineXML', xml)
        pair.a.call('g', 'create')
        with open(pair.a.status()) as f:
            known = {'source': f.read()}

        params = {'disks_port': NBD_PORT, 'bandwidth': 1} if abort else {'disks_port': NBD_PORT}
        job = pair.a.client.begin('g', 'migrate3', {'open': pair.b.uri}, params, FLAGS)
        if abort:
            wait_for(lambda: moving(pair.a), 30, 0.01, 'the memory to move')
            pair.a.call('g', 'abortJob')
        try:
            job.result(60)
            result = 'ok'
        except LibvirtError as e:
            result = f'{e.code} {e}'
        else:
            with open(pair.b.status()) as f:
                known['destination'] = f.read()

        said = {}
        for side, machine in ('source', pair.a), ('destination', pair.b):
            with open(machine.record()) as f:
                said[side] = f.read()
        return {f'{name}-{side}': (known[side], said[side], result) for side in known}


CASES = {
    'migrate': {},
    'migrate-size': {'size': '17M'},
    'migrate-abort': {'abort': True},
}
