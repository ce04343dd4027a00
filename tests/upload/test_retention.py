"""Failed and deleted recordings are forgotten once their files are long gone; a kept upload is aborted before that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs
from waiting import until_idle

from cef_trio.checkpoint.model import Lease
from cef_trio.checkpoint.states import History, Status
from cef_trio.exceptions import S3OperationError
from cef_trio.lab.world import PART, World, WorldDaemon
from cef_trio.postprocess.retention import Retention
from cef_trio.s3_endpoint import Fault, Kind

MINUTE = 60.0
TWO_MINUTES = timedelta(minutes=2)


@asynccontextmanager
async def a_failed_recording(world: World) -> AsyncIterator[WorldDaemon]:
    """Its upload is complete but for the last call, and is kept for `retry`."""
    world.append(PART + 1)
    world.endpoint.faults.arm(Fault(Kind.ERROR, "CompleteMultipartUpload", code="EntityTooSmall", times=None))
    async with world.daemon() as daemon:
        daemon.closed()
        (checkpoint,) = await until_idle(world, Status.FAILED_FINALIZATION)
        await trio.sleep(1)
        assert world.open_uploads() == [checkpoint.meta.s3_key_prefix]
        yield daemon


async def test_p7_a_failed_stream_is_forgotten_when_its_file_was_gone_for_that_long(world: World) -> None:
    async with a_failed_recording(world) as daemon:
        retention = Retention(daemon.services, TWO_MINUTES)
        await trio.sleep(5 * MINUTE)
        assert await retention.forget_now() == 0  # its file is there
        Path(world.path()).unlink()
        assert await retention.forget_now() == 0  # it is gone since now
        await trio.sleep(MINUTE)
        assert await retention.forget_now() == 0
        assert len(world.open_uploads()) == 1
        await trio.sleep(2 * MINUTE)
        with capture_logs() as logs:
            assert await retention.forget_now() == 1
        assert world.open_uploads() == []
        assert await world.checkpoints() == []
        assert world.store._by_path == {}
        (named,) = [line for line in logs if line["event"] == "failed_stream_forgotten"]
        assert named["path"] == world.path()
        assert named["upload_id"]
        assert {"event": "streams_forgotten", "streams": 1, "failed": 1}.items() <= logs[-1].items()


async def test_failed_streams_may_have_a_retention_of_their_own(world: World) -> None:
    async with a_failed_recording(world) as daemon:
        longer = Retention(daemon.services, TWO_MINUTES, of_failed=timedelta(hours=1))
        shorter = Retention(daemon.services, timedelta(hours=1), of_failed=TWO_MINUTES)
        await trio.sleep(5 * MINUTE)
        Path(world.path()).unlink()
        assert await shorter.forget_now() == 0  # it is gone since now
        await trio.sleep(3 * MINUTE)
        assert await longer.forget_now() == 0
        assert await shorter.forget_now() == 1
        assert world.open_uploads() == []


async def test_p6_a_failed_stream_whose_file_came_back_is_kept_with_its_upload(world: World) -> None:
    async with a_failed_recording(world) as daemon:
        retention, aside = Retention(daemon.services, TWO_MINUTES), Path(world.path()).with_name("aside")
        await trio.sleep(5 * MINUTE)
        Path(world.path()).rename(aside)
        assert await retention.forget_now() == 0
        await trio.sleep(3 * MINUTE)
        aside.rename(world.path())
        assert await retention.forget_now() == 0  # it is there
        Path(world.path()).unlink()
        assert await retention.forget_now() == 0  # gone again, since now
        await trio.sleep(MINUTE)
        assert await retention.forget_now() == 0
        assert len(world.open_uploads()) == 1


@pytest.mark.parametrize("stuck", [0, 1])
async def test_p7_a_stream_whose_upload_cannot_be_aborted_keeps_no_other_one(world: World, stuck: int) -> None:
    for name in ("a.mp4", "b.mp4"):
        world.append(PART + 1, name)
    world.endpoint.faults.arm(Fault(Kind.ERROR, "CompleteMultipartUpload", code="EntityTooSmall", times=None))
    async with world.daemon() as daemon:
        for name in ("a.mp4", "b.mp4"):
            daemon.closed(name)
        await until_idle(world, Status.FAILED_FINALIZATION)
        keys = sorted(one.meta.s3_key_prefix for one in await world.checkpoints())
        for name in ("a.mp4", "b.mp4"):
            Path(world.path(name)).unlink()
        retention = Retention(daemon.services, TWO_MINUTES)
        await trio.sleep(5 * MINUTE)
        assert await retention.forget_now() == 0  # they are gone since now
        await trio.sleep(3 * MINUTE)
        down = world.endpoint.faults.arm(Fault(Kind.RESET, times=None))
        with pytest.raises(S3OperationError):
            await retention.forget_now()
        world.endpoint.faults.disarm(down)
        await trio.sleep(MINUTE)
        refused = Fault(Kind.ERROR, "AbortMultipartUpload", key=keys[stuck], status=500, times=None)
        armed = world.endpoint.faults.arm(refused)
        with capture_logs() as logs:
            assert await retention.forget_now() == 1
        assert world.open_uploads() == [keys[stuck]]
        (said,) = [line for line in logs if line["event"] == "retention_failed"]
        assert "InternalError" in said["error"]
        world.endpoint.faults.disarm(armed)
        await trio.sleep(MINUTE)  # until the lease of that attempt has expired
        assert await retention.forget_now() == 1
    assert world.open_uploads() == []


async def test_p9_an_upload_in_another_bucket_or_under_another_lease_is_not_aborted(world: World) -> None:
    async with a_failed_recording(world) as daemon:
        retention, other = Retention(daemon.services, TWO_MINUTES), Lease("other", "1", 10 * MINUTE)
        (checkpoint,) = await world.checkpoints()
        stream_id = checkpoint.meta.stream_id
        Path(world.path()).unlink()
        await trio.sleep(3 * MINUTE)
        assert await retention.forget_now() == 0
        await trio.sleep(3 * MINUTE)
        assert await world.store.acquire(stream_id, other)
        assert await retention.forget_now() == 0  # `retry` is at work
        await world.store.release([stream_id], other)
        stream = world.store._streams[stream_id]
        world.store._streams[stream_id] = replace(stream, meta=replace(stream.meta, s3_bucket="elsewhere"))
        assert await retention.forget_now() == 0
        world.store._streams[stream_id] = stream
        assert len(world.open_uploads()) == 1
        assert await retention.forget_now() == 1
        assert world.open_uploads() == []


async def test_p7_a_recording_that_was_deleted_is_forgotten_after_its_time(world: World) -> None:
    world.append(PART + 1)
    async with world.daemon() as daemon:
        daemon.seen()
        await trio.sleep(2)
        Path(world.path()).unlink()
        daemon.gone()
        await until_idle(world, Status.DELETED_LOCALLY)
        retention = Retention(daemon.services, TWO_MINUTES)
        assert await retention.forget_now() == 0
        assert (await world.store.count_ended())[History.DELETED] == 1
        await trio.sleep(3 * MINUTE)
        assert await retention.forget_now() == 1
        assert await world.checkpoints() == []


async def test_p3_what_was_in_a_watch_folder_that_is_missing_is_not_forgotten(world: World) -> None:
    """On the file system of its parent nothing else tells the folder from one of which the files were deleted."""
    async with a_failed_recording(world) as daemon:
        retention, away = Retention(daemon.services, TWO_MINUTES), world.folder.with_name("away")
        await trio.sleep(5 * MINUTE)
        world.folder.rename(away)
        for _ in range(2):
            assert await retention.forget_now() == 0
            await trio.sleep(5 * MINUTE)
        away.rename(world.folder)
        assert await retention.forget_now() == 0
        assert len(world.open_uploads()) == 1
        Path(world.path()).unlink()
        assert await retention.forget_now() == 0  # it is gone since now
        await trio.sleep(5 * MINUTE)
        assert await retention.forget_now() == 1


async def test_p8_a_time_before_the_streams_end_is_not_when_its_file_was_found_to_be_gone(world: World) -> None:
    """As the index has for a time that Redis cannot read, or for a stream whose record was written since."""
    async with a_failed_recording(world) as daemon:
        retention = Retention(daemon.services, TWO_MINUTES)
        (checkpoint,) = await world.checkpoints()
        await world.store.date(History.FAILED, checkpoint.meta.stream_id, 0)
        Path(world.path()).unlink()
        await trio.sleep(5 * MINUTE)
        assert await retention.forget_now() == 0  # it is gone since now
        await trio.sleep(MINUTE)
        assert await retention.forget_now() == 0
        assert len(world.open_uploads()) == 1
        await trio.sleep(2 * MINUTE)
        assert await retention.forget_now() == 1
