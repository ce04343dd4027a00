"""Health and readiness, by every case there is."""

from __future__ import annotations

import itertools
import json

import pytest

from cef_trio.admin.status_page import (
    HealthFacts,
    Phase,
    ReadyFacts,
    StatusPage,
    StreamRow,
    Totals,
    judge_health,
    judge_ready,
    to_json,
)
from cef_trio.observability.snapshot import StreamActivity


@pytest.mark.parametrize(("phase", "redis_up", "s3_up"), list(itertools.product(Phase, [True, False], [True, False])))
def test_ready_is_running_with_both_services_up_and_nothing_else(phase: Phase, redis_up: bool, s3_up: bool) -> None:
    facts = judge_ready(ReadyFacts(phase=phase, redis_up=redis_up, s3_up=s3_up))
    assert all(fact.good for fact in facts) == (phase is Phase.RUNNING and redis_up and s3_up)
    assert [fact.good for fact in facts] == [phase is Phase.RUNNING, redis_up, s3_up]
    assert facts[0].says == f"the daemon is {phase.value}"


def test_a_start_that_waits_says_what_for() -> None:
    facts = judge_ready(ReadyFacts(phase=Phase.STARTING, redis_up=True, s3_up=True, waits_for="moved 5 of 7 streams"))
    assert facts[0].says == "the daemon is starting: moved 5 of 7 streams"


@pytest.mark.parametrize(
    ("silent", "period", "good"),
    [
        (None, 60.0, True),  # it does not run: starting, or leaving
        (0.0, 60.0, True),
        (180.0, 60.0, True),  # three periods, no more
        (180.1, 60.0, False),
        (30.0, 1.0, True),  # a short period is no reason to be strict with a large folder
        (30.1, 1.0, False),
    ],
)
@pytest.mark.parametrize("who", ["watcher", "idle checker"])
def test_a_task_that_went_silent_is_unhealthy_and_named(
    who: str, silent: float | None, period: float, good: bool
) -> None:
    watcher = who == "watcher"
    facts = judge_health(
        HealthFacts(
            watcher_silent_seconds=silent if watcher else 0.0,
            watcher_period_seconds=period,
            checker_silent_seconds=0.0 if watcher else silent,
            checker_period_seconds=period,
        )
    )
    assert all(fact.good for fact in facts) is good
    bad = [fact.says for fact in facts if not fact.good]
    assert bad == ([] if good else [f"the {who} has been silent for {silent:.0f} s"])


def test_the_json_is_one_line_and_holds_what_is_worked_out() -> None:
    line = StreamRow(
        stream_id="1",
        file="a\nb\u2028.mp4",
        state=StreamActivity.UPLOADING,
        size_on_disk_bytes=10,
        acknowledged_bytes=4,
        bytes_per_second=0.0,
        lag_bytes=6,
    )
    totals = Totals(working=1, slots=5, active_streams=1, lag_bytes=6, bytes_per_second=0, completed=None, failed=None)
    text = to_json(
        StatusPage(
            phase=Phase.RUNNING,
            version="1",
            instance="i",
            folder="/f",
            started_at=0.0,
            totals=totals,
            streams=(line,),
            streams_left_out=0,
            failed=(),
            outages=(),
            unhealthy=(),
        )
    )
    assert len(text.splitlines()) == 1
    document = json.loads(text)
    assert document["phase"] == "running"
    assert document["streams"][0]["file"] == "a\nb\u2028.mp4"
    assert document["streams"][0]["lag_bytes"] == 6
