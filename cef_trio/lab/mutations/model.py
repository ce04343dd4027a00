"""The model of a mutation: one safeguard removed by monkeypatching, and where that must be detected."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from cef_trio.lab.faults import FaultKind

Apply = Callable[[ExitStack], None]


@dataclass(frozen=True, slots=True)
class Mutation:
    """One safeguard that is removed."""

    name: str
    summary: str
    """What the mutated daemon does."""
    apply: Apply
    """Removes the safeguard, and registers the undo on the stack."""
    shows_in: str
    """The scenario or check (``lab/checks``) that must detect it."""
    breaks: tuple[str, ...]
    """The promises that are violated, e.g. ``P2``; at least one of them must be."""
    fault: FaultKind | None = FaultKind.CANCEL
    """The fault that reveals it; ``None``: none is needed."""
    kind: str = ""
    """The number of the section of ``docs/correctness.md`` on external faults; empty: none of them."""


def mutation(
    name: str, shows_in: str, *breaks: str, fault: FaultKind | None = FaultKind.CANCEL, kind: str = ""
) -> Callable[[Apply], Mutation]:
    """Make a :class:`Mutation` of the decorated function, whose docstring is its summary."""

    def make(apply: Apply) -> Mutation:
        return Mutation(name, apply.__doc__ or "", apply, shows_in, breaks, fault, kind)

    return make


def replace_in(stack: ExitStack, owner: object, name: str, value: object) -> None:
    """Replace an attribute of a module or class until the stack is closed."""
    before = vars(owner).get(name)
    if before is None:
        getattr(owner, name)  # inherited; raises if there is no such attribute
        stack.callback(delattr, owner, name)
    else:
        stack.callback(setattr, owner, name, before)
    setattr(owner, name, value)
