"""The one place where cancellation is kept waiting.

What must not be lost on the way out is saved inside ``with shielded(seconds, saving="…")``: a shield with an end. A
shield without an end would turn a frozen server into a daemon that cannot be stopped (promise P4), so there is no other
use of ``shield=`` in this project; ``tests/house/test_shields.py`` reads the source and enforces it.

The laboratory can remove single shields, by the name given in ``saving``, to show that each of them is needed.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import trio

T = TypeVar("T")

removed: frozenset[str] = frozenset()
"""Names of the shields that are off. Only the laboratory's mutation check sets this."""


@contextmanager
def shielded(seconds: float, *, saving: str) -> Iterator[trio.CancelScope]:
    """Run the body to its end, for at most ``seconds``, whatever is cancelled around it.

    Args:
        seconds: how long the body may take; positive and finite.
        saving: what would be lost without the shield, as a short name (``"part record"``).

    The body's awaits do not see a cancellation from outside; after ``seconds`` they are cancelled, the block is left
    and ``cancelled_caught`` of the yielded scope is true. A cancellation that arrived meanwhile is delivered at the
    first checkpoint after the block.

    Raises:
        ValueError: ``seconds`` is not positive and finite.
    """
    if not 0 < seconds < math.inf:
        raise ValueError(f"a shield needs a finite, positive time limit, not {seconds!r}")
    with trio.move_on_after(seconds, shield=saving not in removed) as scope:
        yield scope


async def shielded_at_first(work: Callable[[], Awaitable[T]], seconds: float, *, saving: str) -> T:
    """Do some work that a cancellation does not reach for ``seconds``, and then may.

    Unlike :func:`shielded` it ends nothing by itself: work that nobody cancels goes on for as long as it takes.

    Args:
        work: what is done; what it returns is returned without a further checkpoint that a cancellation could use
            within ``seconds``.
        seconds: positive and finite.
        saving: as for :func:`shielded`.

    Raises:
        ValueError: ``seconds`` is not positive and finite.
        trio.Cancelled: cancelled from outside, and ``seconds`` were over; maybe in a group.
    """
    if not 0 < seconds < math.inf:
        raise ValueError(f"a shield needs a finite, positive time limit, not {seconds!r}")
    result: list[T] = []
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.cancel_scope.shield = saving not in removed
        nursery.start_soon(_lower, nursery.cancel_scope, seconds)
        try:
            result.append(await work())
        except Exception as error:  # noqa: BLE001 - raised again below, where the nursery makes no group of it
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return result[0]


async def _lower(scope: trio.CancelScope, seconds: float) -> None:
    await trio.sleep(seconds)
    scope.shield = False
