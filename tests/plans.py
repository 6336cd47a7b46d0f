"""Reads the plans out of the module that was built: the tests walk what is
there, not a list that somebody keeps.

Copyright (C) 2026 The Ferry authors
SPDX-License-Identifier: LGPL-2.1-or-later
"""

import collections
import ctypes
import os


class Step(ctypes.Structure):
    """struct _ferryStep, engine/op.h"""
    _fields_ = [('name', ctypes.c_char_p), ('run', ctypes.c_void_p),
                ('undo', ctypes.c_void_p), ('durable', ctypes.c_bool),
                ('alone', ctypes.c_bool), ('unrecorded', ctypes.c_bool), ('idle', ctypes.c_void_p)]


class Plan(ctypes.Structure):
    """struct _ferryPlan"""
    _fields_ = [('name', ctypes.c_char_p), ('steps', ctypes.POINTER(Step))]


class OpClass(ctypes.Structure):
    """struct _ferryOpClass, as far as needed"""
    _fields_ = [('name', ctypes.c_char_p), ('plans', ctypes.POINTER(ctypes.POINTER(Plan)))]


# past: the plan cannot go back from here on; recorded: the step is written to the journal; idle: not
# when it has nothing to do
Point = collections.namedtuple('Point', 'name past recorded idle')


def plans(path):
    """Yields (operation, plan, [Point]). A step is past the point of no return from
    the first durable one without undo on."""
    module = ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
    classes = (ctypes.POINTER(OpClass) * 64).in_dll(module, 'ferryClasses')
    for cls in classes:
        if not cls:
            return
        for i in range(64):
            plan = cls.contents.plans[i]
            if not plan:
                break
            steps = []
            past = False
            for j in range(64):
                step = plan.contents.steps[j]
                if not step.name:
                    break
                past = past or (step.durable and not step.undo)
                steps.append(Point(step.name.decode(), past, not step.unrecorded, bool(step.idle)))
            yield cls.contents.name.decode(), plan.contents.name.decode(), steps


def undone(steps):
    """The steps of a plan that can be undone."""
    return [step.name for step in steps if not step.past]


if __name__ == '__main__':
    for operation, plan, steps in plans(os.environ['FERRY_MODULE']):
        print(operation, plan, ' '.join(step.name + ('!' if step.past else '') for step in steps))
