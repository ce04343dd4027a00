"""The daemon with one thing left out, to show that the laboratory would notice.

A mutation takes away one shield, one write before the next step, or one check of a reply: by a switch here, never by an
edit there. An explorer that finds nothing wrong with a mutated daemon would prove nothing about the real one. The naive
variants are what one writes who has not thought of cancellation; they are for the table in ``docs/correctness.md``.
``world.py``, ``answers.py``, ``limits.py`` and ``others.py`` have what the daemon did once, before the world was
unkind: each names its kind (``docs/correctness.md``). It shows in a scenario, or in a check (``lab/checks``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from cef_trio.lab.mutations import answers, checks, limits, others, records, shields, world
from cef_trio.lab.mutations.model import Mutation

MUTATIONS: Final = {
    mutation.name: mutation
    for theme in (shields, records, checks, world, answers, limits, others)
    for mutation in theme.MUTATIONS
}
VARIANTS: Final = {mutation.name: mutation for theme in (shields, records, checks) for mutation in theme.VARIANTS}


@contextmanager
def mutated(name: str | None) -> Iterator[None]:
    """Run the body with that mutation or variant; ``None``: with the daemon as it is.

    Raises:
        KeyError: there is none of that name.
    """
    with ExitStack() as stack:
        if name is not None:
            (MUTATIONS | VARIANTS)[name].apply(stack)
        yield


__all__ = ("MUTATIONS", "VARIANTS", "Mutation", "mutated")
