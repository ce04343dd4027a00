"""P6: each failure reason of a stream, provoked: logged once with its cause, and no other stream is affected.

``tests/provoked_failures.py`` has what is done to ``bad.mp4``. For ``aborted`` see ``tests/commands/test_abort.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from provoked_failures import BAD, GOOD, PROVOKED, Scene, ended, refuse
from structlog.testing import capture_logs

from cef_trio.checkpoint.memory import MemoryCheckpointStore
from cef_trio.checkpoint.model import Lease
from cef_trio.checkpoint.states import SENTENCES, FailureReason, Status, StreamSet
from cef_trio.exceptions import CefMp4ProcessorError, ChunkProcessingError, RedisOperationError, S3OperationError
from cef_trio.lab.world import PART, World
from cef_trio.resilience.best_effort import PAUSE_SECONDS
from cef_trio.s3_endpoint import Fault, Kind
from cef_trio.upload.failures import KEEPS_ITS_UPLOAD, ends_stream
from cef_trio.upload.orphan_cleanup import PERIOD_SECONDS

PERMISSION_DENIED = RedisOperationError("commit", "NOPERM")
PERMISSION_DENIED.rejected = True
REJECTED_BY_S3 = S3OperationError("upload_part", "AccessDenied", transient=False, code="AccessDenied")
REJECTED_BY_S3.rejected = True
NO_UPLOAD_WAS_OPENED = {FailureReason.S3_REFUSED, FailureReason.NO_SUCH_BUCKET}


def test_every_reason_is_provoked_here() -> None:
    assert set(PROVOKED) == set(FailureReason) - {
        FailureReason.ABORTED,
        FailureReason.FILE_UNREADABLE,  # of records that an earlier version wrote (test_unreadable_files.py)
    }


@pytest.mark.parametrize("reason", PROVOKED, ids=lambda reason: reason.value)
async def test_p6_a_permanent_failure_is_recorded_and_logged_once_and_harms_no_other_stream(
    world: World, monkeypatch: pytest.MonkeyPatch, reason: FailureReason
) -> None:
    world.append(5 * PART, BAD)
    world.append(2 * PART, GOOD)
    if reason is FailureReason.FILE_MISSING_ON_RESUME:
        async with world.daemon():
            await trio.sleep(1)
        Path(world.path(BAD)).unlink()
    with capture_logs() as logs:
        async with world.daemon() as daemon:
            await PROVOKED[reason](Scene(world, daemon, monkeypatch))
            daemon.closed(GOOD)
            failed = await ended(world, Status.failed(reason), BAD)
            await ended(world, Status.COMPLETED, GOOD)
    assert failed.stream_set is StreamSet.FAILED
    assert (failed.meta.failure_reason or "").startswith(f"{SENTENCES[reason]} ")
    (said,) = [entry for entry in logs if entry["event"] == "stream_failed"]
    assert said["reason"] == reason.value
    assert isinstance(said["exc_info"], Exception), "with its traceback and its causes"
    assert [entry["event"] for entry in logs if entry["log_level"] in {"error", "critical"}] == ["stream_failed"]
    assert str(said["exc_info"]) == said["error"]
    assert said["error"] in (failed.meta.failure_reason or "")
    kept = reason in KEEPS_ITS_UPLOAD - NO_UPLOAD_WAS_OPENED
    assert (failed.meta.s3_key_prefix in world.open_uploads()) is kept
    assert world.content(GOOD) in world.recordings()


async def test_p6_a_failure_that_cannot_be_recorded_yet_is_logged_once_and_recorded_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.append(2 * PART, BAD)
    transition, refusals = MemoryCheckpointStore.transition, 0

    async def down_for_failures(
        store: MemoryCheckpointStore, stream_id: str, lease: Lease, *args: Any, **options: Any
    ) -> None:
        nonlocal refusals
        if args[0] is Status.FAILED_S3_UPLOAD and refusals < 5:
            refusals += 1
            raise RedisOperationError("transition", "timed out", transient=True)
        await transition(store, stream_id, lease, *args, **options)

    monkeypatch.setattr(MemoryCheckpointStore, "transition", down_for_failures)
    with capture_logs() as logs:
        async with world.daemon() as daemon:
            await refuse("UploadPart", "KeyTooLongError")(Scene(world, daemon, monkeypatch))
            await ended(world, Status.FAILED_S3_UPLOAD, BAD)
    assert refusals == 5
    assert [entry["event"] for entry in logs].count("stream_failed") == 1


@pytest.mark.parametrize(
    "reason", [FailureReason.FILE_MISSING_ON_RESUME, FailureReason.FILE_REPLACED, FailureReason.FILE_TOO_LARGE]
)
async def test_p6_a_failure_is_recorded_though_s3_denies_the_abort_of_its_upload(
    world: World, monkeypatch: pytest.MonkeyPatch, reason: FailureReason
) -> None:
    """As a policy without s3:AbortMultipartUpload does; the cleanup aborts it once that is allowed."""
    world.append(2 * PART, BAD)
    async with world.daemon() as daemon:
        daemon.seen(BAD)
        await trio.sleep(1)
    if reason is FailureReason.FILE_MISSING_ON_RESUME:
        Path(world.path(BAD)).unlink()
    else:
        world.append(3 * PART, BAD)
    denied = Fault(Kind.ERROR, "AbortMultipartUpload", code="AccessDenied", times=None)
    armed = world.endpoint.faults.arm(denied)
    with capture_logs() as logs:
        async with world.daemon() as daemon:
            await PROVOKED[reason](Scene(world, daemon, monkeypatch))
            failed = await ended(world, Status.failed(reason), BAD)
            assert failed.stream_set is StreamSet.FAILED
            assert (failed.meta.failure_reason or "").startswith(f"{SENTENCES[reason]} ")
            assert "AccessDenied" in (failed.meta.failure_reason or "")
            await trio.sleep(120)
            assert [line["event"] for line in logs if line["log_level"] == "error"] == ["stream_failed"]
            assert failed.meta.s3_key_prefix in world.open_uploads()
            world.endpoint.faults.disarm(armed)
            await trio.sleep(PAUSE_SECONDS + PERIOD_SECONDS)
            assert failed.meta.s3_key_prefix not in world.open_uploads()


async def test_p5_a_recording_is_recorded_as_deleted_though_s3_denies_the_abort_of_its_upload(world: World) -> None:
    """As a failed one it would keep its upload."""
    world.append(2 * PART, BAD)
    armed = world.endpoint.faults.arm(Fault(Kind.ERROR, "AbortMultipartUpload", code="AccessDenied", times=None))
    async with world.daemon() as daemon:
        daemon.seen(BAD)
        await trio.sleep(1)
        Path(world.path(BAD)).unlink()
        daemon.gone(BAD)
        deleted = await ended(world, Status.DELETED_LOCALLY, BAD)
        assert "AccessDenied" in (deleted.meta.failure_reason or "")
        assert world.open_uploads()
        world.endpoint.faults.disarm(armed)
        await trio.sleep(PAUSE_SECONDS + PERIOD_SECONDS)
        assert world.open_uploads() == []


async def test_a_deleted_recording_does_not_count_as_replaced_by_a_file_that_reuses_its_inode(world: World) -> None:
    world.append(5 * PART, BAD)
    before = world.stat(BAD)
    async with world.daemon():
        await trio.sleep(1)
    Path(world.path(BAD)).unlink()
    world.append(2 * PART, GOOD)
    if world.stat(GOOD).inode != before.inode:
        pytest.skip("this file system does not give inodes out anew")
    async with world.daemon() as daemon:
        daemon.closed(GOOD)
        failed = await ended(world, Status.FAILED_FILE_MISSING_ON_RESUME, BAD)
        await ended(world, Status.COMPLETED, GOOD)
    assert world.path(BAD) in (failed.meta.failure_reason or ""), "not the other file"
    assert world.recordings() == [world.content(GOOD)]
    assert world.open_uploads() == []


async def test_p6_a_bug_in_saving_a_streams_end_is_logged_and_ends_no_other_task(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exit code reports that its state was not saved; the other stream's state is saved."""
    world.append(PART, BAD)
    world.append(PART, GOOD)
    with capture_logs() as logs:
        async with world.daemon() as daemon:
            world.endpoint.faults.arm(Fault(Kind.FREEZE, "UploadPart", times=None))
            await trio.sleep(1)
            ids = {Path(one.meta.original_path).name: one.meta.stream_id for one in world.known()}
            save = daemon.services.shutdown_flush.save

            async def bug(saving: Any) -> None:
                if saving.stream_id == ids[BAD]:
                    raise ZeroDivisionError("a bug")
                await save(saving)

            monkeypatch.setattr(daemon.services.shutdown_flush, "save", bug)
            daemon.shutdown.request()
            daemon.shutdown.request()
    assert daemon.services.shutdown_flush.unsaved == {ids[BAD]}
    assert [entry["event"] for entry in logs].count("stream_task_failed") == 1
    statuses = {one.meta.stream_id: one.meta.status for one in world.known()}
    assert statuses == {ids[BAD]: Status.ACTIVE, ids[GOOD]: Status.INTERRUPTED_CANCELLED}


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (S3OperationError("upload_part", "timeout", transient=True), False),
        (S3OperationError("upload_part", "AccessDenied", transient=False, code="AccessDenied"), True),
        (S3OperationError("upload_part", "NoSuchUpload", transient=False, code="NoSuchUpload"), False),
        (S3OperationError("complete_multipart_upload", "InvalidPart", transient=False, code="InvalidPart"), False),
        (PERMISSION_DENIED, False),
        (REJECTED_BY_S3, False),
        (RedisOperationError("commit", "WRONGTYPE", transient=False), True),
        (ChunkProcessingError("a disk error", transient=False), True),
    ],
)
def test_an_error_ends_a_stream_at_once_unless_it_may_pass_or_resuming_repairs_it(
    error: CefMp4ProcessorError, ends: bool
) -> None:
    assert ends_stream(error) is ends
