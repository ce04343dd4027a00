"""Which runs show a promise: every step of a scenario struck once, every call died in, worlds by the thousand.

Each explorer is a list of plans. A scenario is first run unharmed to learn how many steps it has and which calls it
makes; up to the moment of a strike the struck run is that same run, so every plan finds its moment.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from cef_trio.lab.faults import DEATHS, Blow, Strike
from cef_trio.lab.run import Plan, run_plan
from cef_trio.lab.scheduler import derived
from cef_trio.lab.simulation import SIMULATED, strikes_of

_CLEAN_UP_STEPS = 40
"""How far behind the first strike the second one may fall, to strike the clean-up."""
_SECOND_LIFE_STEPS = 120
_SECOND_LIFE_CALLS = 25


@dataclass(frozen=True, slots=True)
class Measured:
    """An unharmed run of a scenario."""

    steps: int
    calls: int


def measure(scenario: str, *, seed: int = 0, mutation: str | None = None) -> Measured:
    """Run a scenario unharmed, and count."""
    report = run_plan(Plan(scenario, seed=seed, mutation=mutation))
    return Measured(report.steps[0], len(report.calls[0]))


def cancellations(
    scenario: str, *, seed: int = 0, mutation: str | None = None, every: int = 1, drain_every: int = 1, pairs: int = 0
) -> Iterator[Plan]:
    """Cancelled at every step; drained at every ``drain_every``-th; and ``pairs`` that are struck twice.

    ``every``: cancelled at each so-and-so-many-th only. Of the pairs, a third is cancelled (or killed) in the
    clean-up of the first strike, the others during the resume.
    """
    steps = measure(scenario, seed=seed, mutation=mutation).steps
    for at in range(1, steps + 1, every):
        yield Plan(scenario, (Strike(Blow.CANCEL, at),), seed, mutation)
    for at in range(1, steps + 1, drain_every):
        yield Plan(scenario, (Strike(Blow.DRAIN, at),), seed, mutation)
    random = Random(derived(seed, scenario, "cancellations"))  # noqa: S311 - to be repeated, not secret
    for number in range(pairs):
        at, behind = random.randint(1, steps), random.randint(1, _CLEAN_UP_STEPS)
        resumed_at = random.randint(1, _SECOND_LIFE_STEPS)
        first = Strike(random.choice((Blow.CANCEL, Blow.DRAIN)), at)
        if number % 3 == 0:
            second = Strike(Blow.CANCEL if first.blow is Blow.DRAIN else Blow.KILL, at + behind)
        else:
            second = Strike(random.choice((Blow.CANCEL, Blow.DRAIN, Blow.KILL)), resumed_at, life=2)
        yield Plan(scenario, (first, second), seed, mutation)


def crashes(
    scenario: str, *, seed: int = 0, mutation: str | None = None, every: int = 1, kill_every: int = 1, pairs: int = 0
) -> Iterator[Plan]:
    """Dead before each call, after its effect, and after its answer; killed at every ``kill_every``-th step.

    ``every``: dead in each so-and-so-many-th call only. ``pairs`` die twice: in the first life, and again
    while they recover.
    """
    measured = measure(scenario, seed=seed, mutation=mutation)
    for call in range(1, measured.calls + 1, every):
        for blow in DEATHS:
            yield Plan(scenario, (Strike(blow, call),), seed, mutation)
    for at in range(1, measured.steps + 1, kill_every):
        yield Plan(scenario, (Strike(Blow.KILL, at),), seed, mutation)
    random = Random(derived(seed, scenario, "crashes"))  # noqa: S311 - to be repeated, not secret
    for _ in range(pairs):
        first = Strike(random.choice(list(DEATHS)), random.randint(1, measured.calls))
        second = Strike(random.choice(list(DEATHS)), random.randint(1, _SECOND_LIFE_CALLS), life=2)
        yield Plan(scenario, (first, second), seed, mutation)


def worlds(first_seed: int, count: int) -> Iterator[Plan]:
    """The simulated worlds of that many seeds."""
    for seed in range(first_seed, first_seed + count):
        yield Plan(SIMULATED, strikes_of(seed), seed)
