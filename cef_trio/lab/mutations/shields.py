"""Shields that are left out, or have no end."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import Final

import trio

from cef_trio.lab.mutations.model import Apply, Mutation, replace_in
from cef_trio.resilience import shield as shield_room


def _without_shields(*names: str) -> Apply:
    def apply(stack: ExitStack) -> None:
        replace_in(stack, shield_room, "removed", shield_room.removed | set(names))

    return apply


def _unbounded_shields(stack: ExitStack) -> None:
    """Every shield without an end, and a store whose silence nobody ever gives up."""
    opened = trio.move_on_after

    def for_ever(_seconds: float, **options: bool) -> trio.CancelScope:
        return opened(math.inf, **options)

    class _Trio:
        move_on_after = staticmethod(for_ever)
        CancelScope = trio.CancelScope

    replace_in(stack, shield_room, "trio", _Trio)


_SHIELDS: Final = (
    ("interrupted state", "how a cancelled stream ended is not saved", "first-part", ("P3",)),
    (
        "parked state",
        "a drained stream's state is lost, and with it that of those who joined its write",
        "shutdown",
        ("P3",),
    ),
    ("part record", "a part is acknowledged, and its record cut off", "first-part", ("P2",)),
    (
        "part acknowledgement",
        "a part's answer is here, and giving its connection back is cut off",
        "first-part",
        ("P2",),
    ),
    ("copied part's record", "a copy is acknowledged, and its record cut off", "append-after-close", ("P2",)),
    ("upload id", "an upload is created, and its id thrown away", "first-part", ("P2",)),
    ("object record", "an object is completed, and that is not recorded", "finalizing", ("P2",)),
    ("webhook delivery", "a webhook is taken, and that is not recorded", "webhook", ("P3",)),
)

MUTATIONS: Final = tuple(
    Mutation(f"no shield: {name}", summary, _without_shields(name), scenario, breaks)
    for name, summary, scenario, breaks in _SHIELDS
)

VARIANTS: Final = (
    Mutation(
        "naive: no shields",
        "cancellation may fall anywhere",
        _without_shields(*(name for name, _, _, _ in _SHIELDS)),
        "many-parts",
        ("P2", "P3"),
    ),
    Mutation(
        "naive: shields without a time limit",
        "what is saved on the way out is waited for",
        _unbounded_shields,
        "redis-frozen",
        ("P4",),
    ),
)
