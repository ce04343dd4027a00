"""P2 to P7 hold in a short campaign: faults at every step and in every call, and random worlds.

The short campaign. The long one: ``cef-trio lab cancel``, ``crash`` and ``simulate`` (docs/correctness.md).
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import pytest

from cef_trio.lab import changing_settings, environment_faults, file_faults, fleet_simulation, lasting_faults
from cef_trio.lab.campaign import Tally, run_plans
from cef_trio.lab.explorers import cancellations, crashes, worlds
from cef_trio.lab.run import Plan, run_plan
from cef_trio.lab.scenarios import EXPECTED_BROKEN, EXPLORED, SCENARIOS, streams

PROCESSES = os.cpu_count() or 1
FIRST, WORLDS = 2411, 135
"""These seeds have every kind of fault."""
PAIRS = 1
"""Runs with two injections, of each scenario."""
EVERY = {
    name: 160 if scenario in streams.SCENARIOS else 5120 if scenario.fleet is not None else 1920
    for name, scenario in SCENARIOS.items()
}
"""The distance of the injections: 160 steps in the scenarios of one recording, 1920 in the longer ones, 5120 in fleets.

The long campaign (`.ci/campaign`) injects at each step."""
CANCELLED, CRASHED = EXPLORED[::2], EXPLORED[1::2]
"""A half of the scenarios is cancelled here, the other half crashes: in most of them a run is dear, and few are needed.

The long campaign does both in all."""
KINDS = {
    "s3: error InternalError",
    "s3: error SlowDown",
    "s3: error BadDigest",
    "s3: reset (before)",
    "s3: reset (body)",
    "s3: reset (reply)",
    "s3: error-in-200 (before)",
    "s3: error-in-200 (reply)",
    "s3: stale-parts (before)",
    "s3: truncate (reply)",
    "s3: damage (before)",
    "s3: skew (before)",
    "s3: slow (reply)",
    "redis: answer lost",
    "redis: everything lost",
    "redis: last second lost",
    *(f"world: {name}" for name in (*environment_faults.ALL, *file_faults.ALL)),
    *(f"file system: {name}" for name in file_faults.SYSTEMS),
    "writer: append",
    "writer: patch",
    "writer: truncate",
    "writer: rename",
    "writer: delete",
    "writer: replace",
    "writer: close",
    "writer: reopen",
    *(f"setting: {name}" for name in changing_settings.SETTINGS),
    *(f"lasting: {name}" for name in lasting_faults.LASTING_FAULTS),
    *(f"fleet: {kind}" for kind in fleet_simulation.KINDS),
    "fleet: cut off from Redis and S3",
    "fleet: cut off from Redis",
    "fleet: cut off from S3",
    "fleet: paused",
    "fleet: host crashes",
    "fleet: killed",
    "fleet: restarted",
    "fleet: takeovers",
    "writer: preallocate",
    "writer: cut",
    "daemon: drain",
    "daemon: cancel",
    "daemon: kill",
    "daemon: die-before",
    "daemon: die-unanswered",
    "daemon: die-answered",
}


def listed(tally: Tally) -> str:
    return "\n".join(f"{count} times {kind}: {tally.examples[kind]}" for kind, count in tally.violations.most_common())


def tally_of(plans: Iterable[Plan]) -> Tally:
    tally = Tally()
    for report in run_plans(plans, processes=PROCESSES):
        tally.add(report)
    return tally


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_promise_is_violated_by_a_cancellation_or_drain_at_any_step() -> None:
    tally = tally_of(
        plan
        for name in CANCELLED
        for plan in cancellations(name, every=EVERY[name], drain_every=8 * EVERY[name], pairs=PAIRS)
    )
    assert tally.violated == 0, listed(tally)
    pairs = PAIRS * len(CANCELLED)
    assert tally.injected >= tally.runs - pairs  # each single fault was injected; a second one may come too late
    assert tally.injected > tally.runs - pairs / 2
    assert len(tally.locations) > 50  # lines of the daemon


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_promise_is_violated_by_a_crash_in_any_call() -> None:
    tally = tally_of(
        plan for name in CRASHED for plan in crashes(name, every=EVERY[name], kill_every=8 * EVERY[name], pairs=PAIRS)
    )
    assert tally.violated == 0, listed(tally)
    assert tally.injected > tally.runs * 0.9  # a call that fails has no response to crash after


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_promise_is_violated_in_random_worlds() -> None:
    tally = tally_of(worlds(FIRST, WORLDS))
    assert tally.violated == 0, listed(tally)
    assert KINDS - {kind for kind, count in tally.hits.items() if count} == set()


def test_every_scenario_of_expected_broken_has_a_violation() -> None:
    mended = [name for name in EXPECTED_BROKEN if not run_plan(Plan(name)).violations]
    assert mended == []  # remove it from EXPECTED_BROKEN, so that the explorers run it
