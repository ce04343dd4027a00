"""Uploads that stay open under the keys of ended streams are found, however late; others are never aborted."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from waiting import completed, until, until_idle

from cef_trio.checkpoint.commit import Change
from cef_trio.checkpoint.memory import Moment
from cef_trio.checkpoint.model import Lease
from cef_trio.checkpoint.states import Status
from cef_trio.lab.world import PART, World, WorldDaemon
from cef_trio.resilience.best_effort import PAUSE_SECONDS
from cef_trio.s3_endpoint import CallInfo, Fault, Kind
from cef_trio.upload.orphan_cleanup import PERIOD_SECONDS, OpenUpload

ROUND = PAUSE_SECONDS + PERIOD_SECONDS
ANOTHER = Lease("another", "token", 30.0)


async def _created(world: World, key: str) -> str:
    """A CreateMultipartUpload takes effect, and its response is lost."""
    async with world.foreign_client() as s3:
        return (await s3.create_multipart_upload(key, metadata={})).upload_id


async def test_p5_an_upload_that_is_created_after_its_streams_end_is_aborted(world: World) -> None:
    world.append(PART + 10)
    async with world.daemon() as daemon:
        daemon.closed()
        (checkpoint,) = await completed(world)
        await trio.sleep(2 * PAUSE_SECONDS)
        await _created(world, checkpoint.meta.s3_key_prefix)
        await trio.sleep(ROUND)
    assert world.open_uploads() == []
    assert world.recordings() == [world.content()]


async def test_p5_orphans_of_an_ended_daemon_are_aborted_by_the_next(world: World) -> None:
    world.append(PART + 10)
    async with world.daemon() as daemon:
        daemon.closed()
        (checkpoint,) = await completed(world)
    await _created(world, checkpoint.meta.s3_key_prefix)
    async with world.daemon():
        await trio.sleep(2 * PAUSE_SECONDS)
    assert world.open_uploads() == []


async def test_p5_what_a_daemon_that_was_killed_while_it_probed_left_open_is_aborted(world: World) -> None:
    async with world.daemon() as daemon:
        template = daemon.services.rules.key_template
        for key in (template.probe_key, template.probe_recording_key):
            await _created(world, key)
        await trio.sleep(2 * PAUSE_SECONDS)
        assert len(world.open_uploads()) == 2, "a probe of another daemon may use them"
        await trio.sleep(2 * PAUSE_SECONDS)
        assert world.open_uploads() == []


async def test_p9_the_uploads_of_live_streams_and_of_those_that_redis_does_not_know_stay(world: World) -> None:
    unrelated = f"streams/{'0' * 8}-0000-4000-8000-{'0' * 12}/a.mp4"
    world.stream_timeout_seconds = 10 * ROUND
    world.append(PART + 10)
    async with world.daemon() as daemon:
        await trio.sleep(1)
        (checkpoint,) = world.known()
        for key in (unrelated, "streams/notes.txt", "elsewhere/a.mp4"):
            await _created(world, key)
        await trio.sleep(2 * ROUND)
        assert sorted(world.open_uploads()) == sorted(
            [checkpoint.meta.s3_key_prefix, unrelated, "streams/notes.txt", "elsewhere/a.mp4"]
        )
        daemon.closed()
        await completed(world)


async def test_an_upload_of_a_stream_that_is_retried_during_the_cleanup_stays(world: World) -> None:
    """A failed stream is retried and opens another upload after the listing and before its lease was acquired."""
    armed = world.endpoint.faults.arm(Fault(Kind.ERROR, "UploadPart", times=None, code="KeyTooLongError"))
    world.append(PART + 10)
    async with world.daemon():
        (checkpoint,) = await until_idle(world, Status.FAILED_S3_UPLOAD)
    world.endpoint.faults.disarm(armed)
    stream_id = checkpoint.meta.stream_id
    newer = await _created(world, checkpoint.meta.s3_key_prefix)
    retried: list[str] = []

    async def retry(called: str, at: Moment) -> None:
        await trio.lowlevel.checkpoint()
        if (called, at) == ("acquire", Moment.BEFORE) and not retried:
            retried.append(stream_id)
            await world.store.acquire(stream_id, ANOTHER)
            await world.store.transition(stream_id, ANOTHER, Status.ACTIVE, Change({"s3_upload_id": newer}))
            await world.store.release([stream_id], ANOTHER)

    world.store.fault = retry
    async with world.daemon() as daemon:
        await trio.sleep(2 * PAUSE_SECONDS)
        assert retried
        daemon.closed()
        await completed(world)
    assert world.open_uploads() == []
    assert world.recordings() == [world.content()]


async def test_a_store_that_refuses_to_list_uploads_is_named_once(world: World) -> None:
    world.endpoint.faults.arm(Fault(Kind.ERROR, "ListMultipartUploads", times=None, code="NotImplemented"))
    with capture_logs() as lines:
        async with world.daemon():
            await trio.sleep(3 * ROUND)
    assert [line["event"] for line in lines].count("orphan_listing_failed") == 1


async def _two_orphans(world: World) -> list[str]:
    """Leave an open upload under the key of each of two completed recordings; return the keys."""
    names = ("a.mp4", "b.mp4")
    for name in names:
        world.append(PART + 10, name)
    async with world.daemon() as daemon:
        for name in names:
            daemon.closed(name)
        keys = sorted(one.meta.s3_key_prefix for one in await completed(world))
    for key in keys:
        await _created(world, key)
    return keys


@pytest.mark.parametrize("answer", [{"code": "InternalError", "status": 500}, {"code": "AccessDenied"}])
async def test_p5_an_orphan_that_cannot_be_aborted_keeps_no_other_one(world: World, answer: dict[str, Any]) -> None:
    keys = await _two_orphans(world)
    assert world.open_uploads() == keys  # in the order in which they are listed
    stuck = world.endpoint.faults.arm(Fault(Kind.ERROR, "AbortMultipartUpload", key=keys[0], times=None, **answer))
    with capture_logs() as lines:
        async with world.daemon():
            await trio.sleep(2 * PAUSE_SECONDS)
            assert world.open_uploads() == keys[:1]
            listed = world.endpoint.log.calls["ListMultipartUploads"]
            await trio.sleep(PERIOD_SECONDS - 2 * PAUSE_SECONDS)
            assert world.endpoint.log.calls["ListMultipartUploads"] == listed  # no sooner than without it
            world.endpoint.faults.disarm(stuck)
            await trio.sleep(ROUND)
    assert world.open_uploads() == []
    assert {line["key"] for line in lines if line["event"] == "orphan_abort_failed"} == {keys[0]}


async def test_an_outage_ends_the_cleanup_and_it_is_tried_again_soon_after(world: World) -> None:
    keys = await _two_orphans(world)
    aborts: list[str | None] = []

    def from_the_first_abort_on(call: CallInfo) -> bool:
        if call.operation == "AbortMultipartUpload":
            aborts.append(call.key)
        return bool(aborts)

    down = world.endpoint.faults.arm(Fault(Kind.RESET, times=None, predicate=from_the_first_abort_on))
    async with world.daemon():
        await until(lambda: aborts, 2 * PAUSE_SECONDS)
        await trio.sleep(5 * PAUSE_SECONDS)
        assert set(aborts) == {keys[0]}
        world.endpoint.faults.disarm(down)
        await trio.sleep(3 * PAUSE_SECONDS)
    assert world.open_uploads() == []


async def _probe_uploads(world: World, daemon: WorldDaemon, count: int = 1) -> None:
    """Uploads that killed daemons left while they probed."""
    for _ in range(count):
        await _created(world, daemon.services.rules.key_template.probe_key)


@pytest.mark.parametrize("how", [{"kind": Kind.ERROR, "code": "AccessDenied"}, {"kind": Kind.RESET}])
async def test_an_upload_of_a_probe_that_s3_does_not_abort_is_tried_once_a_period_and_told_once(
    world: World, how: dict[str, Any]
) -> None:
    """It was listed and tried every minute for ever."""
    hours = 1
    with capture_logs() as lines:
        async with world.daemon() as daemon:
            await _probe_uploads(world, daemon)
            stuck = world.endpoint.faults.arm(Fault(operation="AbortMultipartUpload", times=None, **how))
            await trio.sleep(3 * PAUSE_SECONDS)
            listed = world.endpoint.log.calls["ListMultipartUploads"]
            await trio.sleep(hours * 3600)
            assert world.endpoint.log.calls["ListMultipartUploads"] - listed <= hours * 3600 / PERIOD_SECONDS
            world.endpoint.faults.disarm(stuck)
            await trio.sleep(ROUND)
    assert world.open_uploads() == []
    assert [line["event"] for line in lines].count("orphan_abort_failed") == 1


async def test_an_upload_left_that_s3_does_not_abort_is_tried_once_a_period_though_listings_are_tried_each_minute(
    world: World,
) -> None:
    keys = await _two_orphans(world)
    (stream_id,) = [one.meta.stream_id for one in world.known() if one.meta.s3_key_prefix == keys[0]]
    world.endpoint.faults.arm(Fault(Kind.RESET, "ListMultipartUploads", times=None))
    refused = world.endpoint.faults.arm(Fault(Kind.ERROR, "AbortMultipartUpload", times=None, code="NotImplemented"))
    async with world.daemon() as daemon:
        daemon.services.orphan_cleanup.leave(OpenUpload(stream_id, keys[0], "some id"))
        await trio.sleep(2 * PAUSE_SECONDS)
        before = refused.hits
        assert before
        await trio.sleep(3600)
        assert refused.hits - before <= before * 3600 / PERIOD_SECONDS


async def test_an_outage_that_begins_with_the_abort_of_a_probes_upload_ends_the_round(world: World) -> None:
    aborts = 0

    def from_the_first_abort_on(call: CallInfo) -> bool:
        nonlocal aborts
        aborts += call.operation == "AbortMultipartUpload"
        return aborts > 0

    with capture_logs() as lines:
        async with world.daemon() as daemon:
            await _probe_uploads(world, daemon, 3)
            down = world.endpoint.faults.arm(Fault(Kind.RESET, times=None, predicate=from_the_first_abort_on))
            await until(lambda: aborts, 5 * PAUSE_SECONDS)
            await trio.sleep(30)
            world.endpoint.faults.disarm(down)
            await trio.sleep(3 * PAUSE_SECONDS)
    assert world.open_uploads() == []
    assert [line["event"] for line in lines].count("orphan_abort_failed") == 1


async def test_p5_uploads_left_that_get_no_answer_do_not_keep_what_s3_lists(world: World) -> None:
    """They were tried before the listing, each for half a lease, and a time-out was not told."""
    keys = await _two_orphans(world)
    stream_id = next(one.meta.stream_id for one in world.known() if one.meta.s3_key_prefix == keys[0])
    world.endpoint.faults.arm(
        Fault(Kind.FREEZE, "AbortMultipartUpload", times=None, predicate=lambda call: call.key == "left")
    )
    with capture_logs() as lines:
        async with world.daemon() as daemon:
            for number in range(100):
                daemon.services.orphan_cleanup.leave(OpenUpload(stream_id, "left", str(number)))
            await trio.sleep(2 * PAUSE_SECONDS)
            assert world.open_uploads() == []
            await trio.sleep(PERIOD_SECONDS)
            later = await _created(world, keys[0])
            assert later
            await trio.sleep(2 * ROUND)
            assert world.open_uploads() == []
            await trio.sleep(8 * ROUND)
    told = [line["upload_id"] for line in lines if line["event"] == "orphan_abort_failed"]
    assert sorted(told, key=int) == [str(number) for number in range(100)], "each had its turn, and is told once"
