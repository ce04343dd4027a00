"""``list`` and ``show``: what Redis knows, whatever the files are called."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
import redis
import trio
from rich.cells import cell_len
from rich.console import Console
from servers.command import answer, command
from servers.stream_records import DAEMON, a_part, a_stream, stream_id
from servers.valkey import ValkeyServer, valkey_server

from cef_trio.checkpoint.commit import Change
from cef_trio.checkpoint.model import Checkpoint
from cef_trio.checkpoint.protocols import StreamSummary
from cef_trio.checkpoint.redis.keys import Keys
from cef_trio.checkpoint.redis.store import RedisCheckpointStore
from cef_trio.checkpoint.states import ADVICE, FAILED, HOME, FailureReason, Status, StreamSet
from cef_trio.cli import output
from cef_trio.cli.arguments import moment
from cef_trio.cli.list import _COLUMNS, _row, summary
from cef_trio.cli.list_selection import (
    Listed,
    Selection,
    Sort,
    State,
    advice_about,
    hindrances,
    in_state,
    is_at_risk,
    relative_path,
)
from cef_trio.cli.output import Column, ProgressLine, Row, duration, facts, safe, size, table
from cef_trio.cli.show import details
from cef_trio.cli.stream_selection import NoSuchStreamError, select
from cef_trio.observability import RISK_ADVICE, DaemonReport, Fleet, Reason, Risk
from cef_trio.observability.daemon_report import encode
from cef_trio.safe_text import printable

OWNER = "under-test"
FORGED = "/rec/[red]x[/red]\x1b[31m\nforged line \u202ecod.\udcff.mp4"


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    with valkey_server(tcp=True) as server:
        trio.run(fill, server.url)
        yield server


async def fill(url: str) -> None:
    async with RedisCheckpointStore(url, owner=OWNER, socket_timeout_seconds=10) as store:
        await store.create(a_stream(0xABC1), DAEMON, [a_part()])
        await store.create(a_stream(0xABC2, FORGED, status=Status.FAILED_UNEXPECTED, failure_reason=FORGED), DAEMON)
        await store.create(a_stream(0xD3, "/rec/d.mp4", status=Status.S3_COMPLETED), DAEMON)
        await store.transition(stream_id(0xD3), DAEMON, Status.COMPLETED, Change({}), enqueue_webhook=True)
        await store.release([stream_id(0xABC2), stream_id(0xD3)], DAEMON)


@pytest.mark.real
def test_the_list_needs_no_setting_but_redis_url(valkey: ValkeyServer) -> None:
    out = command("list", settings={"REDIS_URL": valkey.url, "OWNER_NAME": OWNER}).stdout
    heading, *lines = out.splitlines()
    assert heading.split() == ["id", "status", "sent", "idle", "file"]
    assert sorted(tuple(line.split()[:2]) for line in lines) == [
        ("000000d3", "completed"),
        ("0000abc1", "active"),
        ("0000abc2", "failed_unexpected"),
    ]


@pytest.mark.real
def test_p7_the_ids_of_a_long_history_are_read_in_many_small_calls() -> None:
    """One reply with all of them would stop Redis for every daemon, and be too late for this command."""
    with valkey_server(tcp=True) as server, redis.Redis.from_url(server.url) as raw:
        trio.run(fill, server.url)
        keys = Keys("", OWNER)
        for stream_set in (StreamSet.COMPLETED, StreamSet.FAILED):
            raw.sadd(keys.set(stream_set), *(f"{stream_set.value}-{number}" for number in range(10_000)))
        raw.config_resetstat()
        found = answer("list", "--limit", "2", settings={"REDIS_URL": server.url, "OWNER_NAME": OWNER})
        calls = {name: one["calls"] for name, one in raw.info("commandstats").items()}
    assert (len(found["streams"]), found["left_out"]) == (2, 1)
    assert calls["cmdstat_sscan"] >= 20
    assert calls["cmdstat_smembers"] == 2, "the open ones, in one step each"


@pytest.mark.real
def test_p10_list_and_show_name_the_streams_whose_daemon_reports_an_outage() -> None:
    async def report_an_outage(url: str) -> None:
        async with RedisCheckpointStore(url, owner=OWNER, socket_timeout_seconds=10) as store:
            risk = Risk(Reason.S3_DOWN, time.time() - 70, 5, 1, "no response")
            report = DaemonReport(
                instance="o/cam", at=time.time(), folder="/rec", owner=OWNER, process=DAEMON.token, risks=(risk,)
            )
            await store.report("o/cam", encode(report), beginning="o/")

    with valkey_server(tcp=True) as server:
        trio.run(fill, server.url)
        settings = {"REDIS_URL": server.url, "OWNER_NAME": OWNER}
        before = answer("list", "--at-risk", settings=settings)["streams"]
        trio.run(report_an_outage, server.url)
        during = answer("list", "--at-risk", settings=settings)["streams"]
        shown = answer("show", "0000abc1", settings=settings)
    assert [one["status"] for one in before] == ["failed_unexpected"]
    assert sorted(one["status"] for one in during) == ["active", "failed_unexpected"]
    assert shown["advice"] == RISK_ADVICE[Reason.S3_DOWN]
    assert {one["advice"] for one in during if one["status"] == "active"} == {shown["advice"]}


@pytest.mark.real
def test_the_list_shows_the_keys_of_objects_when_asked(valkey: ValkeyServer) -> None:
    settings = {"REDIS_URL": valkey.url, "OWNER_NAME": OWNER}
    (line,) = command("list", "--keys", "--name", "d.mp4", settings=settings).stdout.splitlines()[1:]
    (found,) = answer("list", "--name", "d.mp4", settings=settings)["streams"]
    assert line.split()[-2:] == ["/rec/d.mp4", found["s3_key"]]


@pytest.mark.real
def test_a_files_name_forges_no_line_no_colour_and_no_markup(valkey: ValkeyServer) -> None:
    for arguments in (["list"], ["show", "0000abc2"]):
        out = command(*arguments, settings={"REDIS_URL": valkey.url, "OWNER_NAME": OWNER}).stdout
        assert not any(line.startswith("forged") for line in out.splitlines())
        assert "\x1b" not in out
        assert "\u202e" not in out
        assert "[red]x[/red]\\x1b[31m\\nforged line \\u202ecod.\\udcff.mp4" in out.replace("\n", "")


@pytest.mark.real
def test_a_state_is_all_that_is_listed(valkey: ValkeyServer) -> None:
    settings = {"REDIS_URL": valkey.url, "OWNER_NAME": OWNER}
    found = answer("list", "--state", "failed", settings=settings)["streams"]
    assert [(one["stream_id"], one["status"], one["path"]) for one in found] == [
        (stream_id(0xABC2), "failed_unexpected", FORGED)
    ]
    assert answer("list", "--state", "deleted", settings=settings) == {
        "version": 1, "streams": [], "left_out": 0, "unreadable": [], "newer": []
    }  # fmt: skip
    assert command("list", "--state", "deleted", settings=settings).stdout == "No deleted streams.\n"


@pytest.mark.real
def test_a_stream_is_shown_with_its_parts_and_who_works_on_it(valkey: ValkeyServer) -> None:
    shown = answer("show", "0000ABC1", settings={"REDIS_URL": valkey.url, "OWNER_NAME": OWNER})
    assert (shown["stream_id"], shown["lease"], shown["state"]) == (stream_id(0xABC1), DAEMON.value, "active")
    assert [(part["part_number"], part["size_bytes"]) for part in shown["parts"]] == [(1, a_part().size_bytes)]
    out = command("show", "0000abc1", settings={"REDIS_URL": valkey.url, "OWNER_NAME": OWNER}).stdout
    assert "5.0 MiB in 1 part of 5.0 MiB at first" in out


@pytest.mark.real
@pytest.mark.parametrize("given", ["0000abc", "feed", "", "x\n\x1b[31m"])
def test_an_id_that_means_no_stream_or_several_is_one_line_and_exit_code_2(valkey: ValkeyServer, given: str) -> None:
    done = command("show", given, settings={"REDIS_URL": valkey.url, "OWNER_NAME": OWNER}, code=2)
    assert done.stdout == ""
    assert done.stderr.startswith("cef-trio: ")
    assert done.stderr.count("\n") == 1
    assert "\x1b" not in done.stderr


@pytest.mark.real
def test_a_pending_webhook_is_shown(valkey: ValkeyServer) -> None:
    settings = {"REDIS_URL": valkey.url, "OWNER_NAME": OWNER}
    assert [answer("show", one, settings=settings)["webhook_owed"] for one in ("000000d3", "0000abc1")] == [True, False]
    assert "not delivered yet" in command("show", "000000d3", settings=settings).stdout
    assert "webhook" not in command("show", "0000abc1", settings=settings).stdout


@pytest.mark.real
def test_a_redis_that_is_not_there_is_one_line_and_exit_code_4_and_not_waited_for() -> None:
    done = command("list", settings={"REDIS_URL": "redis://127.0.0.1:9/0"}, code=4)
    assert done.stderr.startswith("cef-trio: Redis operation 'members' failed: ")
    assert done.stderr.count("\n") == 1


def test_a_prefix_selects_the_one_stream_that_it_begins() -> None:
    assert select(" AB1 ", ["ab1", "ab12"]) == "ab1"
    assert select("c", ["ab1", "ca"]) == "ca"
    with pytest.raises(NoSuchStreamError, match="and 2 more"):
        select("a", [f"a{number}" for number in range(7)])


@pytest.mark.parametrize("status", list(Status))
def test_every_stream_is_listed_under_its_set_or_with_the_reason_why_not(status: Status) -> None:
    known = StreamSummary(a_stream(status=status), HOME[status] or StreamSet.ACTIVE)
    states = {state for state in State if in_state(known, state)}
    assert in_state(known, None)
    assert len(states & {"active", "pending_completion", "completed", "failed", "deleted"}) == 1


NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)


def listed(number: int, path: str, status: Status = Status.COMPLETED, hours: int = 0, size: int = 0) -> StreamSummary:
    meta = replace(
        a_stream(number, path, status=status),
        last_activity_at_utc=NOW - timedelta(hours=hours),
        verified_size_bytes=size,
    )
    return StreamSummary(meta, HOME[status] or StreamSet.ACTIVE)


MANY = [
    listed(1, "/rec/a/Gate 1.mp4", hours=1, size=30),
    listed(2, "/rec/b/gate 2.mp4", hours=50, size=20),
    listed(3, "/rec/door.mp4", Status.ACTIVE, hours=2, size=10),
    listed(4, "/rec/lift.mp4", Status.RETRYING, hours=3, size=40),
    listed(5, "/rec/hall.mp4", Status.FAILED_UNEXPECTED, hours=4, size=50),
    listed(6, "/rec/roof.mp4", Status.FAILED_ABORTED, hours=5, size=60),
]


def chosen(folders: Collection[str] = ("/rec",), hindered: Collection[str] = (), **arguments: Any) -> list[int]:
    selection = Selection(**arguments)
    matching = [one for one in MANY if one.stream_set in selection.sets and selection.matches(one, folders, hindered)]
    return [int(one.meta.stream_id[:8], 16) for one in selection.order(matching)]


@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [
        ({}, [2, 6, 5, 4, 3, 1]),
        ({"reverse": True}, [1, 3, 4, 5, 6, 2]),
        ({"limit": 2}, [3, 1]),
        ({"limit": 2, "reverse": True}, [1, 3]),
        ({"limit": 99}, [2, 6, 5, 4, 3, 1]),
        ({"sort": Sort.SIZE}, [3, 2, 1, 4, 5, 6]),
        ({"sort": Sort.SIZE, "reverse": True, "limit": 2}, [6, 5]),
        ({"sort": Sort.NAME, "limit": 2}, [1, 2]),
        ({"sort": Sort.NAME, "reverse": True, "limit": 2}, [6, 4]),
        ({"name": "gate*"}, [2, 1]),
        ({"name": "a/*"}, [1]),
        ({"name": "/rec/*/gate ?.mp4"}, [2, 1]),
        ({"name": "rec*"}, []),
        ({"since": NOW - timedelta(hours=3)}, [4, 3, 1]),
        ({"before": NOW - timedelta(hours=5)}, [2]),
        ({"state": State.FAILED}, [6, 5]),
        ({"state": State.OPEN}, [4, 3]),
        ({"at_risk": True, "hindered": {stream_id(3)}}, [5, 4, 3]),
        ({"at_risk": True}, [5, 4]),
        ({"at_risk": True, "state": State.COMPLETED}, []),
    ],
)
def test_filters_order_and_limit(arguments: dict[str, Any], numbers: list[int]) -> None:
    assert chosen(**arguments) == numbers


@pytest.mark.parametrize("status", list(Status))
@pytest.mark.parametrize("state", [None, *State])
def test_the_sets_that_are_read_hold_whatever_a_state_lists(state: State | None, status: Status) -> None:
    known = listed(1, "/rec/a.mp4", status)
    if in_state(known, state):
        assert known.stream_set in Selection(state=state).sets
        if is_at_risk(known, {known.meta.stream_id}):
            assert known.stream_set in Selection(state=state, at_risk=True).sets


def test_a_path_is_shown_below_the_only_watch_folder() -> None:
    assert relative_path("/rec/a/b.mp4", ["/rec"]) == relative_path("/rec/a/b.mp4", ["/rec/"]) == "a/b.mp4"
    assert relative_path("/a/b.mp4", ["/"]) == "a/b.mp4"
    for folders in ([], ["/rec", "/more"], ["/re"], ["/rec/a/b.mp4"]):
        assert relative_path("/rec/a/b.mp4", folders) == "/rec/a/b.mp4"


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-07-01", datetime(2026, 7, 1, tzinfo=UTC)),
        ("2026-07-01T12:30", datetime(2026, 7, 1, 12, 30, tzinfo=UTC)),
        ("2026-07-01T12:30:00+02:00", datetime(2026, 7, 1, 10, 30, tzinfo=UTC)),
    ],
)
def test_a_moment_is_an_age_or_a_time_in_utc(text: str, at: datetime) -> None:
    assert moment(text) == at
    assert abs(datetime.now(UTC) - timedelta(hours=24) - moment("24h")) < timedelta(minutes=1)


@pytest.mark.real
@pytest.mark.parametrize(
    "arguments",
    [
        ["--since", "yesterday"],
        ["--older-than", "1x"],
        ["--limit", "0"],
        ["--limit", "few"],
        ["--sort", "colour"],
        ["--state", "lost"],
        ["--state", "open", "--failed"],
        ["--since", "1h", "--older-than", "2h"],
    ],
)
def test_a_wrong_argument_is_an_error_also_in_json(valkey: ValkeyServer, arguments: list[str]) -> None:
    settings = {"REDIS_URL": valkey.url, "OWNER_NAME": OWNER}
    if arguments != ["--since", "1h", "--older-than", "2h"]:
        error = answer("list", *arguments, settings=settings, code=2)["error"]
        assert error["exit_code"] == 2
        assert arguments[0] in error["lines"][0] or "--failed" in error["lines"][0]
    assert command("list", *arguments, settings=settings, code=None).stdout.count("\n") in {0, 1}


@pytest.mark.real
def test_in_a_pipe_the_whole_path_below_the_watch_folder_is_shown(valkey: ValkeyServer) -> None:
    settings = {"REDIS_URL": valkey.url, "OWNER_NAME": OWNER}
    found = answer("list", "--name", "d.mp4", settings={**settings, "WATCH_DIR": "/rec"})["streams"]
    assert [(one["path"], one["relative_path"]) for one in found] == [("/rec/d.mp4", "d.mp4")]
    assert command("list", "--name", "d.mp4", settings=settings).stdout.splitlines()[1].endswith(" /rec/d.mp4")
    limited = answer("list", "--limit", "1", settings=settings)
    assert (len(limited["streams"]), limited["left_out"]) == (1, 2)


@pytest.mark.real
def test_an_error_is_one_json_document_too() -> None:
    refused = answer("list", settings={"REDIS_URL": "redis://127.0.0.1:9/0"}, code=4)
    assert (refused["version"], refused["error"]["exit_code"]) == (1, 4)
    assert "127.0.0.1:9" in refused["error"]["lines"][0]
    wrong = answer("list", settings={"REDIS_URL": "http://x", "LOG_LEVEL": "loud"}, code=2)["error"]
    assert [line.split(":")[0] for line in wrong["lines"]] == ["REDIS_URL", "LOG_LEVEL"]
    assert answer("show", settings={}, code=2)["error"]["lines"] == ["the following arguments are required: ID"]
    assert answer("show", "abc", settings={"REDIS_URL": "redis://127.0.0.1:9/0"}, code=4)["error"]["exit_code"] == 4


def test_numbers_are_written_for_people() -> None:
    assert [size(n) for n in (None, 0, 1023, 1024, 1536 << 20, 1 << 60)] == [
        "-", "0 B", "1023 B", "1.0 KiB", "1.5 GiB", "1024.0 PiB"
    ]  # fmt: skip
    assert [duration(n) for n in (None, 0.9, 59, 61, 3600, 90061)] == ["-", "0s", "59s", "1m01s", "1h00m", "1d01h"]
    assert printable("a\tb\u2028") == "a\\tb\\u2028"


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_in_a_narrow_terminal_names_are_cut_and_ids_and_numbers_are_not(columns: int) -> None:
    made = table(
        [Column("id"), Column("sent", right=True), Column("file", flexible=True), Column("why", flexible=True)],
        [
            ["00000001", "1023.9 MiB", safe(f"…/rec/{'録' * 99}.mp4"), safe("because " * 99)],
            ["2", "-", safe(""), safe("")],
        ],
    )
    out = StringIO()
    Console(file=out, width=columns).print(made)
    lines = out.getvalue().splitlines()
    assert [line.split()[:2] for line in lines] == [["id", "sent"], ["00000001", "1023.9"], ["2", "-"]]
    assert all(cell_len(line) <= columns for line in lines)
    assert lines[1].count("…") == 2
    assert ".mp4 …" in lines[1]
    assert lines[1].endswith("because")


def test_a_note_stands_below_its_row_on_two_lines_at_most_and_a_pipe_gets_all_of_it() -> None:
    made = table([Column("id"), Column("file", flexible=True)], [Row(["1", safe("a.mp4")], safe("because " * 99))])
    narrow, pipe = StringIO(), StringIO()
    Console(file=narrow, width=40).print(made)
    Console(file=pipe, width=1_000_000).print(made)
    assert [cell_len(line) for line in narrow.getvalue().splitlines()] == [7, 8, 34, 40]
    assert narrow.getvalue().endswith("because because because because beca…\n")
    assert pipe.getvalue().splitlines() == ["id file", "1  a.mp4 " + "because " * 99]


@pytest.mark.parametrize("columns", [15, 20, 25, 40, 200])
def test_facts_lose_no_letter_however_narrow_the_terminal_is(columns: int) -> None:
    rows = [("last activity", "2026-01-02 03:04:05 UTC"), ("file", "/srv/" + "x" * 60 + "/a.mp4"), ("empty", "")]
    out = StringIO()
    Console(file=out, width=columns).print(facts(rows))
    assert all(len(line) <= columns for line in out.getvalue().splitlines())
    assert "".join(out.getvalue().split()) == "".join("".join(row) for row in rows).replace(" ", "")


def test_facts_lose_nothing_in_a_narrow_terminal() -> None:
    out = StringIO()
    Console(file=out, width=30).print(facts([("a", "x" * 50), ("longer", ""), ("b", "one two three four five six")]))
    lines = out.getvalue().splitlines()
    assert lines == [
        "a       " + "x" * 22,
        "        " + "x" * 22,
        "        " + "x" * 6,
        "longer",
        "b       one two three four",
        "        five six",
    ]


@pytest.mark.parametrize(("terminal", "quiet"), [(True, False), (True, True), (False, False)])
def test_progress_is_for_a_terminal_only_and_is_erased(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, quiet: bool
) -> None:
    error = StringIO()
    monkeypatch.setattr(error, "isatty", lambda: terminal)
    monkeypatch.setattr("sys.stderr", error)
    with ProgressLine("object", 1200, quiet=quiet) as progress:
        progress.show(3)
    expected = "\r\x1b[Kobject 3 of 1,200 …\r\x1b[K" if terminal and not quiet else ""
    assert error.getvalue() == expected


def test_p10_each_failed_stream_is_listed_with_the_advice_that_show_has(capsys: pytest.CaptureFixture[str]) -> None:
    known = [
        StreamSummary(a_stream(number, status=Status.failed(reason), failure_reason="why"), StreamSet.FAILED)
        for number, reason in enumerate(FailureReason)
    ]
    listed = Listed(streams=known)
    for one, reason in zip(known, FailureReason, strict=True):
        assert summary(one, listed)["advice"] == ADVICE[reason]
        assert details(Checkpoint(one.meta, one.stream_set), None, {})["advice"] == ADVICE[reason]
        [_, line] = lines_of([one], 1_000_000)
        assert line.endswith(f"why → {ADVICE[reason]}"), "in a pipe on its own line, whole"
        [_, _, note, *advice] = lines_of([one], 70)
        assert note.strip() == "why"
        assert " ".join(" ".join(advice).split()) == f"→ {ADVICE[reason]}", "on a terminal below it, whole"


def test_an_advice_is_shown_once_below_the_streams_that_it_is_for() -> None:
    known = [
        StreamSummary(a_stream(number, status=status, failure_reason="why"), StreamSet.FAILED)
        for number, status in enumerate([Status.FAILED_ABORTED, *[Status.FAILED_REDIS_UPDATE] * 3])
    ]
    assert len(lines_of([], 200)) == 1, "its heading"
    advice = [number for number, line in enumerate(lines_of(known, 200)) if line.strip().startswith("→")]
    assert advice == [3, 10]
    assert sum("→" in line for line in lines_of(known, 1_000_000)) == 4


@pytest.mark.parametrize("status", sorted(frozenset(Status) - FAILED))
@pytest.mark.parametrize("is_hindered", [True, False])
def test_p10_an_open_stream_that_is_at_risk_has_advice_and_no_other_has(status: Status, is_hindered: bool) -> None:
    known = StreamSummary(a_stream(status=status), StreamSet.ACTIVE)
    hindered = {known.meta.stream_id: "do this"} if is_hindered else {}
    assert (advice_about(known.meta, hindered) is not None) == is_at_risk(known, hindered)


def test_p10_a_stream_is_hindered_without_a_daemon_and_while_its_daemon_reports_an_outage() -> None:
    def report(process: str, *risks: Reason, **more: Any) -> DaemonReport:
        of = tuple(Risk(reason, 1.0, 5, 1, "why") for reason in risks)
        return DaemonReport(instance=process, at=1000.0, folder="/rec", process=process, risks=of, **more)

    reports = (
        report("well"),
        report("no-s3", Reason.S3_DOWN),
        report("no-redis", Reason.FAILED, Reason.REDIS_DOWN),
        report("full", Reason.DISK_SHORT),
        report("was", Reason.S3_DOWN, stopped=True),
    )
    ids = {stream_id(number): process for number, process in enumerate(["well", "no-s3", "no-redis", "full", "was"])}
    holders = {one: f"cam-1@0123456789ab/{process}" for one, process in ids.items()}
    found = hindrances(holders, [*ids, stream_id(9)], Fleet(reports, 1000.0))
    assert {ids.get(one): advice for one, advice in found.items()} == {
        "no-s3": RISK_ADVICE[Reason.S3_DOWN],
        "no-redis": RISK_ADVICE[Reason.REDIS_DOWN],
        None: "no daemon works on it: start its daemon, or look at its log; `cef-trio fleet` shows all",
    }


def lines_of(known: list[StreamSummary], width: int) -> list[str]:
    listed = Listed(streams=known)
    rows = [_row(one, NOW, listed, keys=False) for one in known]
    out = StringIO()
    Console(file=out, width=width).print(output.table(_COLUMNS, rows))
    return out.getvalue().splitlines()
