"""``gc`` aborts uploads without an owner and keeps the others, also if they change at the same time."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from itertools import product
from typing import Any

import pytest
import trio
from servers.command import command
from servers.stream_records import DAEMON, NOW, a_stream, stream_id
from waiting import completed

from cef_trio.checkpoint.memory import Moment
from cef_trio.checkpoint.model import Owner
from cef_trio.checkpoint.states import ENDED, Status
from cef_trio.cli.gc import collect, judge_upload
from cef_trio.cli.retry_plan import reason_of_status
from cef_trio.cli.session import CommandContext
from cef_trio.exceptions import S3OperationError
from cef_trio.exit_codes import ExitCode
from cef_trio.lab.world import OTHER_BUCKET, PART, World
from cef_trio.s3.model import ListedUpload
from cef_trio.s3_endpoint import Fault, Kind
from cef_trio.s3_endpoint import Moment as FaultMoment
from cef_trio.upload.failures import KEEPS_ITS_UPLOAD
from cef_trio.upload.ownership import Ownership

OLD = ListedUpload("streams/x/a.mp4", "upload", NOW - timedelta(days=2))
DAY_AGO = NOW - timedelta(days=1)


@pytest.mark.parametrize(("status", "upload_id"), list(product(Status, [None, "upload", "another"])))
def test_what_a_live_stream_or_a_retry_needs_is_kept_and_all_else_of_ended_streams_goes(
    status: Status, upload_id: str | None
) -> None:
    fate = judge_upload(OLD, "x", a_stream(status=status, s3_upload_id=upload_id), born_before=DAY_AGO)
    needed = status not in ENDED or (reason_of_status(status) in KEEPS_ITS_UPLOAD and upload_id != "another")
    assert fate.abort is not needed


def test_p9_the_upload_of_a_stream_of_another_host_is_that_hosts() -> None:
    for status in Status:
        fate = judge_upload(OLD, "x", a_stream(status=status), born_before=DAY_AGO, of_another_host=True)
        assert not fate.abort


async def test_p9_no_upload_of_another_hosts_stream_is_aborted(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    await trio.sleep(1)
    mine = replace(context, ownership=Ownership("a"))
    mine.ownership.owner = Owner("a", "uuid:a", "/rec /")
    for number, owner in enumerate((mine.ownership.owner, Owner("b", "uuid:b", "/rec /")), start=1):
        await an_upload(context, number)
        ended = a_stream(number, f"/rec/{number}.mp4", status=Status.FAILED_ABORTED, owner=owner)
        await world.store.create(ended, DAEMON)
        await world.store.release([stream_id(number)], DAEMON)
    await trio.sleep(7200)
    _, aborted = await gc(mine, capsys)
    assert aborted == {f"streams/{stream_id(1)}/a.mp4": True, f"streams/{stream_id(2)}/a.mp4": False}


def test_an_upload_without_an_owner_is_aborted_if_it_is_old_enough_and_of_our_template() -> None:
    assert judge_upload(OLD, "x", None, born_before=DAY_AGO).abort
    assert not judge_upload(OLD, None, None, born_before=DAY_AGO).abort
    assert not judge_upload(replace(OLD, initiated_at_utc=NOW), "x", None, born_before=DAY_AGO).abort
    assert not judge_upload(replace(OLD, initiated_at_utc=NOW + DAY_AGO.resolution), "x", None, born_before=NOW).abort


async def test_p5_what_a_probe_could_not_abort_is_aborted(
    context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    await trio.sleep(1)
    await an_upload(context, 1)
    await context.store.create(a_stream(1), DAEMON)
    for key in (context.key_template.probe_key, context.key_template.probe_recording_key):
        await context.s3.create_multipart_upload(key, metadata={})
    await trio.sleep(7200)
    _, aborted = await gc(context, capsys)
    assert aborted == {
        f"streams/{stream_id(1)}/a.mp4": False,
        context.key_template.probe_key: True,
        context.key_template.probe_recording_key: True,
    }


async def an_upload(context: CommandContext, number: int, name: str = "a.mp4") -> str:
    return (await context.s3.create_multipart_upload(f"streams/{stream_id(number)}/{name}", metadata={})).upload_id


async def gc(
    context: CommandContext, capsys: pytest.CaptureFixture[str], **more: Any
) -> tuple[ExitCode, dict[str, bool]]:
    """The exit code, and by key which uploads were aborted."""
    given = {"dry_run": False, "redis_is_empty": False, **more}
    capsys.readouterr()
    code = await collect(context, timedelta(hours=1), as_json=True, **given)
    return code, {one["subject"]: one.get("aborted", False) for one in json.loads(capsys.readouterr().out)["results"]}


async def test_only_uploads_without_an_owner_are_aborted_and_a_dry_run_aborts_none(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    await an_upload(context, 1)
    await an_upload(context, 2)
    await context.s3.create_multipart_upload("streams/of-another-user", metadata={})
    await context.s3.create_multipart_upload("other/prefix", metadata={})
    await trio.sleep(7200)
    await an_upload(context, 3)
    await world.store.create(a_stream(2), DAEMON)
    await world.store.release([stream_id(2)], DAEMON)
    code, aborted = await gc(context, capsys, dry_run=True)
    assert (code, any(aborted.values()), len(world.open_uploads())) == (ExitCode.DONE, False, 5)
    code, aborted = await gc(context, capsys)
    assert code is ExitCode.DONE
    assert [key for key, gone in aborted.items() if gone] == [f"streams/{stream_id(1)}/a.mp4"]
    assert len(world.open_uploads()) == 4
    assert await world.store.holders([stream_id(1), stream_id(2)]) == {}


async def test_an_empty_redis_keeps_every_upload_unless_it_is_confirmed_to_be_the_right_one(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    await an_upload(context, 1)
    await trio.sleep(7200)
    code, _ = await gc(context, capsys)
    assert code is ExitCode.ANSWER_IS_NO
    given: dict[str, Any] = {"dry_run": False, "as_json": False}
    assert await collect(context, timedelta(hours=1), redis_is_empty=False, **given) is ExitCode.ANSWER_IS_NO
    assert "--redis-is-empty" in capsys.readouterr().err
    assert len(world.open_uploads()) == 1
    assert await collect(context, timedelta(hours=1), redis_is_empty=True, **given) is ExitCode.DONE
    assert world.open_uploads() == []


async def test_it_disturbs_no_running_daemon(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    world.stream_timeout_seconds = 86_400.0
    async with world.daemon() as daemon:
        for _ in range(20):
            world.append(PART)
            daemon.seen()
            await trio.sleep(600)
            assert await gc(context, capsys) == (ExitCode.DONE, dict.fromkeys(world.open_uploads(), False))
        daemon.closed()
        await completed(world)
    assert world.recordings() == [world.content()]
    assert world.endpoint.log.calls["CreateMultipartUpload"] == 1


async def test_a_stream_that_comes_back_between_the_listing_and_the_abort_keeps_its_upload(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever else takes the stream up at that moment: its record is looked at again under the lease."""
    await an_upload(context, 1)
    await an_upload(context, 2)
    await world.store.create(a_stream(9, "/rec/9.mp4"), DAEMON)
    await trio.sleep(7200)

    async def come_back(operation: str, moment: Moment) -> None:
        if operation == "acquire" and moment is Moment.BEFORE:
            world.store.fault = None
            await world.store.create(a_stream(1), DAEMON)
            await world.store.release([stream_id(1)], DAEMON)
            await world.store.create(a_stream(2, "/rec/2.mp4"), DAEMON)
        await trio.lowlevel.checkpoint()

    world.store.fault = come_back
    _, aborted = await gc(context, capsys)
    assert not any(aborted.values())
    assert len(world.open_uploads()) == 2


async def test_an_upload_that_s3_does_not_abort_is_reported_and_the_others_are_aborted(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    await an_upload(context, 1)
    await an_upload(context, 2)
    await trio.sleep(7200)
    world.endpoint.faults.arm(Fault(Kind.ERROR, "AbortMultipartUpload", code="AccessDenied"))
    code, aborted = await gc(context, capsys, redis_is_empty=True)
    assert (code, sorted(aborted.values())) == (ExitCode.ANSWER_IS_NO, [False, True])
    assert len(world.open_uploads()) == 1


async def test_the_reasons_why_uploads_are_kept_are_counted(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    await an_upload(context, 1)
    await context.s3.create_multipart_upload("streams/of-another-user", metadata={})
    await trio.sleep(7200)
    await an_upload(context, 3)
    await an_upload(context, 4)
    await collect(context, timedelta(hours=1), dry_run=False, redis_is_empty=True, as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        f"streams/{stream_id(1)}/a.mp4: aborted: Redis has no such stream",
        "4 open uploads under 'streams/': 1 aborted",
        "  2 kept: it is younger than --older-than",
        "  1 kept: its key does not match S3_KEY_TEMPLATE",
    ]


async def test_an_abort_takes_no_longer_than_the_lease_under_which_it_was_judged(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    await an_upload(context, 1)
    await trio.sleep(7200)
    world.endpoint.faults.arm(Fault(Kind.FREEZE, "AbortMultipartUpload", moment=FaultMoment.BEFORE, times=None))
    began = trio.current_time()
    with pytest.raises(S3OperationError, match="while its stream was ours") as caught:
        await gc(context, capsys, redis_is_empty=True)
    assert caught.value.transient
    assert trio.current_time() - began < context.lease.ttl_seconds
    assert await world.store.holders([stream_id(1)]) == {}


async def test_ctrl_c_stops_between_two_uploads_and_what_was_done_is_printed(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        await an_upload(context, number)
    await trio.sleep(7200)
    calls = 0
    with trio.CancelScope() as scope:

        async def cancel(operation: str, moment: Moment) -> None:
            nonlocal calls
            calls += operation == "acquire" and moment is Moment.SENT
            if calls == 3:
                scope.cancel()
            await trio.lowlevel.checkpoint()

        world.store.fault = cancel
        await collect(context, timedelta(hours=1), dry_run=False, redis_is_empty=True, as_json=True)
    world.store.fault = None
    assert scope.cancelled_caught
    document = json.loads(capsys.readouterr().out)
    assert document["finished"] is False
    assert [one["aborted"] for one in document["results"]] == [True, True]
    assert len(world.open_uploads()) == 2
    assert await world.store.holders([stream_id(number) for number in range(4)]) == {}


@pytest.mark.real
@pytest.mark.parametrize("age", ["24", "h", "-1h", "1h30m", "1 week"])
def test_an_age_that_is_none_is_one_line_and_exit_code_2(age: str) -> None:
    assert "takes an age such as" in command("gc", f"--older-than={age}", code=2).stderr


def test_an_option_that_would_do_nothing_is_one_line_and_exit_code_2() -> None:
    done = command("gc", "--superseded", "--redis-is-empty", code=ExitCode.BAD_SETTINGS)
    assert done.stderr.count("\n") == 1
    assert "--redis-is-empty is for gc without --superseded" in done.stderr


async def test_p5_the_upload_of_a_stream_that_went_to_another_bucket_is_aborted_in_the_old_one(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    """``S3_BUCKET_NAME`` changed with the stream open; the command is given with the old name."""
    world.append(2 * PART)
    async with world.daemon():
        await trio.sleep(1)
    world.bucket = OTHER_BUCKET
    async with world.daemon() as daemon:
        await trio.sleep(7200)
        (key,) = world.open_uploads()
        daemon.closed()
        await completed(world)
    assert await gc(context, capsys) == (ExitCode.DONE, {key: True})
    assert world.open_uploads() == []
    assert list(world.objects(OTHER_BUCKET)) != []
