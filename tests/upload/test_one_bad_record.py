"""P6: a refusal of Redis for one stream, or of the disk for a forged path, delays no other recording."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import structlog.testing
import trio
from waiting import completed, until, uploaded

from cef_trio.checkpoint.model import Lease
from cef_trio.checkpoint.redis import Keys
from cef_trio.checkpoint.states import Status
from cef_trio.exceptions import ChunkProcessingError, RedisOperationError
from cef_trio.files.file_stat import FileStat
from cef_trio.files.file_system import Origin, file_system_named
from cef_trio.lab.world import PART, World
from cef_trio.observability.at_risk import Reason


def refuse_its_lease(world: World, stream_id: str) -> None:
    """Its lease is a list, by an operator's mistake. Redis answers each read with WRONGTYPE."""
    acquire = world.store.acquire

    async def refusing(asked: str, lease: object) -> bool:
        if asked == stream_id:
            raise RedisOperationError("acquire", "WRONGTYPE Operation against a key holding the wrong kind of value")
        return await acquire(asked, lease)  # type: ignore[arg-type]

    world.store.acquire = refusing  # type: ignore[method-assign, assignment]


async def test_p6_a_rename_that_redis_refuses_to_record_keeps_no_other_recording_waiting(world: World) -> None:
    world.append(PART + 10)
    async with world.daemon() as daemon:
        daemon.closed()
        (checkpoint,) = await completed(world)
        await trio.sleep(5)
        refuse_its_lease(world, checkpoint.meta.stream_id)
        Path(world.path("a.mp4")).rename(world.path("b.mp4"))
        daemon.moved("a.mp4", "b.mp4")
        world.append(7, "c.mp4")
        daemon.closed("c.mp4")
        await trio.sleep(60)
    assert world.content("c.mp4") in world.recordings()


async def test_p6_a_stream_without_a_task_that_redis_denies_keeps_no_other_from_being_resumed(world: World) -> None:
    """Whichever of them is looked up first."""
    names = [f"{number}.mp4" for number in range(4)]
    for name in names:
        world.append(PART + 10, name)
    async with world.daemon() as daemon:
        for name in names:
            daemon.seen(name)
        await trio.sleep(3)
    parked = world.known()
    assert {checkpoint.meta.status for checkpoint in parked} == {Status.INTERRUPTED_SHUTDOWN}
    for name in names:
        Path(world.path(name)).unlink()
    refused = parked[1].meta.stream_id
    refuse_its_lease(world, refused)
    async with world.daemon():
        await trio.sleep(60)
    assert {checkpoint.meta.stream_id for checkpoint in world.known() if checkpoint.stream_set.value == "active"} == {
        refused
    }


async def test_p6_a_record_of_another_folder_on_a_dead_disk_keeps_no_new_recording_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.append(PART + 10)
    async with world.daemon() as daemon:
        daemon.seen()
        await trio.sleep(3)
    (parked,) = world.known()
    stored = world.store._streams[parked.meta.stream_id]
    elsewhere = replace(stored, meta=replace(parked.meta, current_path="/mnt/dead/a.mp4"))
    world.store._streams[parked.meta.stream_id] = elsewhere
    world.store._by_path.clear()
    Path(world.path()).unlink()
    world.append(7, "c.mp4")
    async with world.services() as services:
        stat = type(services.disk).stat

    async def dead(self: object, path: str) -> FileStat | None:
        if path.startswith("/mnt/dead"):
            raise ChunkProcessingError("cannot look: input/output error", transient=True)
        return await stat(self, path)  # type: ignore[arg-type]

    monkeypatch.setattr(type(services.disk), "stat", dead)
    async with world.daemon() as daemon:
        daemon.closed("c.mp4")
        await trio.sleep(60)
    assert world.content("c.mp4") in world.recordings()


async def test_p7_a_stream_whose_end_redis_refuses_is_not_begun_more_and_more_often(world: World) -> None:
    """Each ended task checks its file after a second, and scans find it too: the checks must not add up."""
    world.append(PART + 10)
    async with world.daemon() as daemon:
        daemon.seen()
        await trio.sleep(3)
    begun: list[float] = []
    acquire, stream_id = world.store.acquire, world.known()[0].meta.stream_id

    async def refusing(asked: str, lease: Lease) -> bool:
        begun.append(trio.current_time())
        return await acquire(asked, lease)

    async def transition(asked: str, *_: object, **__: object) -> None:
        assert asked == stream_id
        raise RedisOperationError("transition", "NOPERM No permissions to access a key")

    world.store.acquire = refusing  # type: ignore[method-assign, assignment]
    world.store.transition = transition  # type: ignore[method-assign, assignment]
    with structlog.testing.capture_logs():  # tracebacks, one for each
        async with world.daemon() as daemon:
            for _ in range(50):
                daemon.supervisor.handle_event(world.scan())
                await trio.sleep(1.3)
            last = trio.current_time()
    assert 10 < len([moment for moment in begun if moment > last - 20]) < 60


async def parked_stream(world: World, name: str = "a.mp4") -> str:
    """A recording with two parts that grows on, and whose daemon has ended."""
    world.append(2 * PART, name)
    async with world.daemon() as daemon:
        daemon.seen(name)
        await trio.sleep(3)
    (parked,) = world.known()
    assert parked.meta.status is Status.INTERRUPTED_SHUTDOWN
    assert len(parked.parts) == 2
    return parked.meta.stream_id


def replace_by_rename(world: World, name: str = "a.mp4") -> None:
    """Another file takes the name, as a recorder that reuses names does."""
    world.append(PART + 5, "new.tmp")
    Path(world.path("new.tmp")).rename(world.path(name))


async def test_p6_p10_parts_that_cannot_be_read_keep_no_other_recording_waiting_and_are_told(world: World) -> None:
    stream_id = await parked_stream(world)
    replace_by_rename(world)
    world.store.corrupt(Keys().parts(stream_id))
    world.append(7, "c.mp4")
    async with world.daemon() as daemon:
        began_at = daemon.services.unix_time(trio.current_time())
        daemon.supervisor.handle_event(world.scan())
        daemon.closed("c.mp4")
        await trio.sleep(60)
        assert world.recordings() == [world.content("c.mp4")]
        await trio.sleep(60)
        assert [risk.reason for risk in daemon.at_risk] == [Reason.RECORD_UNREADABLE]
        assert daemon.at_risk[0].since - began_at < 1, "each try does not begin to count anew"
        world.store.repair(Keys().parts(stream_id))
        await trio.sleep(30)
        assert daemon.at_risk == ()
        daemon.closed()
        await until(lambda: len(world.recordings()) == 2)
    assert sorted(world.recordings()) == sorted([world.content(), world.content("c.mp4")])


async def test_p6_parts_that_cannot_be_read_are_no_reason_to_leave_a_new_file_that_may_be_the_streams(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where inode numbers do not last, each new file may be the missing one, and only its bytes would tell."""
    monkeypatch.setattr("cef_trio.lab.disk.origin_of", lambda _: Origin(system=file_system_named("fuse")))
    stream_id = await parked_stream(world)
    world.append(7, "c.mp4")  # first, or it may get the number of the other one
    Path(world.path()).unlink()
    world.store.corrupt(Keys().parts(stream_id))
    async with world.daemon() as daemon:
        daemon.closed("c.mp4")
        await trio.sleep(60)
    assert world.recordings() == [world.content("c.mp4")]


async def test_p6_a_superseded_stream_whose_parts_cannot_be_read_is_no_source_of_copies(world: World) -> None:
    world.append(2 * PART)
    before = await uploaded(world)
    world.append(2 * PART)
    world.store.corrupt(Keys().parts(before.meta.stream_id))
    async with world.daemon() as daemon:
        daemon.closed()
        await until(lambda: world.content() in world.recordings())
        assert daemon.at_risk == ()


async def test_p6_a_completed_record_with_a_size_that_no_parts_have_fails_no_later_recording(world: World) -> None:
    world.append(2 * PART)
    before = await uploaded(world)
    stored = world.store._streams[before.meta.stream_id]
    forged = replace(stored, meta=replace(stored.meta, verified_size_bytes=1 << 63))
    world.store._streams[before.meta.stream_id] = forged
    world.append(2 * PART)
    async with world.daemon() as daemon:
        daemon.closed()
        await until(lambda: world.content() in world.recordings())
        assert daemon.at_risk == ()
