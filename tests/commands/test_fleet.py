"""``fleet``: every daemon a line, what is wrong by its name; ``fleet retire`` refuses what is not finished."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import trio
from servers.command import command
from servers.stream_records import DAEMON, a_stream, stream_id
from servers.valkey import ValkeyServer

from cef_trio.checkpoint.commit import Change
from cef_trio.checkpoint.redis import RedisCheckpointStore
from cef_trio.checkpoint.states import Status, StreamSet
from cef_trio.cli.fleet import retire, retire_one, show_fleet
from cef_trio.cli.session import CommandContext
from cef_trio.exit_codes import ExitCode
from cef_trio.lab.world import World
from cef_trio.observability import daemon_report
from cef_trio.observability.at_risk import Reason, Risk
from cef_trio.observability.daemon_report import DaemonReport
from cef_trio.observability.lag import Lag


async def reports(world: World, number: int, **more: Any) -> DaemonReport:
    """Have a daemon report to the world's store."""
    name, now = f"cam-{number}", world.utc_now().timestamp()
    values: dict[str, Any] = {"instance": f"room-{number}/{name}", "owner": f"room-{number}", "name": name, "at": now}
    about = {"host": f"host-{number}", "system": f"boot-{number}", "process": f"p-{number}", "version": "1.0"}
    one = DaemonReport(**{**values, **about, "folder": "/srv/rec", **more})
    await world.store.report(one.instance, daemon_report.encode(one), beginning="")
    return one


@pytest.fixture
def context(context: CommandContext) -> CommandContext:
    return replace(context, owner_name="room-1")


async def shown(context: CommandContext, capsys: pytest.CaptureFixture[str], code: ExitCode) -> tuple[str, Any]:
    """The text, and the document of ``--json``."""
    assert await show_fleet(context, as_json=False) is code
    text = capsys.readouterr().out
    assert await show_fleet(context, as_json=True) is code
    return text, json.loads(capsys.readouterr().out)


async def test_each_daemon_is_a_line_and_a_fleet_without_problems_exits_with_0(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    text, document = await shown(context, capsys, ExitCode.DONE)
    assert (text, document["daemons"], document["problems"]) == ("No daemon has reported.\n", [], [])
    now = world.utc_now().timestamp()
    await reports(world, 2, behind=Lag(2048, now - 70), bytes_per_second=1024.0, streams={"working": 3, "waiting": 1})
    await reports(world, 1, stopped=True, folder="/srv/\x1b[31mred")
    await trio.sleep(20)
    text, document = await shown(context, capsys, ExitCode.DONE)
    stopped, ready = [" ".join(line.split()) for line in text.splitlines()[1:]]
    assert ready == "room-2 cam-2 host-2 1.0 ready 20s 4 2.0 KiB 1m30s 1.0 KiB/s /srv/rec"
    assert stopped.startswith("room-1 cam-1 host-1 1.0 stopped 20s 0 ")
    assert "\x1b" not in text
    assert [one["state"] for one in document["daemons"]] == ["stopped", "ready"]
    assert (document["daemons"][1]["behind_seconds"], document["ok"]) == (90.0, True)


async def test_what_is_wrong_is_named_with_its_remedy_and_exits_with_5(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    now = world.utc_now().timestamp()
    await reports(world, 1)
    await trio.sleep(100)
    await reports(world, 2, version="2.0", at=now + 3700)
    await reports(world, 3, risks=(Risk(Reason.S3_DOWN, now + 10, 5, 1, "no route"),))
    text, document = await shown(context, capsys, ExitCode.ANSWER_IS_NO)
    assert [one["problem"] for one in document["problems"]] == ["silent", "mixed_versions", "clocks_apart"]
    assert not document["ok"]
    assert "cam-1 on host-1 for 100 s" in text
    assert "2 versions run: 1.0 in 1, 2.0 in 1; 1.0 in cam-3 on host-3" in text
    assert "cam-2 on host-2 by +3600 s" in text
    assert "5 B of 1 recording do not get to S3, for 90 s: no route" in text
    assert text.count("→ ") == 4, "a silent daemon is named once"


async def test_a_report_that_cannot_be_read_is_named_as_in_json(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(7):
        await world.store.report(f"room-{number}/\x1b[31m", "no report", beginning="")
    text, document = await shown(context, capsys, ExitCode.DONE)
    lines = " ".join(text.split())
    assert [lines.count(f"the report of 'room-{number}/") for number in range(7)] == [1] * 5 + [0] * 2
    assert (lines.count("cannot be read"), len(document["unreadable"])) == (6, 5)
    assert "2 more reports cannot be read" in lines
    assert "No daemon has reported" not in text
    assert "\x1b" not in text


async def test_two_thousand_daemons_are_shown_in_bounds(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2000):
        await reports(world, number, risks=(Risk(Reason.S3_DOWN, 1.0, 5, 1, "no route"),))
    text, document = await shown(context, capsys, ExitCode.ANSWER_IS_NO)
    assert (len(document["daemons"]), document["left_out"]) == (1000, 1000)
    assert len(text.splitlines()) < 1100
    assert "1,980 more daemons" in text


async def test_an_owner_is_retired_when_its_daemon_is_gone_and_its_streams_have_ended(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    async def attempt(*, ok: bool, forget_history: bool = False) -> str:
        assert await retire(context, forget_history=forget_history, as_json=False) is (
            ExitCode.DONE if ok else ExitCode.ANSWER_IS_NO
        )
        return capsys.readouterr().out

    await reports(world, 1)
    await reports(world, 2)
    for number, status in enumerate((Status.ACTIVE, Status.FAILED_UNEXPECTED, Status.COMPLETED), 1):
        await world.store.create(a_stream(number, f"/rec/{number}.mp4", status=status), DAEMON)
    assert await attempt(ok=False) == "room-1: not retired: its daemon runs, stop it first: cam-1 on host-1\n"
    await trio.sleep(100)
    await reports(world, 2)
    said = await attempt(ok=False)
    assert "not retired: 1 stream open" in said
    assert "`cef-trio abort --owner room-1 ID`" in said
    assert set((await world.store.reports()).reports) == {"room-1/cam-1", "room-2/cam-2"}
    assert await world.store.acquire(stream_id(1), DAEMON)
    await world.store.transition(stream_id(1), DAEMON, Status.S3_COMPLETED, Change())
    await world.store.transition(stream_id(1), DAEMON, Status.COMPLETED, Change(), enqueue_webhook=True)
    assert "retired: 1 report removed; the records of 3 ended streams stay" in await attempt(ok=True)
    assert set((await world.store.reports()).reports) == {"room-2/cam-2"}
    assert "retired: 0 reports removed" in await attempt(ok=True)
    assert "1 webhook not delivered yet" in await attempt(ok=False, forget_history=True)
    await world.store.ack_webhook(stream_id(1))
    assert "retired: 0 reports removed, 3 ended streams forgotten" in await attempt(ok=True, forget_history=True)
    assert sum((await world.store.count()).values()) == 0
    assert "no daemon, and no stream, of that name is known" in await attempt(ok=False, forget_history=True)


async def test_one_daemon_of_a_shared_folder_that_is_gone_is_retired_while_the_others_run(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    async def attempt(instance: str, *, ok: bool) -> str:
        code = await retire_one(context, instance, as_json=False)
        assert code is (ExitCode.DONE if ok else ExitCode.ANSWER_IS_NO)
        return capsys.readouterr().out

    share = {"owner": "room-1", "share": "nfs nas:/rec /"}
    await reports(world, 1, **share)
    await reports(world, 2, **share)
    assert "cam-1 not retired: it runs, stop it first: cam-1 on host-1" in await attempt("cam-1", ok=False)
    await trio.sleep(100)
    assert "no other daemon of room-1 runs" in await attempt("cam-1", ok=False)
    await reports(world, 2, **share)
    text, _ = await shown(context, capsys, ExitCode.ANSWER_IS_NO)
    todo = "`cef-trio fleet retire room-1`, with `--instance cam-1` while others of the owner run"
    assert todo in " ".join(text.split())
    said = await attempt("cam-1", ok=True)
    assert "cam-1 retired: 1 report removed, of /srv/rec; of room-1 run cam-2 on host-2" in said
    assert set((await world.store.reports()).reports) == {"room-2/cam-2"}
    await shown(context, capsys, ExitCode.DONE)
    assert "no daemon of that INSTANCE_ID has reported" in await attempt("cam-1", ok=False)


async def test_p10_a_killed_daemon_is_retired_while_another_of_its_instance_id_runs_on_another_folder(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after a power cut and a new WATCH_DIR, or of two daemons of one machine: both have the host's name."""

    async def attempt(*, ok: bool) -> str:
        code = await retire_one(context, "cam-1", as_json=False)
        assert code is (ExitCode.DONE if ok else ExitCode.ANSWER_IS_NO)
        return capsys.readouterr().out

    await reports(world, 1, instance="room-1/cam-1@old", folder="/srv/old", process=DAEMON.token)
    await world.store.create(a_stream(1, "/srv/old/1.mp4", status=Status.ACTIVE), DAEMON)
    await trio.sleep(50)
    assert await world.store.acquire(stream_id(1), DAEMON)
    await trio.sleep(20)
    await reports(world, 1, instance="room-1/cam-1@new", folder="/srv/new")
    text, _ = await shown(context, capsys, ExitCode.ANSWER_IS_NO)
    assert "`cef-trio fleet retire room-1`, with `--instance cam-1`" in " ".join(text.split())
    assert "1 lease held by it" in await attempt(ok=False), "it may be alive, and only its report be lost"
    await world.store.release([stream_id(1)], DAEMON)
    said = await attempt(ok=True)
    assert "cam-1 retired: 1 report removed, of /srv/old; of room-1 run cam-1 on host-1" in said
    assert set((await world.store.reports()).reports) == {"room-1/cam-1@new"}
    await shown(context, capsys, ExitCode.DONE)
    assert "cam-1 not retired: it runs, stop it first: cam-1 on host-1" in await attempt(ok=False)


@pytest.mark.parametrize("reported", [False, True])
async def test_p2_an_owner_with_a_live_lease_is_not_retired_whatever_the_registry_says(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str], *, reported: bool
) -> None:
    """Its daemon may have lost its report (an eviction), or only its way to the registry."""
    if reported:
        await reports(world, 1, process=DAEMON.token)
        await reports(world, 2, owner="room-1")
        await trio.sleep(100)
        await reports(world, 2, owner="room-1")
    await world.store.create(a_stream(1, "/rec/1.mp4", status=Status.ACTIVE), DAEMON)
    if reported:
        assert await retire_one(context, "cam-1", as_json=False) is ExitCode.ANSWER_IS_NO
        assert "cam-1 not retired: it runs, stop it first: 1 lease held by it" in capsys.readouterr().out
        await trio.sleep(65)
        assert await world.store.acquire(stream_id(1), DAEMON)
    assert await retire(context, forget_history=False, as_json=False) is ExitCode.ANSWER_IS_NO
    said = " ".join(capsys.readouterr().out.split())
    assert f"not retired: its daemon runs, stop it first: 1 lease held by {DAEMON.instance}" in said
    assert len((await world.store.reports()).reports) == 2 * reported


@pytest.mark.real
async def test_p2_an_owner_whose_name_is_claimed_is_not_retired_although_nothing_else_is_known_of_it(
    valkey: ValkeyServer,
) -> None:
    """A daemon without an open stream holds no lease, and may have no report."""
    settings = {"REDIS_URL": valkey.url, "OWNER_NAME": "desk"}
    async with RedisCheckpointStore(valkey.url, owner="room-1", socket_timeout_seconds=10) as store:
        await store.create(a_stream(1, "/rec/1.mp4", status=Status.COMPLETED), DAEMON)
        await store.release([stream_id(1)], DAEMON)
        claim = store.owner_claim(replace(DAEMON, host="boot-1", ttl_seconds=600.0), "host-1", exclusive=True)
        assert await claim.take("2026-11-30T00:00:00Z") is None
        retire_it = partial(command, "fleet", "retire", "room-1", "--forget-history", settings=settings)
        said = await trio.to_thread.run_sync(partial(retire_it, code=5))
        assert "not retired: its daemon runs, stop it first: host-1 has the name" in said.stdout
        assert sum((await store.count()).values()) == 1
        await claim.release()
        assert "1 ended stream forgotten" in (await trio.to_thread.run_sync(retire_it)).stdout


@pytest.mark.real
async def test_p2_open_streams_whose_set_redis_has_lost_keep_an_owner_from_being_retired(valkey: ValkeyServer) -> None:
    settings = {"REDIS_URL": valkey.url, "OWNER_NAME": "desk"}
    async with RedisCheckpointStore(valkey.url, owner="room-2", socket_timeout_seconds=10) as store:
        await store.create(a_stream(1, "/rec/1.mp4", status=Status.ACTIVE), DAEMON)
        valkey.command("DEL", store.keys.set(StreamSet.ACTIVE))
        retire_it = partial(command, "fleet", "retire", "room-2", settings=settings, code=5)
        said = await trio.to_thread.run_sync(retire_it)
        assert f"1 lease held by {DAEMON.instance}" in said.stdout


@pytest.mark.parametrize("arguments", [["--instance", "a"], ["retire", "a", "--instance", "b", "--forget-history"]])
def test_an_instance_is_one_of_an_owner_to_retire(arguments: list[str]) -> None:
    done = command("fleet", *arguments, settings={"REDIS_URL": "redis://127.0.0.1:9"}, code=2)
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["retire"], ["retire", "No Name"], ["--forget-history"], ["retire", "fleet"]])
def test_arguments_that_do_not_fit_are_one_line_and_exit_2(arguments: list[str]) -> None:
    done = command("fleet", *arguments, settings={"REDIS_URL": "redis://127.0.0.1:9"}, code=2)
    assert len(done.stderr.splitlines()) == 1
