"""``list`` and ``show``: what Redis knows, whatever the files are called."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO

import pytest
import trio
from rich.cells import cell_len
from rich.console import Console
from servers.command import answer, command
from servers.stream_records import DAEMON, a_part, a_stream, stream_id
from servers.valkey import ValkeyServer, valkey_server

from cef_trio.checkpoint.commit import Change
from cef_trio.checkpoint.protocols import StreamSummary
from cef_trio.checkpoint.redis.store import RedisCheckpointStore
from cef_trio.checkpoint.states import HOME, Status, StreamSet
from cef_trio.cli.list import State, in_state
from cef_trio.cli.output import Column, Row, duration, facts, safe, short_path, size, table
from cef_trio.cli.stream_selection import NoSuchStreamError, select
from cef_trio.safe_text import printable

OWNER = "under-test"
FORGED = "/rec/[red]x[/red]\x1b[31m\nforged line \u202ecod.\udcff.mp4"


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    with valkey_server(tcp=True) as server:
        trio.run(fill, server.url)
        yield server


async def fill(url: str) -> None:
    async with RedisCheckpointStore(url, owner=OWNER) as store:
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
    assert answer("list", "--state", "deleted", settings=settings) == {"streams": [], "unreadable": [], "newer": []}
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


def test_numbers_are_written_for_people() -> None:
    assert [size(n) for n in (None, 0, 1023, 1024, 1536 << 20, 1 << 60)] == [
        "-", "0 B", "1023 B", "1.0 KiB", "1.5 GiB", "1048576.0 TiB"
    ]  # fmt: skip
    assert [duration(n) for n in (None, 0.9, 59, 61, 3600, 90061)] == ["-", "0s", "59s", "1m01s", "1h00m", "1d01h"]
    assert [short_path(path) for path in ("/a.mp4", "/rec/a.mp4", "/srv/rec/a.mp4")] == [
        "/a.mp4", "/rec/a.mp4", "…/rec/a.mp4"
    ]  # fmt: skip
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
