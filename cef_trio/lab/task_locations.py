"""The locations of tasks: the line of the daemon's code at which each is suspended."""

from __future__ import annotations

from pathlib import Path

import trio

import cef_trio

_PACKAGE = str(Path(cef_trio.__file__).parent)
_LABORATORY = str(Path(__file__).parent)
_NOWHERE = "outside of cef_trio"


def location_of(task: trio.lowlevel.Task) -> str:
    """Return ``file:line function`` of the innermost line of the daemon at which a task is suspended."""
    location = _NOWHERE
    for frame, line in task.iter_await_frames():
        file = frame.f_code.co_filename
        if file.startswith(_PACKAGE) and not file.startswith((_LABORATORY, f"{_PACKAGE}/local")):
            location = f"{file[len(_PACKAGE) + 1 :]}:{line} {frame.f_code.co_name}"
    return location


def tasks_below(task: trio.lowlevel.Task) -> list[trio.lowlevel.Task]:
    """Return a task and all tasks in its nurseries, outermost first."""
    found = [task]
    for nursery in task.child_nurseries:
        for child in sorted(nursery.child_tasks, key=_age):
            found += tasks_below(child)
    return found


def _age(task: trio.lowlevel.Task) -> int:
    age: int = task._counter  # noqa: SLF001 - child_tasks is a set; reports need an order
    return age
