#!/usr/bin/python3
"""Starts of the driver, as its host's checkpoints get more: Ferry against the stock driver.

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later

The domain is off, and the driver reads what its checkpoints are. The limit is the start of the stock driver
without any.
"""

import os
import sys

import benchlib
from benchlib import DRIVERS, Figures, ferrytest, timed

NAME = 'bench'
# a start with so many takes at most so much of the stock driver's
TARGETS = {50: 0.25, 200: 0.15, 1000: 0.12}


class Hosts:
    """One of each driver, in which a domain has had a checkpoint."""

    def __init__(self, folder):
        self.folder = folder
        self.all = []

    def __enter__(self):
        ferrytest.adopt_qemus()
        for name in DRIVERS:
            self.all.append(host := ferrytest.Host(name, root=os.path.join(self.folder, name)))
            disk = ferrytest.create_image(os.path.join(host.dir, 'disk.qcow2'), '64M')
            host.define(ferrytest.domain_xml(NAME, [ferrytest.disk_xml('vda', disk)]))
            host.virsh('start', NAME, '--paused')
            host.virsh('checkpoint-create-as', NAME, 'c0')
            # which does not wait until the driver is back
            host.virsh(f'blockjob {NAME} vda; destroy {NAME}')
        return self.all

    def __exit__(self, *exc):
        for host in self.all:
            host.close()


class Run:
    def __init__(self, options, _folder, hosts, table):
        self.rounds, self.hosts, self.table = options.rounds, hosts, table
        self.all = {}
        self.text = {}
        for host in hosts:
            with open(self.path(host, 0)) as f:
                self.text[host.driver] = f.read()

    @staticmethod
    def path(host, number):
        return os.path.join(host.root, 'lib', 'qemu', 'checkpoint', NAME, f'c{number}.xml')

    def put(self, host, count):
        """The domain has so many checkpoints: each the child of the one before."""
        folder = os.path.dirname(self.path(host, 0))
        for name in os.listdir(folder):
            os.unlink(os.path.join(folder, name))
        for i in range(count):
            text = self.text[host.driver].replace("bitmap='c0'", f"bitmap='c{i}'")
            text = text.replace('<name>c0</name>', f'<name>c{i}</name>' +
                                (f'<parent><name>c{i - 1}</name></parent>' if i else ''))
            with open(self.path(host, i), 'w') as f:
                f.write(text)


def row_checkpoints(run, name, count):
    figures = run.all[name] = Figures()
    for host in run.hosts:
        run.put(host, count)
        listed = host.virsh('checkpoint-list', NAME, '--name').split()
        if len(listed) != count:
            raise benchlib.Bench(f'{host.driver} has read {len(listed)} checkpoints')
    for _ in range(run.rounds):
        for host in run.hosts:
            figures.add(host.driver, **start(host))
        run.put(run.hosts[0], 0)
        figures.add('limit', **start(run.hosts[0]))
        run.put(run.hosts[0], count)
    for figure in 'wall', 'cpu':
        run.table.ratio(name, figure, figures, TARGETS[count])


def start(host):
    wall, cpu = timed('virsh', '-q', '-c', host.uri, 'list', env=host.env)
    return {'wall': wall, 'cpu': cpu}


if __name__ == '__main__':
    options = benchlib.parser('start', size=0, space='100 MiB').parse_args()
    sys.exit(benchlib.main(options, [(f'checkpoints-{n}', row_checkpoints, (n,)) for n in TARGETS], Run,
                           'a domain that is off', Hosts))
