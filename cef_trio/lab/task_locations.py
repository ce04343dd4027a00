"""Where tasks are: the line of our own code that each of them is at."""

from __future__ import annotations

from pathlib import Path

import trio

import cef_trio

_PACKAGE = str(Path(cef_trio.__file__).parent)
_LABORATORY = str(Path(__file__).parent)
_NOWHERE = "outside of cef_trio"


def place_of(task: trio.lowlevel.Task) -> str:
    """The innermost line of cef_trio (the laboratory left out) that a task is suspended at: ``file:line function``."""
    place = _NOWHERE
    for frame, line in task.iter_await_frames():
        file = frame.f_code.co_filename
        if file.startswith(_PACKAGE) and not file.startswith((_LABORATORY, f"{_PACKAGE}/local")):
            place = f"{file[len(_PACKAGE) + 1 :]}:{line} {frame.f_code.co_name}"
    return place


def tasks_below(task: trio.lowlevel.Task) -> list[trio.lowlevel.Task]:
    """A task and all that run in its nurseries, outermost first."""
    found = [task]
    for nursery in task.child_nurseries:
        for child in sorted(nursery.child_tasks, key=_age):
            found += tasks_below(child)
    return found


def _age(task: trio.lowlevel.Task) -> int:
    age: int = task._counter  # noqa: SLF001 - child_tasks is a set; reports need an order
    return age
