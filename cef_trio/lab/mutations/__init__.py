"""Mutations: one safeguard of the daemon is removed, to show that the laboratory detects it.

A mutation removes a shield (``shields.py``), a write (``records.py``), a validation (``validation.py``), a reaction
to an external fault (``environment.py``, ``responses.py``, ``limits.py``, ``ownership.py``; ``kind`` names its section
in ``docs/correctness.md``), or what keeps several daemons apart (``fleets.py``). The naive variants are for the table
there.

To add a mutation, write a function that replaces attributes with :func:`~cef_trio.lab.mutations.model.replace_in`, in
the file it belongs to, and decorate it with :func:`~cef_trio.lab.mutations.model.mutation`: its name, the scenario or
check that detects it, and the promises that it violates. A name that begins with ``naive:`` makes it a variant.
``cef-trio lab mutations --only NAME`` shows whether it is detected::

    @mutation("late: part record", "first-part", "P2")
    def _part_recorded_late(stack: ExitStack) -> None:
        ...
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from cef_trio.lab.mutations import environment, fleets, limits, ownership, records, responses, shields, validation
from cef_trio.lab.mutations.model import Mutation

_THEMES: Final = (shields, records, validation, environment, responses, limits, ownership, fleets)
_ALL: Final = (
    *shields.SHIELDS,
    *(found for theme in _THEMES for found in vars(theme).values() if isinstance(found, Mutation)),
)
MUTATIONS: Final = {found.name: found for found in _ALL if not found.name.startswith("naive: ")}
VARIANTS: Final = {found.name: found for found in _ALL if found.name not in MUTATIONS}


@contextmanager
def mutated(name: str | None) -> Iterator[None]:
    """Apply a mutation or variant within the block; ``None``: none.

    Raises:
        KeyError: there is no mutation of that name.
    """
    with ExitStack() as stack:
        if name is not None:
            (MUTATIONS | VARIANTS)[name].apply(stack)
        yield


__all__ = ("MUTATIONS", "VARIANTS", "Mutation", "mutated")
