"""``abort``: S3 and Redis both know, the recording is untouched, and a daemon that works is not disturbed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from servers.stream_records import DAEMON, a_stream, stream_id
from store_faults import CancelledAt
from waiting import begun, completed, until

from cef_trio.checkpoint.commit import Change
from cef_trio.checkpoint.memory import Moment
from cef_trio.checkpoint.model import Checkpoint
from cef_trio.checkpoint.states import ENDED, FAILED, Status, StreamSet
from cef_trio.cli.abort import abort_streams, why_not
from cef_trio.cli.fleet import retire
from cef_trio.cli.retry import retry_stream
from cef_trio.cli.retry_plan import RetryPath
from cef_trio.cli.session import CommandContext
from cef_trio.exceptions import RedisOperationError, S3OperationError
from cef_trio.exit_codes import ExitCode
from cef_trio.lab.world import BUCKET, PART, World
from cef_trio.s3_endpoint import Fault, Kind


async def abort(context: CommandContext, *given: str, as_json: bool = False, wait_seconds: float = 30) -> ExitCode:
    return await abort_streams(context, given, wait_seconds=wait_seconds, as_json=as_json)


async def left_open(world: World) -> Checkpoint:
    """A stream of three parts whose daemon has gone."""
    async with world.daemon() as daemon:
        await begun(world, daemon, parts=3)
    (checkpoint,) = await world.checkpoints()
    assert (len(checkpoint.parts), len(world.open_uploads())) == (3, 1)
    return checkpoint


async def test_an_aborted_stream_is_gone_from_s3_and_stays_so_until_it_is_retried(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = await left_open(world)
    stream = checkpoint.meta.stream_id
    assert await abort(context, stream[:6], as_json=False) is ExitCode.DONE
    assert "3 parts discarded" in capsys.readouterr().out
    assert world.open_uploads() == []
    async with world.daemon() as daemon:
        world.append(PART)
        daemon.closed()
        await trio.sleep(120)
        (after,) = await world.checkpoints()
        assert (after.meta.status, after.meta.s3_upload_id) == (Status.FAILED_ABORTED, None)
        assert world.objects() == {}
        assert world.open_uploads() == []
        assert (await retry_stream(context, stream)).way is not None
        (again,) = await completed(world)
    assert again.meta.stream_id == stream
    assert world.recordings() == [world.content()]


async def test_a_live_stream_is_aborted_by_its_daemon_which_goes_on_with_the_others(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    world.append(3 * PART)
    world.append(2 * PART, "b.mp4")
    async with world.daemon() as daemon:
        daemon.seen()
        daemon.seen("b.mp4")
        await trio.sleep(1)
        a, b = sorted(await world.checkpoints(), key=lambda one: one.meta.current_path)
        assert await abort(context, a.meta.stream_id) is ExitCode.DONE
        assert "aborted by its daemon: 3 parts discarded in S3" in capsys.readouterr().out
        assert [key for key in world.open_uploads() if a.meta.stream_id in str(key)] == []
        assert await world.store.abort_requests() == frozenset()
        world.append(PART)  # it grows, and stays aborted
        daemon.closed()
        daemon.closed("b.mp4")
        await trio.sleep(120)
        found = {one.meta.stream_id: one.meta for one in await world.checkpoints()}
        assert (found[a.meta.stream_id].status, found[a.meta.stream_id].s3_upload_id) == (Status.FAILED_ABORTED, None)
        assert found[b.meta.stream_id].status is Status.COMPLETED
        assert len(found) == 2
        assert daemon.at_risk == ()
        assert (await retry_stream(context, a.meta.stream_id)).way is not None
        await completed(world)
    assert sorted(world.recordings()) == sorted([world.content(), world.content("b.mp4")])


async def test_several_live_streams_are_asked_for_at_once(world: World, context: CommandContext) -> None:
    names = ["a.mp4", "b.mp4", "c.mp4"]
    for name in names:
        world.append(2 * PART, name)
    async with world.daemon() as daemon:
        for name in names:
            daemon.seen(name)
        await trio.sleep(1)
        ids = [one.meta.stream_id for one in await world.checkpoints()]
        began = trio.current_time()
        assert await abort(context, *ids) is ExitCode.DONE
        assert trio.current_time() - began < 10
    assert {one.meta.status for one in await world.checkpoints()} == {Status.FAILED_ABORTED}
    assert world.open_uploads() == []


async def test_an_abort_during_an_outage_of_s3_is_carried_out_when_it_ends_and_the_command_says_so(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    async with world.daemon() as daemon:
        live = await begun(world, daemon, parts=3)
        world.endpoint.faults.arm(Fault(Kind.ERROR, code="ServiceUnavailable", times=None))
        assert await abort(context, live.meta.stream_id) is ExitCode.ANSWER_IS_NO
        said = capsys.readouterr().out
        assert "not aborted yet: world" in said
        assert "works on it, and was asked to abort it" in said
        assert await world.store.abort_requests() == {live.meta.stream_id}
        world.endpoint.faults.clear()
        await trio.sleep(120)
        (after,) = await world.checkpoints()
        assert after.meta.status is Status.FAILED_ABORTED
        assert await world.store.abort_requests() == frozenset()
        assert world.open_uploads() == []


async def test_the_next_daemon_carries_out_what_a_killed_one_was_asked_for(
    world: World, context: CommandContext
) -> None:
    async with world.killed_daemon() as daemon:
        live = await begun(world, daemon, parts=3)
        assert await abort(context, live.meta.stream_id, wait_seconds=0) is ExitCode.ANSWER_IS_NO
        world.life.end()
    world.append(PART)
    async with world.daemon():
        await trio.sleep(60)
        (after,) = await world.checkpoints()
        assert after.meta.status is Status.FAILED_ABORTED
    assert (world.objects(), world.open_uploads()) == ({}, [])


async def test_the_command_aborts_itself_what_a_daemon_that_died_leaves(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    async with world.killed_daemon() as daemon:
        live = await begun(world, daemon, parts=3)
        world.life.end()
    assert await abort(context, live.meta.stream_id, wait_seconds=300) is ExitCode.DONE
    assert "aborted: 3 parts discarded in S3" in capsys.readouterr().out
    assert world.open_uploads() == []


async def test_a_stream_that_is_completed_meanwhile_stays_completed(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.daemon() as daemon:
        live = await begun(world, daemon, parts=3)
        monkeypatch.setattr(daemon.supervisor, "abort", lambda _ids: None)  # as of an earlier version
        daemon.closed()
        assert await abort(context, live.meta.stream_id) is ExitCode.ANSWER_IS_NO
        assert "its object is complete, so no upload is open" in capsys.readouterr().out
        await completed(world)
        assert await world.store.abort_requests() == frozenset()
    assert world.recordings() == [world.content()]


async def test_a_request_that_an_earlier_version_left_behind_is_withdrawn(world: World) -> None:
    world.append(PART)
    async with world.daemon() as daemon:
        daemon.closed()
        (done,) = await completed(world)
        world.store.note_abort_requests([done.meta.stream_id, stream_id(7)])
        await trio.sleep(20)
        assert await world.store.abort_requests() == frozenset()
    (after,) = await world.checkpoints()
    assert after.meta.status is Status.COMPLETED


@pytest.mark.parametrize("status", list(Status))
def test_what_can_be_aborted(status: Status) -> None:
    refused = {Status.DELETED_LOCALLY, Status.ABORTED_NO_PARTS}
    assert (why_not(a_stream(status=status, s3_upload_id="u"), "recordings") is None) == (status not in refused)
    complete = a_stream(status=status, object_etag="e", s3_upload_id="u")
    is_open_or_half_aborted = status not in ENDED or status is Status.FAILED_ABORTED
    assert (why_not(complete, "recordings") is None) == is_open_or_half_aborted
    assert why_not(a_stream(status=status), "another-bucket") is not None


@pytest.mark.parametrize("status", [Status.S3_COMPLETED, Status.RETRYING])
async def test_a_stream_that_lacks_only_its_metadata_is_ended_its_object_stays_and_its_owner_can_be_retired(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str], status: Status
) -> None:
    world.append(3 * PART)
    async with world.killed_daemon() as daemon:
        world.endpoint.faults.arm(Fault(Kind.ERROR, "PutObject", code="SlowDown", times=None))
        daemon.closed()
        await trio.sleep(20)
        (left,) = await world.checkpoints()
        assert left.meta.object_etag is not None
        world.life.end()
    await trio.sleep(120)
    stream = left.meta.stream_id
    assert await world.store.acquire(stream, DAEMON)
    if status is not left.meta.status:
        await world.store.transition(stream, DAEMON, status, Change())
    await world.store.release([stream], DAEMON)
    objects = world.objects()
    assert await retire(context, forget_history=False, as_json=False) is ExitCode.ANSWER_IS_NO
    assert "1 stream open" in capsys.readouterr().out
    assert await abort(context, stream, as_json=False) is ExitCode.DONE
    assert f"ended: its object is complete and stays: {left.meta.s3_key_prefix}" in capsys.readouterr().out
    (after,) = await world.checkpoints()
    assert (after.meta.status, after.stream_set) == (Status.FAILED_ABORTED, StreamSet.FAILED)
    assert after.meta.object_etag == left.meta.object_etag
    assert "Its object is complete in S3 and stays" in (after.meta.failure_reason or "")
    assert world.objects() == objects
    assert await abort(context, stream, as_json=False) is ExitCode.ANSWER_IS_NO
    assert await retire(context, forget_history=False, as_json=False) is ExitCode.DONE
    world.endpoint.faults.clear()
    assert (await retry_stream(context, stream)).way is RetryPath.FINISH
    async with world.daemon():
        await completed(world)
    assert world.recordings() == [world.content()]


async def test_a_failed_streams_kept_upload_is_aborted_and_its_failure_is_still_recorded(
    world: World, context: CommandContext
) -> None:
    key = f"streams/{stream_id(1)}/a.mp4"
    created = await context.s3.create_multipart_upload(key, metadata={})
    stray = await context.s3.create_multipart_upload(key, metadata={})
    assert stray.upload_id != created.upload_id
    status = Status.FAILED_ACCESS_DENIED
    meta = a_stream(status=status, failure_reason="no.", s3_upload_id=created.upload_id, s3_bucket=BUCKET)
    await world.store.create(meta, DAEMON)
    await world.store.release([stream_id(1)], DAEMON)
    assert await abort(context, stream_id(1), as_json=True) is ExitCode.DONE
    (checkpoint,) = await world.checkpoints()
    assert (checkpoint.meta.status, checkpoint.stream_set) == (Status.FAILED_ABORTED, StreamSet.FAILED)
    assert (checkpoint.meta.failure_reason or "").endswith("Before that: no.")
    assert world.open_uploads() == []
    assert await abort(context, stream_id(1), as_json=True) is ExitCode.ANSWER_IS_NO


async def test_what_s3_refused_to_abort_is_still_named_by_redis_and_the_command_may_be_repeated(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = await left_open(world)
    fault = world.endpoint.faults.arm(Fault(Kind.ERROR, "AbortMultipartUpload", code="AccessDenied", times=None))
    with pytest.raises(S3OperationError):
        await abort(context, checkpoint.meta.stream_id, as_json=False)
    (after,) = await world.checkpoints()
    assert (after.meta.status, after.meta.s3_upload_id) == (Status.FAILED_ABORTED, checkpoint.meta.s3_upload_id)
    assert "repeat the command" in capsys.readouterr().out
    world.endpoint.faults.disarm(fault)
    assert await abort(context, checkpoint.meta.stream_id, as_json=False) is ExitCode.DONE
    assert world.open_uploads() == []


async def test_one_that_s3_refuses_to_abort_keeps_none_of_the_others_from_it(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    world.append(3 * PART)
    world.append(2 * PART, "b.mp4")
    async with world.daemon() as daemon:
        daemon.seen()
        daemon.seen("b.mp4")
        await trio.sleep(5)
    refused, other = sorted(await world.checkpoints(), key=lambda one: one.meta.current_path)
    key = refused.meta.s3_key_prefix
    world.endpoint.faults.arm(Fault(Kind.ERROR, "AbortMultipartUpload", key=key, code="AccessDenied", times=None))
    with pytest.raises(S3OperationError, match="AccessDenied"):
        await abort(context, refused.meta.stream_id, other.meta.stream_id)
    assert f"{other.meta.stream_id}: aborted" in capsys.readouterr().out
    assert [key for key in world.open_uploads() if other.meta.stream_id in str(key)] == []


async def test_an_object_that_was_completed_unknown_to_redis_is_left_and_named(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    world.append(3 * PART)
    async with world.killed_daemon() as daemon:

        async def lose_the_record(operation: str, moment: Moment) -> None:
            if operation == "transition" and moment is Moment.BEFORE and world.objects():
                world.life.end()
                raise RedisOperationError(operation, "the process is dead")
            await trio.lowlevel.checkpoint()

        world.store.fault = lose_the_record
        daemon.closed()
        await trio.sleep(20)
    world.store.fault = None
    await trio.sleep(60)
    (checkpoint,) = await world.checkpoints()
    assert checkpoint.meta.object_etag is None
    assert await abort(context, checkpoint.meta.stream_id, as_json=False) is ExitCode.DONE
    assert "was already complete" in capsys.readouterr().out
    assert world.recordings() == [world.content()]


async def test_an_object_that_a_store_damaged_is_not_called_complete(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    world.append(PART - 10)
    world.endpoint.faults.arm(Fault(Kind.DAMAGE, "PutObject", times=None))
    async with world.daemon() as daemon:
        daemon.closed()
        await until(lambda: bool(world.recordings()))
    await trio.sleep(60)
    (checkpoint,) = await world.checkpoints()
    assert await abort(context, checkpoint.meta.stream_id, as_json=False) is ExitCode.DONE
    out = capsys.readouterr().out
    assert f"an object without its bytes is left, and may be deleted: {checkpoint.meta.s3_key_prefix}" in out


@pytest.mark.parametrize("operation", ["acquire", "load", "transition", "update", "release"])
@pytest.mark.parametrize("moment", list(Moment))
async def test_cancelled_at_any_call_no_lease_is_left_and_no_upload_is_unknown(
    world: World, context: CommandContext, operation: str, moment: Moment
) -> None:
    checkpoint = await left_open(world)
    stream = checkpoint.meta.stream_id
    with trio.CancelScope() as scope:
        world.store.fault = fault = CancelledAt(scope, operation, moment)
        await abort(context, stream, as_json=True)
    world.store.fault = None
    assert fault.hit
    assert await world.store.holders([stream]) == {}
    await sound_after(world, context, lambda: retry_stream(context, stream))


async def sound_after(world: World, context: CommandContext, retry: Callable[[], Awaitable[object]]) -> None:
    """Every open upload is one that Redis names; and the recording can still get to S3."""
    (checkpoint,) = await world.checkpoints()
    listed = await context.s3.list_multipart_uploads("")
    assert {upload.upload_id for upload in listed} <= {checkpoint.meta.s3_upload_id}
    if checkpoint.meta.status in FAILED:
        await retry()
    async with world.daemon() as daemon:
        daemon.closed()
        await completed(world)
    assert world.recordings() == [world.content()]


async def test_an_s3_that_is_silent_for_longer_than_the_lease_ends_the_command(
    world: World, context: CommandContext
) -> None:
    """Once its lease is over, a `retry` may have opened a new upload under the same key: that is not to be aborted."""
    checkpoint = await left_open(world)
    world.endpoint.faults.arm(Fault(Kind.FREEZE, "AbortMultipartUpload", times=None))
    began = trio.current_time()
    with pytest.raises(S3OperationError, match="while its stream was ours"):
        await abort(context, checkpoint.meta.stream_id, as_json=False)
    assert trio.current_time() < began + context.lease.ttl_seconds
    (after,) = await world.checkpoints()
    assert (after.meta.status, after.meta.s3_upload_id) == (Status.FAILED_ABORTED, checkpoint.meta.s3_upload_id)
