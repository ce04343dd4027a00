"""A virtual clock and a seeded scheduler, so that runs are reproducible.

trio shuffles the runnable tasks so that programs do not rely on an order. Here the shuffle is seeded: step k is the
same in every run with that seed. The switch is private (``trio._core._run``, for hypothesis;
https://trio.readthedocs.io/en/stable/reference-testing.html has no public one). Only this module uses it, and
``tests/lab/test_lab_repeats.py`` fails if it stops working.
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
    """Seed the shuffle of trio's scheduler, and sort the tasks before it."""
    run: Any = trio._core._run  # noqa: SLF001 - see above
    random_before, sorted_before = run._r, run._ALLOW_DETERMINISTIC_SCHEDULING  # noqa: SLF001
    run._r, run._ALLOW_DETERMINISTIC_SCHEDULING = random.Random(seed), True  # noqa: S311, SLF001 - to be repeated
    try:
        yield
    finally:
        run._r, run._ALLOW_DETERMINISTIC_SCHEDULING = random_before, sorted_before  # noqa: SLF001


def run_virtual(main: Callable[[*Ts], Awaitable[T]], *args: *Ts, seed: int) -> T:
    """Call ``trio.run`` with a seeded scheduler and a clock that jumps to the next deadline when every task waits."""
    with seeded(seed):
        result: T = trio.run(main, *args, clock=MockClock(autojump_threshold=0))
    return result


def derived(seed: int, *what: object) -> int:
    """Return a seed derived from another one and a purpose; the same in every process."""
    return zlib.crc32("/".join(map(str, (seed, *what))).encode())
