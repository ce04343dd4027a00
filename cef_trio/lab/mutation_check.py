"""Whether the laboratory would notice: each thing that can be left out is left out, and hunted for.

A shield whose removal nobody notices is either useless or untested. So is a check that no run needs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cef_trio.lab.campaign import Tally, conduct
from cef_trio.lab.explorers import measure
from cef_trio.lab.faults import Blow, Strike
from cef_trio.lab.mutations import MUTATIONS, VARIANTS
from cef_trio.lab.run import Plan

_ORDER = (1, 5, 3, 7, 2, 6, 4, 8)
"""In which order moments are struck: from coarse to fine, since most defects show in a whole stretch of them."""


@dataclass(frozen=True, slots=True)
class MutationResult:
    """What came of a hunt."""

    mutation: str
    scenario: str
    blow: Blow | None
    """The blow that shows it; ``None``: it shows by itself, or not at all."""
    broken: Mapping[str, int]
    """The promises that broke, and in how many runs."""
    runs: int
    violated: int
    example: Plan | None

    @property
    def found(self) -> bool:
        """Whether anything broke."""
        return self.violated > 0


def hunt(name: str, *, processes: int = 1, enough: int | None = None) -> MutationResult:
    """Leave that one thing out, strike at every step of its scenario, and see what breaks.

    Args:
        name: of a mutation or a naive variant.
        processes: runs at once.
        enough: stop after so many broken runs; ``None``: strike everywhere, and count.

    Raises:
        KeyError: there is none of that name.
    """
    mutation = (MUTATIONS | VARIANTS)[name]
    tally, broken = Tally(), Counter[str]()
    for report in conduct(_plans(name, mutation.shows_in, mutation.blow), processes=processes):
        tally.add(report)
        broken.update({violation.partition(":")[0] for violation in report.violations})
        if enough is not None and tally.violated >= enough:
            break
    example = next(iter(tally.examples.values()), None)
    blow = mutation.blow if example is not None and example.strikes else None
    return MutationResult(name, mutation.shows_in, blow, broken, tally.runs, tally.violated, example)


def _plans(name: str, scenario: str, blow: Blow | None) -> Iterator[Plan]:
    yield Plan(scenario, mutation=name)
    if blow is None:
        return
    unharmed = measure(scenario, mutation=name)
    moments = unharmed.steps if blow in {Blow.CANCEL, Blow.DRAIN, Blow.KILL} else unharmed.calls
    for first in _ORDER:
        for at in range(first, moments + 1, len(_ORDER)):
            yield Plan(scenario, (Strike(blow, at),), mutation=name)
