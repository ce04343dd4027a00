"""``docs/scale.md`` is what ``benchmarks/scale.py`` computes from the stored measurement, and its sums are right."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.scale import ASKED, PAGE, TABLES, VARIANTS, Costs, Fleet, dollars, page_with, s3_dollars_per_month
from cef_trio.upload.part_plan import MIB


def flat(*, cost: float) -> Costs:
    """Everything costs the same."""
    each = {"redis_round_trips": cost, "daemon_cpu_seconds": cost}
    loads = ("per_idle_minute", "per_open_stream_minute", "per_part", "per_recording_begun", "per_recording_ended")
    return Costs(
        {
            **dict.fromkeys(loads, each),
            "redis_memory_bytes": {
                "open_stream": 100,
                "part_of_an_open_stream": 10,
                "completed_recording": 1000,
                "part_of_a_completed_recording": 0.5,
            },
            "s3_per_recording_besides_parts": {"CreateMultipartUpload": 1.0, "HeadObject": 0.1, "PutObject": 1.05},
            "daemon_cpu_seconds_per_gib": {"sent": 2.0, "verified": 1.0},
        }
    )


def test_the_tables_of_the_page_are_what_the_command_prints() -> None:
    page = PAGE.read_text()
    assert page == page_with(page, Costs.read()), "run `python -m benchmarks.scale --write`"
    assert [name for name in TABLES if f"<!-- table: {name} -->" not in page] == []


def test_parts_are_those_of_the_daemon() -> None:
    hour = VARIANTS["1 h, 10 MiB"]
    assert hour.parts == 344 == -(-3_600_000_000 // (10 * MIB))
    assert VARIANTS["1 h, `auto`"].part_size == 19 * MIB


def test_requests_of_a_recording_are_counted_and_priced() -> None:
    fleet = Fleet(recorders=3600, hosts=0, recording_seconds=3600)  # one recording a second
    each = flat(cost=1).s3_per_recording(fleet)
    assert each == {"UploadPart": 344, "CreateMultipartUpload": 1, "PutObject": 1}
    assert dollars({"UploadPart": 1000, "HeadObject": 1000, "AbortMultipartUpload": 1000}) == pytest.approx(0.0054)
    assert s3_dollars_per_month(flat(cost=1), fleet) == pytest.approx(346 * 30 * 86_400 * 0.005 / 1000)


def test_redis_load_is_the_sum_of_daemons_open_recordings_parts_and_ends() -> None:
    fleet = Fleet(recorders=3600, hosts=60, recording_seconds=3600)
    assert flat(cost=2).redis(fleet, "redis_round_trips") == pytest.approx(2 * (1 + 60 + 344 + 1 + 1))


def test_memory_of_redis_grows_with_the_history_and_with_open_parts() -> None:
    opened, completed = flat(cost=1).redis_memory(ASKED)
    assert opened == 10_000 * (100 + 344 / 2 * 10)
    assert completed == 10_000 * 24 * 30 * (1000 + 344 / 2)
    assert flat(cost=1).redis_memory(replace(ASKED, history_days=1))[1] == completed / 30


def test_a_hosts_daemon_pays_for_its_own_recorders_only() -> None:
    more = replace(ASKED, recorders=2 * ASKED.recorders, hosts=2 * ASKED.hosts)
    assert flat(cost=1).daemon_cores(more) == flat(cost=1).daemon_cores(ASKED)
