"""Mutations that remove a shield, or its time limit."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import Final

import trio

from cef_trio.lab.mutations.model import Apply, Mutation, mutation, replace_in
from cef_trio.resilience import shield as shield_module


def _without_shields(*names: str) -> Apply:
    def apply(stack: ExitStack) -> None:
        replace_in(stack, shield_module, "removed", shield_module.removed | set(names))

    return apply


@mutation("naive: shields without a time limit", "redis-frozen", "P4")
def _unbounded_shields(stack: ExitStack) -> None:
    """The exit waits for Redis without a limit."""
    opened = trio.move_on_after

    def unbounded(_seconds: float, **options: bool) -> trio.CancelScope:
        return opened(math.inf, **options)

    class _Trio:
        move_on_after = staticmethod(unbounded)
        CancelScope = trio.CancelScope

    replace_in(stack, shield_module, "trio", _Trio)


_SHIELDS: Final = (
    ("interrupted state", "the state of a cancelled stream is not saved", "first-part", ("P3",)),
    (
        "parked state",
        "the state of a drained stream, and of those saved in the same write, is lost",
        "shutdown",
        ("P3",),
    ),
    ("part record", "the record of an acknowledged part is cancelled", "first-part", ("P2",)),
    (
        "part acknowledgement",
        "the release of the connection of an acknowledged part is cancelled",
        "first-part",
        ("P2",),
    ),
    ("copied part's record", "the record of a copied part is cancelled", "append-after-close", ("P2",)),
    ("upload id", "the id of a created upload is not recorded", "first-part", ("P2",)),
    ("object record", "the record of a completed object is cancelled", "finalizing", ("P2",)),
    ("webhook delivery", "the record of an acknowledged webhook is cancelled", "webhook", ("P3",)),
)

SHIELDS: Final = tuple(
    Mutation(f"no shield: {name}", summary, _without_shields(name), scenario, breaks)
    for name, summary, scenario, breaks in _SHIELDS
)


@mutation("naive: no shields", "many-parts", "P2", "P3")
def _no_shields(stack: ExitStack) -> None:
    """Every await may be cancelled."""
    _without_shields(*(name for name, _, _, _ in _SHIELDS))(stack)
