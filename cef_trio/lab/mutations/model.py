"""What a mutation is: one thing left out, by a switch, and where that shows."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from cef_trio.lab.faults import FaultKind

Apply = Callable[[ExitStack], None]


@dataclass(frozen=True, slots=True)
class Mutation:
    """One thing left out. ``shows_in`` and ``fault``: where it shows; ``breaks``: which promises."""

    name: str
    summary: str
    apply: Apply
    shows_in: str
    """A scenario, or a check (``lab/checks``) of what no world has."""
    breaks: tuple[str, ...]
    fault: FaultKind | None = FaultKind.CANCEL
    """``None``: it shows by itself, without any blow."""
    kind: str = ""
    """Which kind of fault of the world outside it lets in again (``docs/correctness.md``); empty: none of them."""


def replace_in(stack: ExitStack, owner: object, name: str, value: object) -> None:
    """Replace an attribute of a module or class until the stack is left."""
    before = vars(owner).get(name)
    if before is None:
        getattr(owner, name)  # inherited; raises if there is no such attribute
        stack.callback(delattr, owner, name)
    else:
        stack.callback(setattr, owner, name, before)
    setattr(owner, name, value)
