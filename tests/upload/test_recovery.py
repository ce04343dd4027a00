"""P2 to P6: after any loss of a reply, record or process, the stream continues, and no acknowledged part is resent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
from store_faults import KilledAt
from waiting import completed, until_idle

from cef_trio.checkpoint.memory import Moment as StoreMoment
from cef_trio.checkpoint.model import Lease
from cef_trio.checkpoint.states import Status, StreamSet
from cef_trio.exceptions import RedisOperationError
from cef_trio.exit_codes import ExitCode
from cef_trio.lab.disk import InlineDisk
from cef_trio.lab.world import PART, World
from cef_trio.s3_endpoint import CallInfo, Fault, Kind, Moment


async def finish(world: World) -> None:
    """A daemon without faults completes everything, and the object equals the file."""
    async with world.daemon() as daemon:
        daemon.closed()
        await completed(world)
        assert daemon.exit_code is None
    assert world.recordings() == [world.content()]
    assert world.open_uploads() == []


async def test_p2_after_a_kill_no_recorded_part_is_sent_again(world: World) -> None:
    world.append(6 * PART)
    async with world.killed_daemon():
        await trio.sleep(1)
        assert world.endpoint.log.calls["UploadPart"] == 6
    await finish(world)
    assert world.received_bytes() == 6 * PART


@pytest.mark.parametrize("grows_by", [PART, 3 * PART])
async def test_p1_parts_that_were_sent_after_the_verification_are_not_taken_for_what_was_verified(
    world: World, grows_by: int
) -> None:
    """Killed before Complete; then the file is patched, grows, is uploaded, and is deleted while no daemon runs."""
    world.append(2 * PART + 555)
    async with world.killed_daemon() as daemon:
        world.life.dies_at = None
        complete = world.endpoint.faults.arm(Fault(Kind.FREEZE, "CompleteMultipartUpload"))
        daemon.closed()
        await trio.sleep(5)
    world.endpoint.faults.clear()
    assert complete.hits == 1
    (checkpoint,) = await world.checkpoints()
    assert checkpoint.meta.verified_size_bytes == 2 * PART + 555
    versions = [world.content()]
    async with world.daemon() as daemon:
        world.patch(10, b"patched")
        world.append(grows_by)
        daemon.seen()
        await trio.sleep(5)
        versions.append(world.content())
    Path(world.path()).unlink()
    async with world.daemon():
        await trio.sleep(60)
    (checkpoint,) = await world.checkpoints()
    assert checkpoint.meta.status in {Status.FAILED_FILE_MISSING_ON_RESUME, Status.DELETED_LOCALLY}
    assert all(body in versions for body in world.recordings())


async def test_p2_a_part_whose_record_was_lost_is_adopted_and_not_sent_again(world: World) -> None:
    world.append(4 * PART)
    async with world.killed_daemon():
        world.store.fault = KilledAt(world, "record_part")
        await trio.sleep(1)
    world.store.fault = None
    (checkpoint,) = await world.checkpoints()
    assert len(checkpoint.parts) == 0
    sent = world.received_bytes()
    assert sent == 4 * PART
    await finish(world)
    assert world.received_bytes() == sent


@pytest.mark.parametrize("moment", [StoreMoment.BEFORE, StoreMoment.AFTER])
async def test_p5_a_kill_between_the_uploads_creation_and_its_record_leaves_no_orphan(
    world: World, moment: StoreMoment
) -> None:
    world.append(2 * PART)
    async with world.killed_daemon():
        world.store.fault = KilledAt(world, "update", moment)
        await trio.sleep(1)
    world.store.fault = None
    assert len(world.open_uploads()) == 1
    await finish(world)


async def test_p5_a_creation_whose_reply_was_lost_leaves_no_orphan(world: World) -> None:
    world.append(3 * PART)
    world.endpoint.faults.arm(Fault(Kind.RESET, "CreateMultipartUpload", Moment.REPLY))
    await finish(world)
    assert world.endpoint.log.calls["CreateMultipartUpload"] == 2


@pytest.mark.parametrize("kind", [Kind.RESET, Kind.TRUNCATE, Kind.ERROR_IN_200, Kind.EMPTY_ETAG])
async def test_p1_a_lost_or_false_response_of_complete_is_resolved_by_head_object(world: World, kind: Kind) -> None:
    world.append(3 * PART + 1)
    moment = Moment.BEFORE if kind in {Kind.EMPTY_ETAG, Kind.ERROR_IN_200} else Moment.REPLY
    armed = world.endpoint.faults.arm(Fault(kind, "CompleteMultipartUpload", moment))
    await finish(world)
    assert armed.hits >= 1


async def test_p3_a_kill_between_complete_and_its_record_is_noticed_by_the_next_start(world: World) -> None:
    world.append(3 * PART + 1)

    async def die(operation: str, at: StoreMoment) -> None:
        (checkpoint, *_) = world.store._streams.values() if world.store._streams else (None,)
        if (
            operation == "transition"
            and at is StoreMoment.BEFORE
            and checkpoint
            and checkpoint.meta.verified_size_bytes
        ):
            world.life.end()
            await trio.sleep_forever()

    async with world.killed_daemon() as daemon:
        world.store.fault = die
        daemon.closed()
        await trio.sleep(3)
    world.store.fault = None
    assert len(world.recordings()) == 1
    sent = world.received_bytes()
    await finish(world)
    assert world.received_bytes() == sent
    assert world.endpoint.log.calls["CreateMultipartUpload"] == 1


async def test_p5_a_store_that_forgot_everything_is_rebuilt_from_s3_and_the_file(world: World) -> None:
    world.append(5 * PART + 7)
    async with world.killed_daemon():
        await trio.sleep(1)
    (before,) = await world.checkpoints()
    world.store.clear()
    await finish(world)
    (after,) = await world.checkpoints()
    assert after.meta.stream_id == before.meta.stream_id
    assert world.received_bytes() == 5 * PART + 7


async def test_p5_an_upload_whose_bytes_are_no_files_is_left_alone(world: World) -> None:
    world.append(3 * PART)
    async with world.killed_daemon():
        await trio.sleep(1)
    (left,) = world.open_uploads()
    world.store.clear()
    Path(world.path()).unlink()
    world.append(3 * PART)  # other bytes under the same name
    async with world.daemon() as daemon:
        daemon.closed()
        await completed(world)
    assert world.recordings() == [world.content()]
    assert world.open_uploads() == [left]


async def test_a_running_daemon_notices_that_redis_lost_its_data_and_adopts_its_own_upload(world: World) -> None:
    world.append(3 * PART)
    async with world.daemon() as daemon:
        await trio.sleep(1)
        world.store.clear()
        world.append(2 * PART)
        daemon.seen()
        await trio.sleep(30)
        daemon.supervisor.handle_event(world.scan())
        daemon.closed()
        await completed(world)
    assert world.recordings() == [world.content()]
    assert world.open_uploads() == []
    assert world.endpoint.log.calls["CreateMultipartUpload"] == 1


async def test_a_store_that_lost_its_last_second_is_reconciled_with_s3(world: World) -> None:
    world.append(2 * PART)
    async with world.killed_daemon() as daemon:
        await trio.sleep(1)
        lost = world.store.snapshot()
        world.append(3 * PART)
        daemon.seen()
        await trio.sleep(1)
    world.store.restore(lost)
    await finish(world)
    assert world.received_bytes() == 5 * PART


async def test_p3_a_drained_stream_is_parked_and_goes_on(world: World) -> None:
    world.append(4 * PART)
    async with world.daemon() as daemon:
        await trio.sleep(1)
    assert daemon.exit_code is ExitCode.DONE
    (checkpoint,) = await world.checkpoints()
    assert checkpoint.meta.status is Status.INTERRUPTED_SHUTDOWN
    assert checkpoint.stream_set is StreamSet.ACTIVE
    await finish(world)
    assert world.received_bytes() == 4 * PART


async def test_p4_parts_in_flight_finish_within_the_grace_and_none_is_begun(world: World) -> None:
    world.append(20 * PART)
    world.endpoint.faults.arm(Fault(Kind.SLOW, "UploadPart", seconds=2, times=None))
    async with world.daemon() as daemon:
        await trio.sleep(1)
        began = trio.current_time()
        daemon.shutdown.request()
    assert trio.current_time() - began <= 2
    (checkpoint,) = await world.checkpoints()
    assert len(checkpoint.parts) == 4
    assert checkpoint.meta.status is Status.INTERRUPTED_SHUTDOWN


@pytest.mark.parametrize("operation", ["UploadPart", "CreateMultipartUpload", "CompleteMultipartUpload", "ListParts"])
async def test_p4_a_frozen_s3_does_not_hold_the_exit_and_the_state_is_saved(world: World, operation: str) -> None:
    world.append(3 * PART)
    if operation == "ListParts":
        async with world.killed_daemon():
            await trio.sleep(1)
    frozen = world.endpoint.faults.arm(Fault(Kind.FREEZE, operation, times=None))
    async with world.daemon() as daemon:
        daemon.closed()
        await trio.sleep(3)
        assert frozen.hits >= 1
        began = trio.current_time()
        daemon.shutdown.request()
    assert trio.current_time() - began <= world.grace_seconds + 2
    assert daemon.exit_code is ExitCode.DONE
    (checkpoint,) = await world.checkpoints()
    assert checkpoint.meta.status is Status.INTERRUPTED_CANCELLED
    world.endpoint.faults.disarm(frozen)
    await finish(world)


async def test_p4_a_second_request_skips_the_grace(world: World) -> None:
    world.append(3 * PART)
    world.endpoint.faults.arm(Fault(Kind.FREEZE, "UploadPart", times=None))
    async with world.daemon() as daemon:
        await trio.sleep(1)
        began = trio.current_time()
        daemon.shutdown.request()
        daemon.shutdown.request()
    assert trio.current_time() - began <= 2
    (checkpoint,) = await world.checkpoints()
    assert checkpoint.meta.status is Status.INTERRUPTED_CANCELLED


async def test_p4_two_hundred_streams_do_not_queue_behind_an_unreachable_redis(world: World) -> None:
    for number in range(200):
        world.append(PART // 2, f"{number:03}.mp4")
    async with world.daemon() as daemon:
        await trio.sleep(5)

        async def frozen(operation: str, moment: StoreMoment) -> None:
            if moment is StoreMoment.SENT:
                await trio.sleep_forever()

        world.store.fault = frozen
        began = trio.current_time()
        daemon.shutdown.request()
    assert trio.current_time() - began <= world.grace_seconds + 2 + 1
    assert daemon.exit_code is ExitCode.NOT_SAVED
    world.store.fault = None
    assert len(await world.checkpoints()) == 200


async def test_p6_an_outage_of_s3_for_an_hour_ends_no_stream(world: World) -> None:
    world.append(3 * PART)
    async with world.daemon() as daemon:
        down = world.endpoint.faults.arm(Fault(Kind.ERROR, "*", code="ServiceUnavailable", times=None))
        await trio.sleep(3600)
        calls = sum(world.endpoint.log.calls.values())
        assert calls < 2500
        world.endpoint.faults.disarm(down)
        daemon.closed()
        await completed(world, seconds=900)
    assert world.recordings() == [world.content()]


async def test_p6_an_outage_of_the_store_ends_no_stream_and_loses_no_part(world: World) -> None:
    world.append(3 * PART)
    async with world.daemon() as daemon:
        await trio.sleep(1)

        async def down(operation: str, moment: StoreMoment) -> None:
            if moment is StoreMoment.BEFORE:
                raise RedisOperationError(operation, "connection refused", transient=True)

        world.store.fault = down
        world.append(3 * PART)
        daemon.seen()
        await trio.sleep(300)
        world.store.fault = None
        daemon.closed()
        await completed(world)
    assert world.recordings() == [world.content()]
    assert world.received_bytes() == 6 * PART


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("AccessDenied", Status.FAILED_ACCESS_DENIED),
        ("NoSuchBucket", Status.FAILED_NO_SUCH_BUCKET),
        ("KeyTooLongError", Status.FAILED_S3_UPLOAD),
    ],
)
async def test_p6_a_permanent_rejection_fails_the_stream_with_its_reason_and_no_other(
    world: World, code: str, status: Status
) -> None:
    world.append(2 * PART, "bad.mp4")
    world.append(2 * PART, "good.mp4")
    async with world.daemon() as daemon:
        world.endpoint.faults.arm(
            Fault(
                Kind.ERROR,
                "UploadPart",
                code=code,
                times=None,
                predicate=lambda call: call.key is not None and call.key.endswith("/bad.mp4"),
            )
        )
        daemon.closed("bad.mp4")
        daemon.closed("good.mp4")
        await until_idle(world, status, Status.COMPLETED)
        found = {Path(checkpoint.meta.current_path).name: checkpoint for checkpoint in await world.checkpoints()}
    assert found["bad.mp4"].meta.status is status
    assert found["bad.mp4"].stream_set is StreamSet.FAILED
    assert code in (found["bad.mp4"].meta.failure_reason or "")
    assert found["good.mp4"].meta.status is Status.COMPLETED
    assert world.recordings() == [world.content("good.mp4")]


async def test_p6_a_bug_ends_its_own_stream_only_and_is_logged(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.append(2 * PART, "bad.mp4")
    world.append(2 * PART, "good.mp4")

    async def bug(path: str) -> None:
        if path.endswith("bad.mp4"):
            raise ZeroDivisionError("a bug")

    monkeypatch.setattr(World, "_has_writer", lambda _self, _host, path: bug(path))
    async with world.daemon() as daemon:
        daemon.closed("bad.mp4")
        daemon.closed("good.mp4")
        found = await until_idle(world, Status.FAILED_UNEXPECTED, Status.COMPLETED)
    assert {checkpoint.meta.status for checkpoint in found} == {Status.FAILED_UNEXPECTED, Status.COMPLETED}


async def test_an_upload_that_s3_lost_is_begun_again_and_fails_after_five_times(world: World) -> None:
    world.append(2 * PART)
    async with world.daemon() as daemon:
        await trio.sleep(1)
        for _ in range(6):
            for upload in list(world.endpoint.model._uploads.values()):
                await world.endpoint.model.abort("recordings", upload.upload.key, upload.upload.upload_id)
            world.append(PART)
            daemon.seen()
            await trio.sleep(world.stream_timeout_seconds / 2)
        (checkpoint,) = await world.checkpoints()
    assert checkpoint.meta.status is Status.FAILED_UPLOAD_LOST
    assert world.open_uploads() == []


async def test_a_part_that_fails_its_checksum_is_read_and_sent_anew(world: World) -> None:
    world.append(2 * PART)
    world.endpoint.faults.arm(Fault(Kind.ERROR, "UploadPart", code="BadDigest", part_number=2))
    await finish(world)
    assert world.endpoint.log.calls["UploadPart"] == 3


async def test_a_stale_list_of_parts_does_not_make_a_recorded_part_go_again(world: World) -> None:
    world.append(5 * PART)
    async with world.killed_daemon():
        await trio.sleep(1)
    world.endpoint.faults.arm(Fault(Kind.STALE_PARTS, "ListParts", times=None, count=3))
    await finish(world)
    assert world.received_bytes() == 5 * PART


@pytest.mark.parametrize("kind", [Kind.IGNORE_CHECKSUMS, Kind.REJECT_CHECKSUMS])
async def test_a_store_without_checksums_gets_md5(world: World, kind: Kind) -> None:
    world.endpoint.faults.arm(Fault(kind, "*", times=None))
    world.append(3 * PART + 1)
    await finish(world)
    (checkpoint,) = await world.checkpoints()
    assert checkpoint.meta.checksum_algorithm == "md5"


async def test_a_clock_that_is_off_by_an_hour_is_corrected(world: World) -> None:
    world.endpoint.faults.arm(Fault(Kind.SKEW, "*", times=None, seconds=3600))
    world.append(3 * PART + 1)
    await finish(world)


async def test_a_daemon_that_was_paused_past_its_lease_changes_nothing(world: World) -> None:
    """Another daemon has the stream now: our task ends without a write to the record."""
    world.append(2 * PART)
    async with world.daemon() as daemon:
        await trio.sleep(1)
        (before,) = await world.checkpoints()
        stream_id = before.meta.stream_id
        theirs = Lease("another-daemon", "its-token", 10_000.0)
        world.store._hold(stream_id, theirs)
        world.append(2 * PART)
        daemon.closed()
        await trio.sleep(60)
        (after,) = await world.checkpoints()
        assert after == before
        assert world.endpoint.log.calls["CompleteMultipartUpload"] == 0
        assert world.endpoint.log.calls["AbortMultipartUpload"] == 0
        assert stream_id not in {live.processor.stream_id for live in daemon.supervisor.live if live.processor.upload}
    assert await world.checkpoints() == [before]
    assert daemon.exit_code is ExitCode.DONE
    assert world.store._leases[stream_id].holder == theirs.value


async def test_streams_of_another_daemons_folder_are_left_alone(world: World, tmp_path: Path) -> None:
    world.append(PART)
    async with world.killed_daemon():
        await trio.sleep(1)
    (before,) = await world.checkpoints()
    elsewhere = World(tmp_path / "elsewhere")
    elsewhere.folder.mkdir()
    elsewhere.store, elsewhere.endpoint = world.store, world.endpoint
    async with elsewhere.daemon():
        await trio.sleep(60)
    assert await world.checkpoints() == [before]


async def test_p1_a_store_that_cannot_replace_a_part_gets_a_new_upload(world: World) -> None:
    """rclone forwards parts as they arrive, and answers 501 to a repeated one."""
    seen: set[tuple[str | None, int | None]] = set()

    def again(call: CallInfo) -> bool:
        known = (call.upload_id, call.part_number) in seen
        seen.add((call.upload_id, call.part_number))
        return known

    world.endpoint.faults.arm(
        Fault(Kind.ERROR, "UploadPart", code="NotImplemented", status=501, times=None, predicate=again)
    )
    world.append(5 * PART + 3)
    async with world.daemon() as daemon:
        await trio.sleep(1)
        world.patch(10, b"patched")
        daemon.closed()
        await completed(world)
    assert world.recordings() == [world.content()]
    assert world.open_uploads() == []
    assert world.endpoint.log.calls["CreateMultipartUpload"] == 2


async def test_a_file_whose_only_part_was_patched_while_no_daemon_ran_is_the_same_file(world: World) -> None:
    """Found by cancelling at every step: head and part changed, and only the inode's generation identifies the file."""
    world.append(PART + 100)
    async with world.killed_daemon():
        await trio.sleep(1)
    world.patch(5, b"patched")
    if await generation_of(world.path()) is None:
        pytest.skip("this file system does not report inode generations")
    await finish(world)
    (checkpoint,) = await world.checkpoints()
    assert checkpoint.meta.parts_rewritten == 1


async def test_p2_a_newer_copy_that_took_the_name_while_no_daemon_ran_goes_on_with_the_upload(world: World) -> None:
    world.append(3 * PART)
    async with world.killed_daemon():
        await trio.sleep(1)
    Path(world.path("a.tmp")).write_bytes(world.content() + os.urandom(PART + 7))
    Path(world.path("a.tmp")).replace(world.path())
    await finish(world)
    (checkpoint,) = await world.checkpoints()
    assert checkpoint.meta.parts_rewritten == 0
    assert world.endpoint.log.calls["UploadPart"] == 5


async def test_another_recording_that_only_begins_alike_does_not_go_on_with_the_upload(world: World) -> None:
    world.append(4 * PART)
    async with world.killed_daemon():
        await trio.sleep(1)
    Path(world.path("a.tmp")).write_bytes(world.content()[: 3 * PART] + os.urandom(2 * PART))
    Path(world.path("a.tmp")).replace(world.path())
    async with world.daemon():
        await trio.sleep(60)
        found = await until_idle(world, Status.COMPLETED, Status.FAILED_FILE_REPLACED)
    assert {checkpoint.meta.status for checkpoint in found} == {Status.COMPLETED, Status.FAILED_FILE_REPLACED}
    assert world.recordings() == [world.content()]
    assert world.open_uploads() == []


async def test_a_file_that_got_a_deleted_files_inode_is_another_file(world: World) -> None:
    world.append(3 * PART)
    async with world.daemon() as daemon:
        await trio.sleep(1)
        before = world.stat()
        Path(world.path()).unlink()
        world.append(4 * PART)
        if world.stat().inode != before.inode or await generation_of(world.path()) is None:
            pytest.skip("this file system does not reuse inodes, or does not report their generation")
        daemon.seen()
        daemon.closed()
        await trio.sleep(60)
        found = await until_idle(world, Status.COMPLETED, Status.FAILED_FILE_REPLACED)
    assert {checkpoint.meta.status for checkpoint in found} == {Status.COMPLETED, Status.FAILED_FILE_REPLACED}
    assert world.recordings() == [world.content()]
    assert world.open_uploads() == []


async def generation_of(path: str) -> int | None:
    async with InlineDisk().open(path) as recording:
        return recording.generation
