"""What the parts of the demo share: its measures, and how it says what it does.

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later
"""

import sys
import time

import guest

NAME = 'demo'
MIB = 1 << 20
DISK = 1024 * MIB
REGION = guest.Region(0, 64 * MIB)  # the guest writes here
DATA = (128 * MIB, 400 * MIB)       # this does not change: offset, length
RATE = 200                          # slow enough that no record in the region is overwritten


class Steps:
    """Says what is done, and keeps how long it took and how the guest fared."""

    def __init__(self):
        self.rows = []
        self.log = None
        self.started = time.monotonic()

    def step(self, what):
        return Step(self, what)

    def table(self):
        width = max(len(step.what) for step in self.rows)
        yield f'{"":{width}}  {"time":>8}  {"longest gap":>11}  {"moved":>10}'
        for step in self.rows:
            gap = f'{step.gap * 1000:.1f} ms' if step.gap is not None else ''
            moved = f'{step.moved / MIB:.1f} MiB' if step.moved is not None else ''
            yield f'{step.what:{width}}  {step.seconds:6.2f} s  {gap:>11}  {moved:>10}'.rstrip()


class Step:
    """One row. As a context manager: the guest's gaps inside it count. What was
    moved, in bytes, has to be said."""

    def __init__(self, steps, what):
        self.steps = steps
        self.what = what
        self.gap = self.moved = None

    def __enter__(self):
        say(f'{self.what} ...')
        self.start = time.monotonic()
        self.log = self.steps.log
        self.first = len(self.log.reports) if self.log else 0
        return self

    def __exit__(self, kind, *exc):
        self.seconds = time.monotonic() - self.start
        if kind is None:
            if self.log:
                self.log.next_report()  # that one still tells about the step
                self.gap = self.log.longest_gap(self.first)
            self.steps.rows.append(self)


def say(text):
    print(text, flush=True)


class Bar:
    """A progress bar on a terminal, a line every quarter elsewhere."""

    WIDTH = 40

    def __init__(self, total):
        self.total = total
        self.tty = sys.stdout.isatty()
        self.said = -1

    def show(self, done, note=''):
        percent = 100 * done // self.total if self.total else 0
        if self.tty:
            filled = self.WIDTH * percent // 100
            print(f'\r  [{"#" * filled}{"." * (self.WIDTH - filled)}] {percent:3} %{note}\033[K', end='', flush=True)
        elif percent // 25 > self.said:
            self.said = percent // 25
            say(f'  {percent:3} %{note}')

    def end(self):
        if self.tty:
            print(flush=True)
