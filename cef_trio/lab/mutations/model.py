"""The model of a mutation: one safeguard removed by monkeypatching, and where that must be detected."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from cef_trio.lab.faults import FaultKind

Apply = Callable[[ExitStack], None]
_BY_POSITION: Final = frozenset({inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD})
_REST: Final = frozenset({inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD})


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
    """Replace an attribute of a module or class until the stack is closed.

    Raises:
        AttributeError: there is no such attribute.
        TypeError: the replacement of a function lacks one of its parameters. Called with that one it would fail, and
            the run would detect this instead of the missing safeguard.
    """
    before = vars(owner).get(name)
    replaced = getattr(owner, name)
    if inspect.isfunction(replaced) and inspect.isfunction(value) and (lacking := _lacking(value, replaced)):
        raise TypeError(f"{value.__qualname__} lacks parameters of {replaced.__qualname__}: {', '.join(lacking)}")
    if before is None:  # inherited
        stack.callback(delattr, owner, name)
    else:
        stack.callback(setattr, owner, name, before)
    setattr(owner, name, value)


def _lacking(replacement: Callable[..., object], replaced: Callable[..., object]) -> list[str]:
    """Return the parameters of a function that its replacement does not take, by name or by position."""
    takes = inspect.signature(replacement).parameters.values()
    kinds = {parameter.kind for parameter in takes}
    names = {parameter.name for parameter in takes if parameter.kind is not parameter.POSITIONAL_ONLY}
    positions = sum(parameter.kind in _BY_POSITION for parameter in takes)
    lacking = []
    for index, parameter in enumerate(inspect.signature(replaced).parameters.values()):
        by_position = parameter.kind in _BY_POSITION
        enough = inspect.Parameter.VAR_POSITIONAL in kinds or index < positions
        named = inspect.Parameter.VAR_KEYWORD in kinds or parameter.name in names
        if parameter.kind in _REST or (named and not by_position) or (by_position and enough):
            continue
        lacking.append(parameter.name)
    return lacking
