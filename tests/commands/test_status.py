"""``status``: throughput, lag and progress from what Redis says and what can be seen of the files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
import trio
from rich.console import Console
from servers.command import ROOT, answer, command
from servers.stream_records import DAEMON, NOW, PART, a_part, a_stream, stream_id
from servers.valkey import valkey_server
from waiting import WAIT_SECONDS

from cef_trio.admin.page_source import DaemonSource, IntakeTask
from cef_trio.admin.status_page import to_json
from cef_trio.checkpoint.commit import Change
from cef_trio.checkpoint.model import Checkpoint, StreamMeta
from cef_trio.checkpoint.protocols import StreamSummary
from cef_trio.checkpoint.redis.store import RedisCheckpointStore
from cef_trio.checkpoint.states import ENDED, HOME, History, Status, StreamSet, count_known
from cef_trio.cli.session import CommandContext
from cef_trio.cli.status import StatusReader, document, render
from cef_trio.cli.status_model import MAX_SHOWN, Found, Overview, choose, observe
from cef_trio.files.file_stat import FileStat
from cef_trio.lab.world import World
from cef_trio.observability.at_risk import RISK_ADVICE, Reason, Risk
from cef_trio.observability.daemon_report import DaemonReport
from cef_trio.observability.fleet import Fleet
from cef_trio.observability.lag import Lag
from cef_trio.observability.metric_labels import StreamState
from cef_trio.upload.reporter import PERIOD_SECONDS


def observed(
    *streams: tuple[StreamMeta, list[tuple[int, float]]],
    files: dict[str, FileStat | None] | None = None,
    reports: list[DaemonReport] | None = None,
    holders: dict[str, str] | None = None,
) -> Overview:
    """An overview of streams with parts of (size, seconds ago)."""
    checkpoints = {}
    for meta, sizes in streams:
        parts = {n: a_part(n, size, ago) for n, (size, ago) in enumerate(sizes, 1)}
        checkpoints[meta.stream_id] = Checkpoint(meta, HOME[meta.status] or StreamSet.ACTIVE, parts)
    known = [StreamSummary(one.meta, one.stream_set) for one in checkpoints.values()]
    opened = {key: one for key, one in checkpoints.items() if one.meta.status not in ENDED}
    found = Found(
        counts=count_known(
            Counter(one.stream_set for one in known),
            {
                History.DELETED: sum(
                    one.meta.status in {Status.DELETED_LOCALLY, Status.ABORTED_NO_PARTS} for one in known
                )
            },
        ),
        open_ids=opened.keys(),
        holders=holders or {},
        checkpoints=opened,
        files=files or {},
        completed=[one for one in known if one.stream_set is StreamSet.COMPLETED],
        fleet=Fleet(tuple(reports or ()), NOW.timestamp()),
    )
    return observe(found, NOW)


def on_disk(meta: StreamMeta, size_bytes: int) -> FileStat:
    return FileStat(meta.identity.file_dev, meta.identity.file_ino, size_bytes, 0)


def text_of(overview: Overview) -> str:
    out = StringIO()
    Console(file=out, width=200).print(render(overview))
    return out.getvalue()


def test_throughput_is_what_was_acknowledged_in_the_last_minute() -> None:
    done = a_stream(2, status=Status.COMPLETED, verified_size_bytes=7 * PART)
    overview = observed((a_stream(1), [(600, 61), (1200, 59), (600, 1)]), (done, []))
    assert overview.bytes_per_second == 1800 / 60
    assert [stream.bytes_per_second for stream in overview.open_streams] == [1800 / 60]
    assert overview.completed_bytes == 7 * PART


def test_objects_that_a_later_one_has_replaced_are_counted_until_they_are_deleted() -> None:
    earlier = a_stream(1, status=Status.COMPLETED, verified_size_bytes=PART)
    later = a_stream(2, status=Status.COMPLETED, verified_size_bytes=PART, supersedes_stream_id=earlier.stream_id)
    overview = observed((earlier, []), (later, []))
    assert overview.superseded == document(overview)["superseded"] == 1
    assert observed((later, [])).superseded == 0


MANY = 10_000


def many(reports: list[DaemonReport], *, without_daemon: int = 0) -> Found:
    ids = [stream_id(number) for number in range(MANY)]
    return Found(
        counts={"active": MANY, "completed": 3_000_000, "failed": 5, "deleted": 2},
        open_ids=ids,
        holders=dict.fromkeys(ids[without_daemon:], "cam-1@0123456789ab/t"),
        completed=None,
        fleet=Fleet(tuple(reports), NOW.timestamp()),
        owner="o",
    )


def a_report(number: int, owner: str = "o", **more: Any) -> DaemonReport:
    name, now = f"cam-{number}", NOW.timestamp()
    about = {"name": name, "owner": owner, "process": name, "host": name, "system": name}
    return DaemonReport(
        **{"instance": f"{owner}/{name}", "at": now, "received_at": now, "folder": "/rec", **about, **more}
    )


def test_of_ten_thousand_streams_the_totals_are_those_of_the_sets_and_the_reports() -> None:
    now, risk = NOW.timestamp(), Risk(Reason.FAILED, 1.0, 1, 1, "x")
    reports = [
        a_report(1, behind=Lag(500, now - 30), bytes_per_second=100.0, streams={"working": 5, "retrying": 2}),
        a_report(2, behind=Lag(7, now - 40), bytes_per_second=11.0, at=now + 1000, stopped=True),
        a_report(3, at=now + 100, behind=Lag(8, now + 50), bytes_per_second=22.0),  # its clock is 100 s ahead
        a_report(4, "another", behind=Lag(9000, 1.0), bytes_per_second=1e9, risks=(risk,)),
    ]
    overview = observe(many(reports), NOW)
    assert (overview.bytes_per_second, overview.lag_bytes, overview.lag_seconds) == (122.0, 508, 50.0)
    assert overview.counts == {
        "active": MANY,
        "pending_completion": 0,
        "completed": 3_000_000,
        "failed": 5,
        "deleted": 2,
        "retrying": 2,
    }
    shown = text_of(overview)
    assert "completed   3,000,000\n" in shown
    assert (
        "fleet       owner o; in all 3 running daemons of 2 owners; 1 other needs attention; see `cef-trio fleet`"
        in shown
    )
    assert "508 B by the daemons' reports, the oldest byte waits for 50s" in shown
    assert "and 10,000 more, which lag less; `cef-trio list` shows all" in shown
    assert document(overview)["open_streams_left_out"] == MANY
    assert document(overview)["completed_bytes"] is None
    assert len(document(overview)["at_risk"]) == 3


def test_of_ten_thousand_streams_those_without_a_daemon_and_with_most_lag_are_chosen() -> None:
    assert choose(many([]), NOW) == []
    assert choose(many([], without_daemon=MANY), NOW) == [stream_id(number) for number in range(MAX_SHOWN)]
    lags = {stream_id(MANY - number): Lag(number, 1.0) for number in range(1, 70)}
    chosen = choose(many([a_report(1, lags=lags)], without_daemon=3), NOW)
    assert chosen[:3] == [stream_id(0), stream_id(1), stream_id(2)]
    assert chosen[3:] == [stream_id(MANY - number) for number in range(69, 22, -1)]


def test_lag_is_what_is_on_disk_and_not_acknowledged() -> None:
    meta = a_stream()
    files: dict[str, FileStat | None] = {meta.stream_id: on_disk(meta, 100)}
    [stream] = observed((meta, [(60, 10)]), files=files).open_streams
    assert (stream.lag_bytes, stream.lag_seconds, stream.progress) == (40, None, 0.6)
    # Since when a byte waits only the daemon knows that saw it: not since the last acknowledgement.
    now = NOW.timestamp()
    report = DaemonReport(instance="d", at=now - 5, folder="/rec", lags={meta.stream_id: Lag(40, now - 1)})
    [stream] = observed((meta, [(60, 601)]), files=files, reports=[report]).open_streams
    assert (stream.lag_bytes, stream.lag_seconds) == (40, 1.0)
    [stream] = observed((meta, [(60, 601)]), reports=[report]).open_streams
    assert (stream.lag_bytes, stream.lag_seconds) == (40, 1.0)
    [stream] = observed((meta, [(60, 601)]), files=files, reports=[replace(report, at=now - 99)]).open_streams
    assert (stream.lag_bytes, stream.lag_seconds) == (40, None)
    [stream] = observed((meta, [(60, 10)]), files={meta.stream_id: on_disk(meta, 60)}).open_streams
    assert (stream.lag_bytes, stream.lag_seconds, stream.progress) == (0, 0.0, 1.0)
    # Of a file whose size was set first its daemon knows what is not written yet.
    report = replace(report, lags={meta.stream_id: Lag(10, now - 1, 30)})
    [stream] = observed((meta, [(60, 601)]), files=files, reports=[report]).open_streams
    assert (stream.lag_bytes, stream.lag_seconds) == (10, 1.0)


@pytest.mark.parametrize("there", [None, FileStat(1, 999, 5000, 0)])
def test_lag_is_not_known_where_the_recording_cannot_be_seen(there: FileStat | None) -> None:
    meta = a_stream()
    overview = observed((meta, [(60, 10)]), files={meta.stream_id: there})
    assert [(stream.lag_bytes, stream.lag_seconds, stream.progress) for stream in overview.open_streams] == [
        (None, None, None)
    ]
    assert overview.lag_bytes is None
    assert "not known here" in text_of(overview)


def test_every_stream_is_counted_once_and_a_deleted_recording_is_no_failure() -> None:
    streams: list[tuple[StreamMeta, list[tuple[int, float]]]] = [
        (a_stream(n, status=status), []) for n, status in enumerate(Status)
    ]
    counts = dict(observed(*streams).counts)
    assert counts.pop("retrying") == 1
    assert sum(counts.values()) == len(Status)
    assert counts["deleted"] == 2


def test_it_is_shown_whether_any_daemon_works() -> None:
    meta = a_stream()
    assert "no daemon works on the open streams" in text_of(observed((meta, [])))
    overview = observed((meta, []), holders={meta.stream_id: "rec/of/room-1/token"})
    assert dict(overview.daemons) == {"rec/of/room-1": 1}
    assert "rec/of/room-1 (1 stream)" in text_of(overview)
    assert "no stream is open" in text_of(observed())


def test_a_files_name_is_cut_and_forges_nothing() -> None:
    shown = text_of(observed((a_stream(path="/rec/" + "x" * 500 + "[bold]\n.mp4"), [])))
    assert all(len(line) <= 200 for line in shown.splitlines())
    assert [line[-14:] for line in shown.splitlines() if "xxx" in line] == ["xx[bold]\\n.mp4"]


def test_what_is_not_all_there_is_not_a_hundred_percent() -> None:
    meta = a_stream()
    shown = text_of(observed((meta, [(999, 10)]), files={meta.stream_id: on_disk(meta, 1000)}))
    assert " ━━━━━━━━━━━─ 99% " in shown
    shown = text_of(observed((meta, [(1000, 10)]), files={meta.stream_id: on_disk(meta, 1000)}))
    assert " ━━━━━━━━━━━━ 100% " in shown


def test_why_streams_wait_is_shown_once() -> None:
    waiting = [a_stream(n, status=Status.RETRYING, failure_reason="S3 operation 'x' failed: no.") for n in (1, 2)]
    shown = text_of(observed(*((meta, []) for meta in waiting)))
    assert "retrying    2 of the open ones: S3 operation 'x' failed: no.\n" in shown
    assert shown.count("failed: no.") == 1


@pytest.mark.parametrize("columns", [50, 60, 80, 100])
def test_in_a_narrow_terminal_the_end_of_a_name_is_seen_and_no_line_is_too_long(columns: int) -> None:
    meta = a_stream(path="/srv/cam-entrance/2026-11-25_22-11-camera-7.mp4")
    overview = observed((meta, [(5 * PART, 10)]), files={meta.stream_id: on_disk(meta, 6 * PART)})
    out = StringIO()
    Console(file=out, width=columns).print(render(overview))
    lines = out.getvalue().splitlines()
    assert all(len(line) <= columns and line == line.rstrip() for line in lines)
    assert lines[-1].startswith("00000001 ")
    assert lines[-1].endswith("22-11-camera-7.mp4")
    assert "5.0 MiB" in lines[-1]
    assert ("━" in lines[-1]) == (columns > 60)


@pytest.mark.parametrize("height", [5, 13, 14, 30, 60])
def test_on_a_low_screen_the_streams_that_lag_least_are_left_out_with_a_note(height: int) -> None:
    metas = [a_stream(n, f"/rec/{n}.mp4") for n in range(40)]
    files: dict[str, FileStat | None] = {meta.stream_id: on_disk(meta, 100 + n) for n, meta in enumerate(metas)}
    holders = {meta.stream_id: "d/t" for meta in metas[1:]}
    overview = observed(*((meta, []) for meta in metas), files=files, holders=holders)
    out = StringIO()
    Console(file=out, width=100).print(render(overview, height=height))
    lines = out.getvalue().splitlines()
    shown = [line.split()[0] for line in lines if line.endswith(".mp4")]
    assert len(lines) < max(height, 14)
    assert shown == sorted(shown)
    assert shown[0] == "00000000"  # no daemon works on it
    if height < 50:
        assert lines[-1] == f"and {40 - len(shown)} more, which lag less"
        assert len(shown) == 1 or shown[-1] == f"{39:08x}"
    else:
        assert len(shown) == 40


async def test_a_stream_that_comes_back_is_seen_again_while_watching(world: World, context: CommandContext) -> None:
    meta = replace(a_stream(1, status=Status.FAILED_ACCESS_DENIED), last_activity_at_utc=world.utc_now())
    await world.store.create(meta, DAEMON)
    long_ago = world.utc_now() - timedelta(hours=1)
    await world.store.create(a_stream(2, "/rec/b.mp4", status=Status.COMPLETED, last_activity_at_utc=long_ago), DAEMON)
    observer = StatusReader(context)
    assert dict((await observer.read()).counts)["failed"] == 1
    await world.store.transition(meta.stream_id, DAEMON, Status.ACTIVE, Change())
    found = await observer.read()
    assert (found.counts["failed"], found.counts["active"], found.counts["completed"]) == (0, 1, 1)
    assert document(found)["daemons"] == {"a-daemon": 1}
    await world.store.transition(meta.stream_id, DAEMON, Status.FAILED_UNEXPECTED, Change())
    await world.store.forget(meta.stream_id)
    assert (await observer.read()).counts["failed"] == 0


@dataclass
class Turn:
    last_run: float


async def test_recordings_that_are_smaller_than_a_part_count_in_the_throughput_of_the_page_and_the_command(
    world: World, context: CommandContext
) -> None:
    size_bytes, clips = 600, 40
    async with world.daemon() as daemon:
        source = DaemonSource(daemon.services, str(world.folder), lambda: False, observer=daemon.observer)
        for number in range(clips):
            world.append(size_bytes, f"clip-{number}.mp4")
            daemon.closed(f"clip-{number}.mp4")
            await trio.sleep(1)
        await trio.sleep(PERIOD_SECONDS)
        sent = pytest.approx(clips * size_bytes / 60, rel=0.01)
        assert len(world.recordings()) == clips
        assert source.page().totals.active_streams == 0
        assert source.page().totals.bytes_per_second == sent
        assert document(await StatusReader(context).read())["bytes_per_second"] == sent
        (report,) = (await StatusReader(context).read()).own.living
        assert report.bytes_per_second == sent
        await trio.sleep(60 + PERIOD_SECONDS)
        assert source.page().totals.bytes_per_second == 0
        assert document(await StatusReader(context).read())["bytes_per_second"] == 0


async def test_page_metrics_and_command_show_the_same_numbers_of_one_daemon(
    world: World, context: CommandContext
) -> None:
    world.stream_timeout_seconds = 1000.0
    world.append(2300)
    world.append(700, "b.mp4")
    async with world.daemon() as daemon:
        await trio.sleep(10)
        world.append(40, "b.mp4")
        daemon.seen("b.mp4")
        await trio.sleep(PERIOD_SECONDS)  # the report has the new size
        source = DaemonSource(daemon.services, str(world.folder), lambda: False, observer=daemon.observer)
        source.watcher = IntakeTask(Turn(trio.current_time()), 20.0)  # the page is of a daemon that has started
        judged = source.page()
        page = json.loads(to_json(judged))
        status = document(await StatusReader(context).read())
        metric = daemon.services.metrics.registry.get_sample_value
        assert page["totals"]["lag_bytes"] == status["lag_bytes"] == metric("cef_trio_lag_bytes") == 1040
        assert (
            page["totals"]["bytes_per_second"]
            == status["bytes_per_second"]
            == pytest.approx(2000 / (10 + PERIOD_SECONDS))
        )
        assert judged.state == status["state"] == "ready"
        assert judged.bytes_at_risk == status["bytes_at_risk"] == 0
        active = [metric("cef_trio_active_streams", {"state": state}) or 0 for state in StreamState]
        assert page["totals"]["active_streams"] == len(status["open_streams"]) == sum(active) == 2
        now = world.utc_now().timestamp()
        assert now - page["totals"]["lag_since"] == pytest.approx(metric("cef_trio_lag_seconds"), abs=0.1)
        same = ("lag_bytes", "acknowledged_bytes", "size_on_disk_bytes", "bytes_per_second")
        shown = {row["stream_id"]: row for row in page["streams"]}
        for stream in status["open_streams"]:
            row = shown[stream["stream_id"]]
            assert {name: row[name] for name in same} == {name: stream[name] for name in same}
            assert row["state"] == stream["activity"] == "waiting"
            assert now - row["lag_since"] == pytest.approx(stream["lag_seconds"], abs=0.1)


@pytest.mark.real
def test_the_command_prints_it_and_watching_ends_at_ctrl_c_with_130() -> None:
    with valkey_server(tcp=True) as server:

        async def fill() -> None:
            async with RedisCheckpointStore(server.url, owner="rooms", socket_timeout_seconds=10) as store:
                await store.create(a_stream(), DAEMON, [a_part()])

        trio.run(fill)
        settings = {"REDIS_URL": server.url, "OWNER_NAME": "rooms"}
        found = answer("status", settings=settings)
        assert (found["streams"]["active"], found["daemons"]) == (1, {"a-daemon": 1})
        assert found["open_streams"][0]["acknowledged_bytes"] == PART
        command("status", "--watch", "--json", settings=settings, code=2)
        with subprocess.Popen(
            [sys.executable, "-m", "cef_trio", "status", "--watch"],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "FORCE_COLOR": "1", **settings},
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert any(b"a-daemon" in line for line in process.stdout)
            process.send_signal(signal.SIGINT)
            process.stdout.read()
            assert (process.wait(WAIT_SECONDS), process.stderr.read()) == (130, b"")


def test_p10_each_reason_of_a_risk_is_shown_with_what_to_do_about_it() -> None:
    risks = tuple(Risk(reason, NOW.timestamp() - 90, 1, 1, "why") for reason in Reason)
    overview = observe(Found(fleet=Fleet((a_report(1, risks=risks),), NOW.timestamp()), owner="o"), NOW)
    [at_risk] = document(overview)["at_risk"]
    assert {risk["reason"]: risk["advice"] for risk in at_risk["risks"]} == RISK_ADVICE
    out = StringIO()
    Console(file=out, width=10_000).print(render(overview))
    assert [line.split("what to do  ")[1] for line in out.getvalue().splitlines() if "what to do" in line] == [
        *RISK_ADVICE.values()
    ]
    down = (Risk(Reason.S3_DOWN, NOW.timestamp() - 90, 1, 1, "why"),)
    fleet = Fleet(tuple(a_report(number, risks=down) for number in (1, 2)), NOW.timestamp())
    shown = text_of(observe(Found(fleet=fleet, owner="o"), NOW))
    assert (shown.count("AT RISK"), shown.count("what to do")) == (2, 1), "of daemons in one outage, once"
