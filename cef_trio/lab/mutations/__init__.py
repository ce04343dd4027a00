"""Mutations: one safeguard of the daemon is removed, to show that the laboratory detects it.

A mutation removes a shield (``shields.py``), a write (``records.py``), a validation (``validation.py``), or a reaction
to an external fault (``environment.py``, ``responses.py``, ``limits.py``, ``ownership.py``; ``kind`` names its section
in ``docs/correctness.md``). The naive variants are for the table there.

To add a mutation, write a function that replaces attributes with :func:`~cef_trio.lab.mutations.model.replace_in`, and
add a :class:`~cef_trio.lab.mutations.model.Mutation` to ``MUTATIONS`` of the file it belongs to, with the scenario or
check that detects it. ``cef-trio lab mutations --only NAME`` shows whether it does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from cef_trio.lab.mutations import environment, limits, ownership, records, responses, shields, validation
from cef_trio.lab.mutations.model import Mutation

MUTATIONS: Final = {
    mutation.name: mutation
    for theme in (shields, records, validation, environment, responses, limits, ownership)
    for mutation in theme.MUTATIONS
}
VARIANTS: Final = {mutation.name: mutation for theme in (shields, records, validation) for mutation in theme.VARIANTS}


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
