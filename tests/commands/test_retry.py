"""``retry``: what failed comes back the way that its upload allows, and a running daemon takes it up."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import trio
from servers.command import command
from servers.stream_records import DAEMON, PART, a_stream, stream_id
from store_faults import CancelledAt
from waiting import completed, until_idle

from cef_trio.checkpoint.memory import Moment
from cef_trio.checkpoint.model import FileIdentity, Owner
from cef_trio.checkpoint.states import FAILED, FailureReason, Status, StreamSet
from cef_trio.cli.retry import retry_stream, retry_streams
from cef_trio.cli.retry_plan import Presence, RetryPath, plan_retry, presence_of
from cef_trio.cli.session import CommandContext
from cef_trio.exceptions import S3OperationError
from cef_trio.exit_codes import ExitCode
from cef_trio.lab.world import PART as WORLD_PART
from cef_trio.lab.world import World, WorldDaemon
from cef_trio.s3_endpoint import Fault, Kind
from cef_trio.upload.failures import KEEPS_ITS_UPLOAD
from cef_trio.upload.object_key import METADATA_SUFFIX
from cef_trio.upload.ownership import Ownership


def judged(status: Status, presence: Presence = Presence.SAME, **more: Any) -> RetryPath | None:
    meta = a_stream(status=status, **more)
    return plan_retry(meta, presence, None, part_size=2 * PART, equal_parts=False).way


@pytest.mark.parametrize("reason", list(FailureReason))
def test_a_kept_upload_goes_on_and_an_aborted_one_starts_over(reason: FailureReason) -> None:
    way = RetryPath.GO_ON if reason in KEEPS_ITS_UPLOAD else RetryPath.START_OVER
    assert judged(Status.failed(reason)) is way
    assert judged(Status.failed(reason), Presence.NOT_SEEN) is way


@pytest.mark.parametrize("reason", list(FailureReason))
def test_parts_that_were_refused_start_over_when_equal_ones_are_asked_for(reason: FailureReason) -> None:
    meta = a_stream(status=Status.failed(reason), part_size=PART)
    plan = plan_retry(meta, Presence.SAME, None, part_size=PART, equal_parts=True)
    if reason is FailureReason.FINALIZATION:
        assert plan.way is RetryPath.START_OVER
        assert plan.fields["equal_parts"] is True
    elif reason in KEEPS_ITS_UPLOAD:
        assert plan.way is RetryPath.GO_ON


async def test_an_upload_that_was_kept_is_aborted_before_it_starts_over(world: World, context: CommandContext) -> None:
    """Its parts would be found by their key, and gone on from."""
    world.append(3 * WORLD_PART)
    fault = world.endpoint.faults.arm(Fault(Kind.ERROR, "CompleteMultipartUpload", code="InvalidPart", times=None))
    async with world.daemon() as daemon:
        daemon.closed()
        (failed,) = await until_idle(world, *FAILED)
        assert "S3_EQUAL_PARTS" in (failed.meta.failure_reason or "")
        world.endpoint.faults.disarm(fault)
        wanted = replace(context, equal_parts=True, part_size=WORLD_PART)
        assert (await retry_stream(wanted, failed.meta.stream_id)).way is RetryPath.START_OVER
        (checkpoint,) = await completed(world)
    assert checkpoint.meta.equal_parts
    assert world.recordings() == [world.content()]
    assert world.endpoint.log.calls["CreateMultipartUpload"] == 2
    assert world.open_uploads() == []


@pytest.mark.parametrize("presence", [Presence.GONE, Presence.OTHER, Presence.TAKEN])
@pytest.mark.parametrize("status", sorted(FAILED))
def test_without_its_file_only_a_stream_whose_object_exists_comes_back(status: Status, presence: Presence) -> None:
    assert judged(status, presence) is None
    assert judged(status, presence, object_etag="e") is RetryPath.FINISH


@pytest.mark.parametrize(("status", "presence"), list(product(sorted(frozenset(Status) - FAILED), Presence)))
def test_what_has_not_failed_does_not_come_back(status: Status, presence: Presence) -> None:
    plan = plan_retry(a_stream(status=status), presence, None, part_size=PART, equal_parts=False)
    assert plan.way is None
    assert plan.says.startswith("not retried: ")


@pytest.mark.parametrize(
    ("part_size", "size_bytes", "way"),
    [
        (PART, None, None),
        (2 * PART, None, RetryPath.START_OVER),
        (2 * PART, 1 << 60, None),
        (2 * PART, 99, RetryPath.START_OVER),
    ],
)
def test_a_recording_that_did_not_fit_needs_larger_parts(
    part_size: int, size_bytes: int | None, way: RetryPath
) -> None:
    meta = a_stream(status=Status.FAILED_FILE_TOO_LARGE)
    plan = plan_retry(meta, Presence.SAME, size_bytes, part_size=part_size, equal_parts=False)
    assert plan.way is way
    assert way is None or plan.fields["part_size"] == part_size


def test_another_machines_file_of_that_name_proves_nothing() -> None:
    ours = FileIdentity(1, 2, 4, 99)
    assert presence_of(ours, ours) is Presence.SAME
    assert presence_of(ours, replace(ours, head_crc64nvme=98)) is Presence.SAME  # the daemon asks the bytes
    assert presence_of(ours, replace(ours, file_ino=3)) is Presence.OTHER
    assert presence_of(ours, replace(ours, file_ino=3, file_dev=7)) is Presence.NOT_SEEN


async def failed_stream(world: World, daemon: WorldDaemon, code: str) -> str:
    """A stream of six parts that fails for good with its third; returns its id."""
    world.append(6 * WORLD_PART)
    third = world.endpoint.faults.arm(Fault(Kind.ERROR, "UploadPart", code=code, times=None, part_number=3))
    daemon.seen()
    (checkpoint,) = await until_idle(world, *FAILED)
    world.endpoint.faults.disarm(third)
    return checkpoint.meta.stream_id


async def test_a_kept_upload_goes_on_and_no_recorded_part_is_sent_again(world: World, context: CommandContext) -> None:
    async with world.daemon() as daemon:
        stream = await failed_stream(world, daemon, "AccessDenied")
        before = len((await world.checkpoints())[0].parts)
        sent = world.endpoint.log.calls["UploadPart"]
        assert await retry_streams(context, [stream[:8]], every=False, as_json=False) is ExitCode.DONE
        daemon.closed()
        (checkpoint,) = await completed(world)
    assert checkpoint.meta.stream_id == stream
    assert world.endpoint.log.calls["UploadPart"] - sent == 6 - before
    assert world.recordings() == [world.content()]
    assert world.open_uploads() == []


async def test_a_stream_whose_upload_was_lost_starts_over(world: World, context: CommandContext) -> None:
    async with world.daemon() as daemon:
        stream = await failed_stream(world, daemon, "AccessDenied")
        assert await context.store.acquire(stream, context.lease)
        (before,) = await world.checkpoints()
        lost = replace(before.meta, status=Status.FAILED_UPLOAD_LOST, uploads_restarted=6)
        world.store._streams[stream] = replace(world.store._streams[stream], meta=lost)
        await context.s3.abort_multipart_upload(before.meta.s3_key_prefix, before.meta.s3_upload_id or "")
        await context.store.release([stream], context.lease)
        assert (await retry_stream(context, stream)).way is RetryPath.START_OVER
        (checkpoint,) = await completed(world)
    assert checkpoint.meta.uploads_restarted == 0
    assert world.recordings() == [world.content()]


async def test_only_the_metadata_is_written_again_where_the_object_exists(
    world: World, context: CommandContext
) -> None:
    world.append(2 * WORLD_PART)
    # Of this one object: what the probe is refused too would be an outage, and end no stream.
    of_metadata = Fault(
        Kind.ERROR,
        "PutObject",
        code="AccessDenied",
        times=None,
        predicate=lambda call: (call.key or "").endswith(METADATA_SUFFIX),
    )
    fault = world.endpoint.faults.arm(of_metadata)
    async with world.daemon() as daemon:
        daemon.closed()
        (checkpoint,) = await until_idle(world, *FAILED)
        world.endpoint.faults.disarm(fault)
        Path(world.path()).unlink()
        assert (await retry_stream(context, checkpoint.meta.stream_id)).way is RetryPath.FINISH
        await completed(world)
    assert world.endpoint.log.calls["CompleteMultipartUpload"] == 1
    assert len(world.objects()) == 2


async def test_a_recording_that_is_gone_or_replaced_is_reported_and_nothing_is_changed(
    world: World, context: CommandContext
) -> None:
    async with world.daemon() as daemon:
        stream = await failed_stream(world, daemon, "AccessDenied")
    before = world.store.snapshot()
    Path(world.path()).rename(world.path("elsewhere"))
    assert "its recording is gone" in (await retry_stream(context, stream)).says
    world.append(WORLD_PART, "b.mp4")
    Path(world.path("b.mp4")).rename(world.path())
    assert "another file" in (await retry_stream(context, stream)).says
    assert world.store.snapshot() == before
    path = world.path()
    await world.store.create(a_stream(7, path), DAEMON, replaced_stream_id=stream)
    assert "belongs to a newer stream" in (await retry_stream(context, stream)).says


async def test_a_stream_with_a_held_lease_is_left_alone(world: World, context: CommandContext) -> None:
    await world.store.create(a_stream(status=Status.FAILED_UNEXPECTED), DAEMON)
    before = world.store.snapshot()
    assert (await retry_stream(context, stream_id(1))).way is None
    assert world.store.snapshot() == before


async def test_all_leaves_alone_what_was_aborted_by_a_command_and_what_was_deleted(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    statuses = [Status.FAILED_ABORTED, Status.DELETED_LOCALLY, Status.FAILED_S3_REFUSED, Status.FAILED_UNEXPECTED]
    for number, status in enumerate(statuses):
        await world.store.create(a_stream(number, f"/elsewhere/{number}", status=status), DAEMON)
    await world.store.release([stream_id(number) for number in range(4)], DAEMON)
    assert await retry_streams(context, [], every=True, as_json=False) is ExitCode.DONE
    assert await world.store.members(StreamSet.ACTIVE) == {stream_id(2), stream_id(3)}
    assert await retry_streams(context, [], every=True, as_json=False) is ExitCode.DONE
    assert capsys.readouterr().out.endswith("No failed streams.\n")
    assert (
        await retry_streams(context, [stream_id(0), stream_id(1)], every=False, as_json=False) is ExitCode.ANSWER_IS_NO
    )
    assert stream_id(0) in await world.store.members(StreamSet.ACTIVE)


@pytest.mark.parametrize("operation", ["acquire", "load", "find_by_path", "transition", "release"])
@pytest.mark.parametrize("moment", list(Moment))
async def test_cancelled_at_any_call_it_has_come_back_or_not_and_no_lease_is_left(
    world: World, context: CommandContext, operation: str, moment: Moment
) -> None:
    await world.store.create(a_stream(status=Status.FAILED_UNEXPECTED), DAEMON)
    await world.store.release([stream_id(1)], DAEMON)
    with trio.CancelScope() as scope:
        world.store.fault = fault = CancelledAt(scope, operation, moment)
        await retry_stream(context, stream_id(1))
    world.store.fault = None
    assert fault.hit
    assert await world.store.holders([stream_id(1)]) == {}
    (checkpoint,) = await world.checkpoints()
    assert checkpoint.meta.status in {Status.ACTIVE, Status.FAILED_UNEXPECTED}
    assert (checkpoint.stream_set is StreamSet.ACTIVE) == (checkpoint.meta.status is Status.ACTIVE)


async def test_retry_calls_no_s3(world: World, context: CommandContext) -> None:
    """From another machine, without S3 credentials: Redis is enough."""
    world.endpoint.faults.arm(Fault(Kind.ERROR, code="AccessDenied", times=None))
    with pytest.raises(S3OperationError):
        await context.s3.head_bucket()
    await world.store.create(a_stream(status=Status.FAILED_UNEXPECTED), DAEMON)
    await world.store.release([stream_id(1)], DAEMON)
    assert (await retry_stream(context, stream_id(1))).way is RetryPath.GO_ON


@pytest.mark.real
@pytest.mark.parametrize("arguments", [["retry"], ["retry", "--all", "x"]])
def test_a_selection_of_streams_is_required(arguments: list[str]) -> None:
    assert command(*arguments, code=2).stdout == ""


async def test_p9_a_failed_stream_of_another_host_is_not_brought_back_from_here(
    world: World, context: CommandContext
) -> None:
    """The file of its path here is another one, and says nothing of it."""
    await trio.sleep(1)
    mine = replace(context, ownership=Ownership("a"))
    mine.ownership.owner = Owner("a", "uuid:a", "/rec /")
    path = world.path()
    world.append(10)
    theirs = a_stream(1, path, status=Status.FAILED_UPLOAD_LOST, owner=Owner("b", "uuid:b", "/rec /"))
    await world.store.create(theirs, DAEMON)
    await world.store.release([stream_id(1)], DAEMON)
    before = world.known()
    plan = await retry_stream(mine, stream_id(1))
    assert plan.way is None
    assert "another host" in plan.says
    assert await retry_streams(mine, [], every=True, as_json=True) is ExitCode.DONE
    assert world.known() == before
