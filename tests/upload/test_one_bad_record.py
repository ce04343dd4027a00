"""P6: a refusal of Redis for one stream, or of the disk for a forged path, delays no other recording."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import structlog.testing
import trio
from waiting import completed

from cef_trio.checkpoint.model import Lease
from cef_trio.checkpoint.states import Status
from cef_trio.exceptions import ChunkProcessingError, RedisOperationError
from cef_trio.files.file_stat import FileStat
from cef_trio.lab.world import PART, World


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
