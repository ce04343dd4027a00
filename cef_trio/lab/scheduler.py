"""A clock that jumps and a scheduler that throws the same dice again: a run that can be repeated exactly.

trio shuffles the tasks that can run, so that nobody relies on an order. Here the shuffle is seeded: step k of a run is
the same step in every run with that seed. trio keeps the switch for that in ``trio._core._run`` and says that it is for
hypothesis alone (https://trio.readthedocs.io/en/stable/reference-testing.html has no public one); this module is the
one place that touches it, and ``tests/lab/test_lab_repeats.py`` would tell if it stopped working.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, TypeVarTuple

import trio
from trio.testing import MockClock

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Have trio's scheduler throw dice of this seed, and put the tasks in order before it does."""
    run: Any = trio._core._run  # noqa: SLF001 - see above
    dice, in_order = run._r, run._ALLOW_DETERMINISTIC_SCHEDULING  # noqa: SLF001
    run._r, run._ALLOW_DETERMINISTIC_SCHEDULING = random.Random(seed), True  # noqa: S311, SLF001 - to be repeated
    try:
        yield
    finally:
        run._r, run._ALLOW_DETERMINISTIC_SCHEDULING = dice, in_order  # noqa: SLF001


def run_virtual(main: Callable[[*Ts], Awaitable[T]], *args: *Ts, seed: int) -> T:
    """``trio.run`` on a clock that jumps to the next deadline when every task waits, with a seeded scheduler."""
    with seeded(seed):
        result: T = trio.run(main, *args, clock=MockClock(autojump_threshold=0))
    return result


def derived(seed: int, *what: object) -> int:
    """Another seed, made of this one and of what it is for; the same in every process."""
    return zlib.crc32("/".join(map(str, (seed, *what))).encode())
