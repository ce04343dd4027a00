"""Mutation tests: remove one safeguard at a time, and check that the invariants detect it.

A shield or check whose removal is not detected is either useless or untested.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cef_trio.lab.campaign import Tally, run_plans
from cef_trio.lab.explorers import measure_scenario
from cef_trio.lab.faults import CRASH_MOMENTS, FaultKind, Injection
from cef_trio.lab.mutations import MUTATIONS, VARIANTS
from cef_trio.lab.run import Plan

_ORDER = (1, 5, 6, 8, 3, 7, 2, 4)
"""Order in which moments are tried: coarse to fine, since most defects show at many consecutive moments."""


@dataclass(frozen=True, slots=True)
class MutationResult:
    """The result for one mutation."""

    mutation: str
    scenario: str
    fault: FaultKind | None
    """The fault that reveals it; ``None``: it needs none, or was not detected."""
    broken: Mapping[str, int]
    """The violated promises, and the number of runs."""
    runs: int
    violated: int
    example: Plan | None

    @property
    def found(self) -> bool:
        """Whether the mutation was detected."""
        return self.violated > 0


def check_mutation(name: str, *, processes: int = 1, enough: int | None = None) -> MutationResult:
    """Apply a mutation and inject its fault at every step of its scenario.

    Args:
        name: name of a mutation or a naive variant.
        processes: number of parallel runs.
        enough: stop after this many runs with violations; ``None``: try every moment.

    Raises:
        KeyError: there is no mutation of that name.
    """
    mutation = (MUTATIONS | VARIANTS)[name]
    tally, broken = Tally(), Counter[str]()
    for report in run_plans(_plans(name, mutation.shows_in, mutation.fault), processes=processes):
        tally.add(report)
        broken.update({violation.partition(":")[0] for violation in report.violations})
        if enough is not None and tally.violated >= enough:
            break
    example = next(iter(tally.examples.values()), None)
    fault = mutation.fault if example is not None and example.injections else None
    return MutationResult(name, mutation.shows_in, fault, broken, tally.runs, tally.violated, example)


def _plans(name: str, scenario: str, fault: FaultKind | None) -> Iterator[Plan]:
    yield Plan(scenario, mutation=name)
    if fault is None:
        return
    unharmed = measure_scenario(scenario, mutation=name)
    moments = unharmed.calls if fault in CRASH_MOMENTS else unharmed.steps
    for first in _ORDER:
        for at in range(first, moments + 1, len(_ORDER)):
            yield Plan(scenario, (Injection(fault, at),), mutation=name)
