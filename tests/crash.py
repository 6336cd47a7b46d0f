"""The crash walk: every step of every plan, at every point, with every fault
there is; see suite-crash.

Nobody writes these cases either: they are the plans, read out of the module
(plans.py), times WHEN times what can happen then. A case has a number, which
stays the same as long as the plans do.

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later
"""

import argparse
import collections
import contextlib
import json
import os
import random
import selectors
import shutil
import signal
import subprocess
import sys
import urllib.parse

import plans
from ferrytest import BUILD, MODULE, TOP, check, patience, where

# A step, or one of the commands that it sends. How many commands a step sends is known from
# a run without a fault.
DURING = ('during-first', 'during-middle', 'during-last')

# What can happen at any point of a step.
ANYWHERE = ('error', 'disconnect', 'kill-qemu', 'kill-driver', 'power-loss')
# After a power loss the disk has only what was synced (power-loss), all that was written (LATE),
# or of what was not synced every other file (SOME).
LATE, SOME = 'power-loss-late', 'power-loss-some'
# The journal cannot be written: no space (enospc); a disk error in the file (eio) or in its
# folder (eio-folder).
JOURNAL = ('enospc', 'eio', 'eio-folder')
# A step cannot save a configuration or the file of a checkpoint: which steps do is known from
# a run without a fault. An undo only removes files.
UNSAVED = ('unsaved-erofs', 'unsaved-enospc', 'unsaved-eio', 'unsaved-folder')
UNREMOVED = ('unsaved-erofs', 'unsaved-folder')
# A step cannot create, rename or remove an image, write it or sync it; or the storage does not
# answer in time. Which steps try to is known from a run without a fault.
IMAGES = ('image-erofs', 'image-enospc', 'image-eio', 'image-hang')
# An operation is over, and its journal is about to be removed. Whose step is the last one that
# removes it is known from a run without a fault.
REMOVAL = ('kill-driver', 'power-loss', LATE)
# These happen when the operation has ended: it must stay ended.
ENDED = ('kill-driver', 'power-loss', LATE, SOME)
# The driver is killed, and then something happens to its journal.
DAMAGED = ('half', 'empty', 'newer')

# The driver is killed, and one without Ferry runs before it comes back: it stops the domain and
# starts it again (stock-restart), or leaves it alone.
STOCK = ('stock', 'stock-restart')
# The driver is killed, and when the next one has run or undone a step, QEMU or it is killed, too;
# or its journal cannot be written.
TWICE = ('twice-kill-qemu', 'twice-kill-driver', 'twice-enospc')
# While a step has let go of the domain's job another client makes a call; while it waits for
# QEMU's answer, with the job, a call that needs none.
SECOND = ('second-destroy', 'second-undefine', 'second-define', 'second-same', 'second-end', 'second-delete')
CHECKPOINT = 'second-checkpoint'
JOBLESS = ('second-undefine', 'second-define')
# Before a step, somebody puts something else where the operation has a file of its own.
SWAPPED = ('swap-symlink', 'swap-link', 'swap-fifo', 'swap-folder', 'swap-file')

COLUMNS = ('error', 'disconnect', 'kill-qemu', 'kill-driver', 'enospc', 'eio', 'unsaved', 'image', 'damaged', 'newer',
           'power-loss', 'twice', 'stock', 'second', 'swap')
COLUMN = {'half': 'damaged', 'empty': 'damaged', LATE: 'power-loss', SOME: 'power-loss', 'eio-folder': 'eio',
          **dict.fromkeys(UNSAVED, 'unsaved'), **dict.fromkeys(IMAGES, 'image'), **dict.fromkeys(TWICE, 'twice'),
          **dict.fromkeys(STOCK, 'stock'), **dict.fromkeys(SECOND + (CHECKPOINT,), 'second'),
          **dict.fromkeys(SWAPPED, 'swap')}

# what faults.c is told, if it is not the name of the fault
WHAT = {LATE: 'power-loss', SOME: 'power-loss', **dict.fromkeys(DAMAGED + TWICE + STOCK, 'kill-driver'),
        **dict.fromkeys(SECOND + (CHECKPOINT,), 'meet')}

SAMPLE = 70
WORKERS = 2
ATTEMPTS = 3
# seconds that a case may take
PATIENCE = 60
# a sample stops after so many failures
HOPELESS = 10

# make: the class that tries the case; trigger: what the scene's table says; past: the plan
# cannot go back from this step on; number: counts from 1
Case = collections.namedtuple('Case', 'number make cls row trigger undone plan step when fault past idle')


def title(case):
    return f'{case.cls.__name__} {case.plan}/{case.step}/{case.when}/{case.fault}'


def points(cls, undone, last, final):
    """Yields (when, fault) for a step that is run or undone. last: it is the last step of
    its plan; final: it is the last step of the operation."""
    if not undone:
        # kill-driver in the journal: the driver is killed when half of it is written
        moments = {'journal': JOURNAL + ('kill-driver',), 'before': ANYWHERE, **dict.fromkeys(DURING, ANYWHERE),
                   'after': ANYWHERE + (LATE,) + DAMAGED}
        if cls.ALONE:
            moments['save'] = UNSAVED
            moments['image'] = IMAGES
            moments['before'] += cls.swapped()
            moments['after'] += (SOME,) + TWICE + STOCK
            moments['during-first'] += cls.JOBLESS
            moments['during-last'] += cls.JOBLESS
            moments.update({'yield-first': cls.SECOND, 'yield-last': cls.SECOND})
    else:
        # An undo cannot fail. Undos follow each other directly, last step first, so after
        # one is before the next.
        moments = {'any-journal': JOURNAL[:2], 'undo-before': ANYWHERE[1:]} if last else {}
        moments.update({f'undo-{when}': ANYWHERE for when in DURING})
        moments['undo-after'] = ANYWHERE[1:] + (LATE,) + DAMAGED
        if cls.ALONE:
            moments['undo-save'] = UNREMOVED
            moments['undo-image'] = ('image-erofs', 'image-hang')
            moments['undo-after'] += (SOME,) + TWICE + STOCK + cls.swapped()
            moments['undo-during-first'] += cls.JOBLESS
            moments['undo-during-last'] += cls.JOBLESS
            moments.update({'undo-yield-first': cls.SECOND, 'undo-yield-last': cls.SECOND})
    if final and cls.ALONE:
        moments['ended'] = ENDED
        moments['undo-removal' if undone else 'removal'] = REMOVAL
    for when, faults in moments.items():
        for fault in faults:
            yield when, fault


def cases(walks):
    """All cases, in an order that does not change. walks: {class that tries cases: the
    scenes that it knows}."""
    known = list(plans.plans(MODULE))
    number = 0
    for make, cls in ((make, cls) for make, classes in walks.items() for cls in classes):
        for operation, plan, steps in known:
            for undone, table in (False, cls.PLANS), (True, cls.UNDONE):
                if (operation, plan) not in table:
                    continue
                walked = [step for step in steps if not (undone and step.past)]
                while undone and cls.LATEST and walked[-1].name != cls.LATEST:
                    walked.pop()
                for i, (step, past, recorded, idle) in enumerate(walked):
                    last = i == len(walked) - 1
                    for when, fault in points(cls, undone, last, i == 0 if undone else last):
                        if not cls.impossible(plan, fault) and (recorded or when != 'journal'):
                            number += 1
                            yield Case(number, make, cls, cls.ROWS[operation, plan], table[operation, plan], undone,
                                       plan, step, when, fault, past, idle)


# What faults.c is told, and what it logs

def line(case, commands, traits):
    """Returns the line for the file of faults, or None when the step has no such point.
    commands, traits: see sent()"""
    what = WHAT.get(case.fault, case.fault)
    when = case.when
    if when == 'ended':
        return when
    if what == 'error' and case.past and when in ('before', 'after'):
        # Once a plan cannot go back, a step that fails cannot claim that nothing happened:
        # it is unknown.
        what = 'unknown'
    if when == 'any-journal':
        return f'any/journal/{what}'
    step = f'{case.plan}/{case.step}/{"undo" if case.undone else "run"}'
    did = traits.get(step, ())
    if 'save' in when and 'saves' not in did:
        return None
    if 'removal' in when and 'removes' not in did:
        return None
    if 'image' in when and ('images' if what == 'image-hang' else what) not in did:
        return None
    if 'during' in when or 'yield' in when:
        sent = commands.get(step if 'during' in when else f'yields {step}', 0)
        when, _, which = when.rpartition('-')
        if sent < {'first': 1, 'middle': 3, 'last': 2}[which]:
            return None
        when += '-{}'.format({'first': 1, 'middle': (sent + 1) // 2, 'last': sent}[which])
    elif what == 'eio-folder' and 'synced' not in did:
        return None
    return f'{case.plan}/{case.step}/{when}/{what}'


def asks(case):
    """Does line() have to know what the steps do when nothing goes wrong?"""
    return (any(what in case.when for what in ('during', 'save', 'image', 'yield', 'removal')) or
            case.fault == 'eio-folder')


def attempt(case, commands, traits, once):
    """Tries a case. once(line) returns None when the fault happened, or else how many
    commands were sent: the number of commands that a waiting step sends varies. Returns
    True, or None when there is nothing to try."""
    for _ in range(ATTEMPTS):
        fault = line(case, commands, traits)
        if not fault:
            return None
        commands = once(fault)
        if commands is None:
            return True
    if case.fault == 'eio-folder' and case.cls.TOGETHER or case.when == 'journal' and case.idle:
        return None
    raise AssertionError(f'the fault did not happen: {fault}')


def read_log(fault_file):
    try:
        with open(f'{fault_file}.log') as f:
            return f.read().splitlines()
    except FileNotFoundError:
        return []


def happened(log):
    return any(line.startswith('fault ') for line in log)


def sent(log):
    """Returns (how many commands each step sent, and with "yields STEP" how often it let go
    of the job; for each step what it did of "synced", "saves", "images", and the faults that
    could happen to these; and "removes")."""
    commands, traits = {}, collections.defaultdict(set)
    now, yields = set(), 0
    for text in log:
        words = text.split()
        if words[0] in ('synced', 'saves', 'images'):
            now.update(words)
        elif words[0] == 'yields':
            yields = int(words[1])
        elif words[0] == 'removes':
            traits[words[1]].add('removes')
        elif words[0] != 'fault':
            step, count = words
            commands[step], commands[f'yields {step}'] = int(count), yields
            traits[step] |= now
            now, yields = set(), 0
    return commands, traits


def forget(fault_file):
    """Removes what faults left behind, for the next case."""
    for what in 'durable', 'lost', 'fresh':
        shutil.rmtree(f'{fault_file}.{what}', ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f'{fault_file}.log')


# What happens while no driver runs

def paths(folder):
    """Paths of the journals in the folder."""
    return [os.path.join(folder, n) for n in os.listdir(folder) if n.endswith('.xml')] if os.path.isdir(folder) else []


def boot(fault_file, run, journals, late):
    """Puts into place what a host has when it comes up again after a power loss. late: the
    disk got all that was written, not only what was synced."""
    for name in os.listdir(run):
        path = os.path.join(run, name)
        if os.path.isdir(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    if late:
        return
    for path in paths(journals):
        os.unlink(path)
    for path in paths(f'{fault_file}.durable'):
        shutil.copy(path, journals)


def lose_names(fault_file, lost):
    """Puts back the files that a step made, renamed or removed without syncing the folder.
    lost: tells for a path whether the disk did not get the change"""
    for kind in 'lost', 'fresh':
        notes = f'{fault_file}.{kind}'
        for name in os.listdir(notes) if os.path.isdir(notes) else []:
            path = urllib.parse.unquote(name)
            if not lost(path):
                continue
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            if kind == 'lost':
                os.link(os.path.join(notes, name), path)


def damage(journals, how):
    """Makes the journals unreadable. Returns their new contents by path."""
    damaged = {}
    for path in paths(journals):
        with open(path) as f:
            text = f.read()
        damaged[path] = {'half': text[:len(text) // 2], 'empty': '',
                         'newer': text.replace("<ferry version='1'", "<ferry version='2'")}[how]
        with open(path, 'w') as f:
            f.write(damaged[path])
    return damaged


def still(path, text):
    try:
        with open(path) as f:
            return f.read() == text
    except FileNotFoundError:
        return False


def check_set_aside(damaged, log, name=lambda path: path):
    """Fails unless the journals were set aside and the log says so. name: maps a path to
    the name that the driver has for it. A recovered operation may have a new journal."""
    for path, text in damaged.items():
        check(not still(path, text), f'{path} is still there')
        with open(f'{path}.bad') as f:
            check(f.read() == text, 'what was set aside is not what was there')
        with open(log, errors='replace') as f:
            check(any(f'{name(path)}.bad' in entry and 'set aside' in entry for entry in f),
                  'the log does not say that it was set aside')
        os.unlink(f'{path}.bad')


def scene(case):
    """What a worker runs once without a fault before its first such case, which takes a
    while."""
    return case.make, case.cls, case.trigger


class Worker:
    """A child process that reads numbers of cases and answers each."""

    def __init__(self, path):
        self.child = subprocess.Popen([path, '--worker'], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.case = None
        self.known = set()

    def give(self, case):
        self.case = case
        self.known.add(scene(case))
        self.child.stdin.write(f'{case.number}\n')
        self.child.stdin.flush()

    def answer(self):
        """(passed, what is wrong); passed is None when there was nothing to try."""
        while True:
            line = self.child.stdout.readline()
            if not line:
                return False, f'the worker ended: {self.child.wait()}'
            if line.startswith('{'):
                return json.loads(line)['answer']
            print(line, end='', flush=True)

    def close(self):
        self.child.stdin.close()
        self.child.wait()


def hang(*_):
    raise AssertionError('it hangs')


def work(walks):
    """What a Worker's child does."""
    known = {c.number: c for c in cases(walks)}
    made = {}
    signal.signal(signal.SIGALRM, hang)
    try:
        for line in sys.stdin:
            case = known[int(line)]
            print(json.dumps({'answer': one(case, made)}), flush=True)
    except BrokenPipeError:
        pass  # the parent process is gone
    finally:
        for walk in made.values():
            walk.close()


def keep(walk, case):
    """Keeps what a failed case left behind, above all its logs."""
    if not walk.folder():
        return ''
    kept = os.path.join(os.environ.get('FERRY_TMP', '/var/tmp'), f'ferry-crash-{case.number}')
    shutil.rmtree(kept, ignore_errors=True)
    # a process that is just ending may remove files meanwhile: they need not be copied
    subprocess.run(['cp', '-a', walk.folder(), kept], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return f'; files kept in {kept}'


def one(case, made):
    """Tries a case for the line that answers. made: {class that tries cases: its instance}."""
    signal.alarm(int(patience(PATIENCE)))
    walk = None
    try:
        walk = made.get(case.make) or made.setdefault(case.make, case.make())
        return walk.case(case), ''
    except Exception as e:  # a case may fail in any way
        signal.alarm(0)
        kept = ''
        if walk:
            kept = keep(walk, case)
            walk.clear()
        return False, f'{type(e).__name__}: {e} ({where(e)}){kept}'
    finally:
        signal.alarm(0)


def take(todo, worker, workers):
    """The next case for a worker: one of a scene that the worker knows, else one of a scene
    that no worker knows, else any."""
    taken = set().union(*(w.known for w in workers))
    for wanted in worker.known.__contains__, lambda s: s not in taken, lambda s: True:
        for i, case in enumerate(todo):
            if wanted(scene(case)):
                return todo.pop(i)


def walk(path, todo, workers):
    """Gives the cases of todo to the workers. Yields each with its answer."""
    todo = list(todo)
    workers = [Worker(path) for _ in range(min(workers, len(todo)))]
    selector = selectors.DefaultSelector()
    for worker in workers:
        worker.give(take(todo, worker, workers))
        selector.register(worker.child.stdout, selectors.EVENT_READ, worker)
    try:
        while selector.get_map():
            for key, _ in selector.select():
                worker = key.data
                passed, wrong = worker.answer()
                yield worker.case, passed, wrong
                if todo and worker.child.poll() is None:
                    worker.give(take(todo, worker, workers))
                else:
                    selector.unregister(worker.child.stdout)
        for case in todo:
            yield case, False, 'all workers ended'
    finally:
        for worker in workers:
            worker.close()


class Table:
    """A table of operation by fault, with passed/total."""

    def __init__(self):
        self.passed = collections.Counter()
        self.total = collections.Counter()
        self.tried = set() # the points' names, also where nothing happens

    def add(self, case, passed):
        key = case.row, COLUMN.get(case.fault, case.fault)
        self.total[key] += 1
        self.passed[key] += passed

    def __str__(self):
        rows = list(dict.fromkeys(row for row, _ in self.total))
        cells = [['', *COLUMNS, 'all']]
        for row in rows + ['all']:
            keys = [[(r, c) for r in ([row] if row != 'all' else rows)] for c in COLUMNS]
            keys.append([k for column in keys for k in column])
            cells.append([row] + [f'{sum(self.passed[k] for k in column)}/{sum(self.total[k] for k in column)}'
                                  for column in keys])
        widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
        return '\n'.join('  '.join([line[0].ljust(widths[0])] + [t.rjust(w) for t, w in zip(line[1:], widths[1:])])
                         for line in cells)


def numbers(text):
    """N or N-M"""
    first, _, last = text.partition('-')
    return range(int(first), int(last or first) + 1)


def commit():
    """A number that changes with each commit, so that the samples of many commits cover what
    one does not."""
    if not shutil.which('git'):
        return 1 # in the root folder of another release
    p = subprocess.run(['git', '-C', TOP, 'rev-parse', 'HEAD'], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                       text=True)
    return int(p.stdout[:8], 16) if p.returncode == 0 else 1


def cover(table, known):
    """Notes what was tried, for all walks of this build. Returns a line that says how much
    of all that is."""
    path = os.path.join(BUILD, 'crash-covered')
    try:
        with open(path) as f:
            tried = set(f.read().splitlines())
    except FileNotFoundError:
        tried = set()
    tried |= table.tried
    with open(f'{path}.new', 'w') as f:
        f.writelines(f'{name}\n' for name in sorted(tried))
    os.rename(f'{path}.new', path)
    there = {title(c) for c in known}
    cells = {(c.row, COLUMN.get(c.fault, c.fault)) for c in known}
    reached = {(c.row, COLUMN.get(c.fault, c.fault)) for c in known if title(c) in tried}
    return (f'     all walks of this build folder: {len(tried & there)} of {len(there)} points, '
            f'{len(reached)} of {len(cells)} cells of the table')


def arguments():
    parser = argparse.ArgumentParser(prog='./ferry check crash', description='the crash walk: see docs/testing.rst')
    parser.add_argument('--all', action='store_true', help='every case, not a sample')
    parser.add_argument('--sample', type=int, default=SAMPLE, metavar='N', help=f'this many points ({SAMPLE})')
    parser.add_argument('--seed', type=int, default=commit(), metavar='N', help='which sample (the commit)')
    parser.add_argument('--case', type=numbers, default=(), metavar='N[-M]', help='only the case of this number')
    parser.add_argument('--only', default='', metavar='TEXT', help='only cases with this in their name')
    parser.add_argument('--workers', type=int, default=WORKERS, metavar='N', help=f'cases at a time ({WORKERS})')
    parser.add_argument('--list', action='store_true', help='say what cases there are')
    parser.add_argument('--worker', action='store_true', help=argparse.SUPPRESS)
    return parser.parse_args()


def chosen(args, known):
    """The cases to try. The scenes that take longest to begin come first."""
    todo = [c for c in known if args.only in title(c) and (not args.case or c.number in args.case)]
    if not (args.all or args.case or args.only):
        todo = random.Random(args.seed).sample(todo, min(args.sample, len(todo)))
    return sorted(todo, key=lambda c: (c.cls.ALONE, c.number))


def main(path, walks):
    args = arguments()
    if args.worker:
        return work(walks)
    known = list(cases(walks))
    if args.list:
        for case in known:
            print(f'{case.number:5} {case.row}: {title(case)}')
        return 0
    todo = chosen(args, known)
    print(f'     {len(known)} points, {"all of them" if args.all else f"seed {args.seed}"}', flush=True)
    table = Table()
    tried, void = [], 0
    for case, passed, wrong in walk(path, todo, args.workers):
        table.tried.add(title(case))
        if passed is None:
            void += 1
            continue
        tried.append(case.number)
        table.add(case, passed)
        if not passed:
            print(f'FAIL {case.row}: {title(case)}: {wrong}\n     again: ./ferry check crash --case {case.number}',
                  flush=True)
        elif os.environ.get('FERRY_TRACE'):
            print(f'#    {case.number} {title(case)}', flush=True)
        failed = len(tried) - sum(table.passed.values())
        if args.all and len(tried) % 100 == 0:
            print(f'     {len(tried)} tried, {failed} failed', flush=True)
        elif not args.all and failed == HOPELESS:
            print('     so many failed that the others are not tried', flush=True)
            break
    if not args.all:
        print(f'     cases {" ".join(map(str, sorted(tried)))}')
    print(f'     {void} points at which nothing happens\n{table}')
    print(cover(table, known))
    passed = sum(table.passed.values())
    print(f'{passed} passed, {len(tried) - passed} failed')
    return 0 if tried and passed == len(tried) else 1
