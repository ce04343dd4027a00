"""P2, P3, P4, P5, P6, P7: at every step and in every call the daemon is struck, and then goes on, and nothing is lost.

The short campaign. The long one: ``cef-trio lab cancel``, ``crash`` and ``simulate`` (docs/correctness.md).
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import pytest

from cef_trio.lab import changing_settings, environment_faults, file_faults, lasting_faults
from cef_trio.lab.campaign import Tally, run_plans
from cef_trio.lab.explorers import cancellations, crashes, worlds
from cef_trio.lab.run import Plan, run_plan
from cef_trio.lab.scenarios import EXPECTED_BROKEN, EXPLORED, SCENARIOS, streams

PROCESSES = os.cpu_count() or 1
WORLDS = 600
EVERY = {name: 8 if SCENARIOS[name] in streams.SCENARIOS else 96 for name in SCENARIOS}
"""Each eighth step of the stories of one recording, and of the long ones of an unkind world each 96th: the long
campaign (`.ci/campaign`) walks through all of them."""
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
    "writer: preallocate",
    "writer: cut",
    "daemon: drain",
    "daemon: cancel",
    "daemon: kill",
    "daemon: die-before",
    "daemon: die-unanswered",
    "daemon: die-answered",
}


def told(tally: Tally) -> str:
    return "\n".join(f"{count} times {kind}: {tally.examples[kind]}" for kind, count in tally.violations.most_common())


def conducted(plans: Iterable[Plan]) -> Tally:
    tally = Tally()
    for report in run_plans(plans, processes=PROCESSES):
        tally.add(report)
    return tally


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_promise_is_broken_wherever_the_daemon_is_cancelled_or_drained() -> None:
    tally = conducted(
        plan
        for name in EXPLORED
        for plan in cancellations(name, every=EVERY[name], drain_every=8 * EVERY[name], pairs=2)
    )
    assert tally.violated == 0, told(tally)
    pairs = 2 * len(EXPLORED)
    assert tally.injected >= tally.runs - pairs  # each single strike found its moment; a second one may come too late
    assert tally.injected > tally.runs - pairs / 2
    assert len(tally.locations) > 50  # lines of the daemon


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_promise_is_broken_whichever_call_the_daemon_dies_in() -> None:
    tally = conducted(
        plan for name in EXPLORED for plan in crashes(name, every=EVERY[name], kill_every=8 * EVERY[name], pairs=2)
    )
    assert tally.violated == 0, told(tally)
    assert tally.injected > tally.runs * 0.9  # a call that fails by itself has no answer to die after


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_promise_is_broken_in_worlds_made_of_dice() -> None:
    tally = conducted(worlds(0, WORLDS))
    assert tally.violated == 0, told(tally)
    assert KINDS - {kind for kind, count in tally.hits.items() if count} == set()


def test_what_is_said_to_break_a_promise_does_and_what_is_mended_leaves_the_table() -> None:
    mended = [name for name in EXPECTED_BROKEN if not run_plan(Plan(name)).violations]
    assert mended == []  # take it out of EXPECTED_BROKEN: then the explorers walk through it
