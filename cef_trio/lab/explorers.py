"""Explorers: plans that inject a fault at every step of a scenario, crash in every call, or simulate random worlds.

An explorer first runs a scenario without faults to count its steps and calls. A run with a fault is identical up to the
moment of its injection, so every planned moment exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from cef_trio.lab.faults import CRASH_MOMENTS, FaultKind, Injection
from cef_trio.lab.fleet_simulation import FLEET, is_fleet
from cef_trio.lab.run import Plan, run_plan
from cef_trio.lab.scheduler import derived
from cef_trio.lab.simulation import SIMULATED, injections_of

_CLEAN_UP_STEPS = 40
"""Maximum distance of the second injection from the first, so that it hits the clean-up; steps."""
_SECOND_LIFE_STEPS = 120
_SECOND_LIFE_CALLS = 25


@dataclass(frozen=True, slots=True)
class Measured:
    """Counts of a run without faults."""

    steps: int
    calls: int


def measure_scenario(scenario: str, *, seed: int = 0, mutation: str | None = None) -> Measured:
    """Run a scenario without faults, and count its steps and calls."""
    report = run_plan(Plan(scenario, seed=seed, mutation=mutation))
    return Measured(report.steps[0], len(report.calls[0]))


def cancellations(
    scenario: str, *, seed: int = 0, mutation: str | None = None, every: int = 1, drain_every: int = 1, pairs: int = 0
) -> Iterator[Plan]:
    """Yield plans that cancel at every ``every``-th step and drain at every ``drain_every``-th.

    ``pairs``: number of plans with two injections. In a third of them the second one hits the clean-up after the first,
    in the others the resume.
    """
    steps = measure_scenario(scenario, seed=seed, mutation=mutation).steps
    for at in range(1, steps + 1, every):
        yield Plan(scenario, (Injection(FaultKind.CANCEL, at),), seed, mutation)
    for at in range(1, steps + 1, drain_every):
        yield Plan(scenario, (Injection(FaultKind.DRAIN, at),), seed, mutation)
    random = Random(derived(seed, scenario, "cancellations"))  # noqa: S311 - to be repeated, not secret
    for number in range(pairs):
        at, behind = random.randint(1, steps), random.randint(1, _CLEAN_UP_STEPS)
        resumed_at = random.randint(1, _SECOND_LIFE_STEPS)
        first = Injection(random.choice((FaultKind.CANCEL, FaultKind.DRAIN)), at)
        if number % 3 == 0:
            second = Injection(FaultKind.CANCEL if first.fault is FaultKind.DRAIN else FaultKind.KILL, at + behind)
        else:
            second = Injection(random.choice((FaultKind.CANCEL, FaultKind.DRAIN, FaultKind.KILL)), resumed_at, life=2)
        yield Plan(scenario, (first, second), seed, mutation)


def aborts(
    scenario: str, *, seed: int = 0, mutation: str | None = None, every: int = 1, pairs: int = 0
) -> Iterator[Plan]:
    """Yield plans in which an operator's abort reaches the daemon at every ``every``-th step.

    ``pairs``: number of plans in which the abort itself is then drained, cancelled or killed.
    """
    steps = measure_scenario(scenario, seed=seed, mutation=mutation).steps
    for at in range(1, steps + 1, every):
        yield Plan(scenario, (Injection(FaultKind.ABORT, at),), seed, mutation)
    random = Random(derived(seed, scenario, "aborts"))  # noqa: S311 - to be repeated, not secret
    for number in range(pairs):
        at, behind = random.randint(1, steps), random.randint(1, _CLEAN_UP_STEPS)
        fault = (FaultKind.DRAIN, FaultKind.CANCEL, FaultKind.KILL, FaultKind.ABORT)[number % 4]
        yield Plan(scenario, (Injection(FaultKind.ABORT, at), Injection(fault, at + behind)), seed, mutation)


def crashes(
    scenario: str, *, seed: int = 0, mutation: str | None = None, every: int = 1, kill_every: int = 1, pairs: int = 0
) -> Iterator[Plan]:
    """Yield plans that crash in every ``every``-th call (before it, after its effect, after its response).

    ``kill_every``: kill at every n-th step. ``pairs``: number of plans that crash twice, in the first life and in the
    recovery.
    """
    measured = measure_scenario(scenario, seed=seed, mutation=mutation)
    for call in range(1, measured.calls + 1, every):
        for fault in CRASH_MOMENTS:
            yield Plan(scenario, (Injection(fault, call),), seed, mutation)
    for at in range(1, measured.steps + 1, kill_every):
        yield Plan(scenario, (Injection(FaultKind.KILL, at),), seed, mutation)
    random = Random(derived(seed, scenario, "crashes"))  # noqa: S311 - to be repeated, not secret
    for _ in range(pairs):
        first = Injection(random.choice(list(CRASH_MOMENTS)), random.randint(1, measured.calls))
        second = Injection(random.choice(list(CRASH_MOMENTS)), random.randint(1, _SECOND_LIFE_CALLS), life=2)
        yield Plan(scenario, (first, second), seed, mutation)


def worlds(first_seed: int, count: int) -> Iterator[Plan]:
    """Yield the simulated worlds of ``count`` seeds; some are fleets."""
    for seed in range(first_seed, first_seed + count):
        yield Plan(FLEET, (), seed) if is_fleet(seed) else Plan(SIMULATED, injections_of(seed), seed)
