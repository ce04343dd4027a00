"""Uploads that nothing needs any more are aborted when S3 does that; no stream waits for it (kind 8; P5, P6)."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from failing_calls import FAILS, fail
from provoked_failures import BAD, ended
from waiting import completed, until_idle

from cef_trio.checkpoint.model import Checkpoint
from cef_trio.checkpoint.states import Status
from cef_trio.lab.world import PART, World
from cef_trio.resilience.best_effort import PAUSE_SECONDS
from cef_trio.s3_endpoint import CallInfo, Fault, Kind, Moment
from cef_trio.upload.orphan_cleanup import PERIOD_SECONDS

ROUND = PAUSE_SECONDS + PERIOD_SECONDS
GONE = (Status.DELETED_LOCALLY, Status.FAILED_FILE_MISSING_ON_RESUME)
"""How a stream ends whose recording is deleted; the second if S3 was down meanwhile."""


@pytest.mark.parametrize("how", FAILS)
async def test_p5_an_upload_whose_id_was_lost_keeps_no_recording_and_is_aborted_later(
    world: World, how: dict[str, object]
) -> None:
    fail(world, "AbortMultipartUpload", how)
    world.endpoint.faults.arm(Fault(Kind.RESET, "CreateMultipartUpload", Moment.REPLY, times=5))
    async with world.daemon() as daemon:
        world.append(2 * PART + 10)
        daemon.closed()
        (checkpoint,) = await completed(world, seconds=1800)
        assert checkpoint.meta.s3_key_prefix in world.open_uploads()
        world.endpoint.faults.clear()
        await trio.sleep(ROUND)
    assert world.recordings() == [world.content()]
    assert world.open_uploads() == []


@pytest.mark.parametrize("how", FAILS)
async def test_an_upload_that_s3_lost_is_begun_again_though_it_is_not_aborted(
    world: World, how: dict[str, object]
) -> None:
    world.append(3 * PART + 10)
    async with world.daemon() as daemon:
        daemon.seen()
        await trio.sleep(3)
        await world.abort_open_uploads()
        fail(world, "AbortMultipartUpload", how)
        daemon.closed()
        (checkpoint,) = await completed(world, seconds=1800)
    assert checkpoint.meta.uploads_restarted == 1
    assert world.recordings() == [world.content()]


async def deleted(world: World, how: dict[str, object], *, seconds: float = 1800) -> Checkpoint:
    """Delete a growing recording whose upload S3 does not abort, disarm that after some time, wait for the cleanup."""
    world.append(2 * PART, BAD)
    async with world.daemon() as daemon:
        daemon.seen(BAD)
        await trio.sleep(3)
        armed = world.endpoint.faults.arm(Fault(operation="AbortMultipartUpload", times=None, **how))  # type: ignore[arg-type]
        Path(world.path(BAD)).unlink()
        daemon.gone(BAD)
        (checkpoint,) = await until_idle(world, *GONE, seconds=seconds)
        assert "Its upload is left in S3" in (checkpoint.meta.failure_reason or "")
        await trio.sleep(ROUND)
        assert world.open_uploads()
        world.endpoint.faults.disarm(armed)
        await trio.sleep(ROUND)
    return checkpoint


@pytest.mark.parametrize("how", FAILS)
@pytest.mark.parametrize("listed", [True, False])
async def test_p5_a_deleted_recording_ends_though_its_upload_is_not_aborted_and_that_is_done_later(
    world: World, how: dict[str, object], *, listed: bool
) -> None:
    """Also where S3 does not list uploads, so that nothing else knows of it."""
    if not listed:
        fail(world, "ListMultipartUploads", {"kind": Kind.ERROR, "code": "NotImplemented"})
    await deleted(world, how)
    assert world.open_uploads() == []


@pytest.mark.parametrize("listed", [True, False])
async def test_p5_an_upload_that_was_started_over_is_aborted_once_its_stream_has_ended(
    world: World, *, listed: bool
) -> None:
    """rclone answers 501 to a part that is sent again, so the recording gets a new upload at its end."""
    sent: set[int | None] = set()

    def again(call: CallInfo) -> bool:
        repeated = call.part_number in sent
        sent.add(call.part_number)
        return repeated and len(sent) == 3

    if not listed:
        fail(world, "ListMultipartUploads", {"kind": Kind.ERROR, "code": "NotImplemented"})
    refused = world.endpoint.faults.arm(
        Fault(Kind.ERROR, "UploadPart", code="NotImplemented", status=501, times=5, predicate=again)
    )
    fail(world, "AbortMultipartUpload", {"kind": Kind.ERROR, "code": "InternalError"})
    world.append(3 * PART)
    async with world.daemon() as daemon:
        daemon.seen()
        await trio.sleep(3)
        world.patch(10, b"patched")
        daemon.closed()
        (checkpoint,) = await completed(world)
        assert refused.hits == 5
        assert world.open_uploads() == [checkpoint.meta.s3_key_prefix]
        await trio.sleep(ROUND)
        world.endpoint.faults.clear()
        if not listed:
            fail(world, "ListMultipartUploads", {"kind": Kind.ERROR, "code": "NotImplemented"})
        await trio.sleep(ROUND)
    assert world.recordings() == [world.content()]
    assert world.open_uploads() == []


async def test_p5_an_abort_is_repeated_after_an_outage_of_s3(world: World) -> None:
    """It is left only where S3 does the rest."""
    world.append(2 * PART, BAD)
    async with world.daemon() as daemon:
        daemon.seen(BAD)
        await trio.sleep(3)
        down = world.endpoint.faults.arm(Fault(Kind.RESET, times=None))
        Path(world.path(BAD)).unlink()
        daemon.gone(BAD)
        await trio.sleep(300)
        world.endpoint.faults.disarm(down)
        (checkpoint,) = await until_idle(world, *GONE)
        assert "left in S3" not in (checkpoint.meta.failure_reason or "")
        assert world.open_uploads() == []


async def test_p5_an_operators_abort_waits_until_s3_has_done_it(world: World) -> None:
    fail(world, "AbortMultipartUpload", {"kind": Kind.ERROR, "code": "InternalError"})
    world.append(2 * PART)
    async with world.daemon() as daemon:
        daemon.seen()
        await trio.sleep(3)
        (live,) = world.known()
        await world.store.request_abort([live.meta.stream_id])
        await trio.sleep(600)
        (live,) = world.known()
        assert live.meta.status is Status.RETRYING
        world.endpoint.faults.clear()
        aborted = await ended(world, Status.FAILED_ABORTED, "a.mp4")
        assert aborted.meta.s3_upload_id is None
        assert world.open_uploads() == []
