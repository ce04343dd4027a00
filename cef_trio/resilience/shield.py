"""Shielded sections with a time limit: the only use of ``shield=`` in this project.

State that must not be lost during a shutdown is saved inside ``with shielded(seconds, saving="…")``. A shield without a
limit would let a hung server block the shutdown (promise P4); ``tests/house/test_shields.py`` checks the source for
other uses.

The laboratory can remove single shields by the name given in ``saving``, to show that each is needed.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import trio

T = TypeVar("T")

removed: frozenset[str] = frozenset()
"""Names of the shields that are disabled; set by the laboratory's mutation check only."""


@contextmanager
def shielded(seconds: float, *, saving: str) -> Iterator[trio.CancelScope]:
    """Shield the body from outer cancellation for at most ``seconds``.

    ``saving`` names what would be lost without the shield (``"part record"``). After ``seconds`` the body is cancelled,
    and ``cancelled_caught`` of the yielded scope is true. An outer cancellation that arrived meanwhile is delivered at
    the first checkpoint after the block.

    Raises:
        ValueError: ``seconds`` is not positive and finite.
    """
    if not 0 < seconds < math.inf:
        raise ValueError(f"a shield needs a finite, positive time limit, not {seconds!r}")
    with trio.move_on_after(seconds, shield=saving not in removed) as scope:
        yield scope


async def shielded_at_first(work: Callable[[], Awaitable[T]], seconds: float, *, saving: str) -> T:
    """Run ``work``, shielded from cancellation for the first ``seconds`` only.

    Unlike :func:`shielded` it has no time limit: work that is not cancelled runs to its end. Its result is returned
    without another checkpoint at which a cancellation within ``seconds`` could take effect.

    Raises:
        ValueError: ``seconds`` is not positive and finite.
        trio.Cancelled: cancelled after ``seconds``; may be in an exception group.
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
        except Exception as error:  # noqa: BLE001 - raised below, outside the nursery, so not in a group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return result[0]


async def _lower(scope: trio.CancelScope, seconds: float) -> None:
    await trio.sleep(seconds)
    scope.shield = False
