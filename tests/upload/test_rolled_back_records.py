"""P1: a record that Redis has rolled back under a living daemon never names an object that S3 does not have.

A failover to a replica that lags, or a restart with ``appendfsync everysec``, loses the last writes; the daemon goes on
with what it knows, so its next write changes an older record. All pairs of a write, and of an earlier record that it
finds, are tried: a recording is renamed before its object has a name, and the daemon is killed once the object is
recorded, so that another process finishes what the record says.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock
from waiting import completed, until

from cef_trio.checkpoint.memory import Moment, StoreSnapshot
from cef_trio.lab.world import PART, World, WorldDaemon
from cef_trio.upload.object_key import metadata_key

WRITES = {"update", "record_part", "adopt_parts", "cut_parts", "start_over", "transition", "record_put", "rename"}


@dataclass
class RollsBack:
    """Redis loses its writes from number ``to`` on, just before it is sent number ``before``; they count from 0."""

    world: World
    to: int
    before: int
    seen: list[StoreSnapshot] = field(default_factory=list)

    async def __call__(self, operation: str, moment: Moment) -> None:
        await trio.lowlevel.checkpoint()
        if moment is not Moment.BEFORE or operation not in WRITES:
            return
        self.seen.append(self.world.store.snapshot())
        if len(self.seen) - 1 == self.before:
            self.world.store.restore(self.seen[self.to])


async def small(world: World, daemon: WorldDaemon) -> None:
    """It is renamed before its object has a name, and is one PutObject."""
    rename(world, daemon)
    world.append(PART - 20, "b.mp4")


async def multipart(world: World, daemon: WorldDaemon) -> None:
    """The same, with parts."""
    rename(world, daemon)
    world.append(3 * PART, "b.mp4")


async def patched(world: World, daemon: WorldDaemon) -> None:
    """A part is sent again, as the recording is a faststart file; then it is renamed."""
    world.append(2 * PART)
    daemon.seen()
    await trio.sleep(1)
    world.patch(5, b"moov")
    rename(world, daemon)


async def cut(world: World, daemon: WorldDaemon) -> None:
    """It is cut to less than a part, and becomes another one."""
    world.append(2 * PART)
    daemon.seen()
    await trio.sleep(1)
    os.truncate(world.path(), 20)
    daemon.seen()
    await trio.sleep(1)
    rename(world, daemon)
    world.append(2 * PART, "b.mp4")


def rename(world: World, daemon: WorldDaemon) -> None:
    Path(world.path("a.mp4")).rename(world.path("b.mp4"))
    daemon.moved("a.mp4", "b.mp4")


Story = Callable[[World, WorldDaemon], Awaitable[None]]


async def lives(folder: Path, story: Story, to: int = -1, before: int = -1) -> int:
    """Upload a recording in two lives of a daemon, with a rollback in the first; return how many writes that made."""
    folder.mkdir()
    world = World(folder)
    redis = world.store.fault = RollsBack(world, to, before)
    async with world.killed_daemon() as daemon:
        world.append(10)
        daemon.seen()
        await until(world.known)
        await story(world, daemon)
        daemon.closed("b.mp4")
        with trio.move_on_after(60):
            await until(lambda: any(one.meta.object_etag is not None for one in world.known()))
    world.store.fault = None
    writes = len(redis.seen)
    async with world.daemon() as daemon:
        daemon.closed("b.mp4")
        await completed(world)
        await trio.sleep(120)  # its path is corrected, if that was lost, and nothing is sent again
    where, objects, content = (
        f"write {before} finds the record of before write {to}",
        world.objects(),
        world.content("b.mp4"),
    )
    for stream in world.known():
        key = stream.meta.s3_key_prefix
        assert objects.get(key) == content, where
        document = json.loads(objects[metadata_key(key)])
        assert (document["s3_key_prefix"], document["total_size_bytes"]) == (key, len(content)), where
        expected = len(content), world.path("b.mp4")
        assert (stream.meta.verified_size_bytes, stream.meta.current_path) == expected, where
    assert world.open_uploads() == [], where
    return writes


@pytest.mark.parametrize("story", [small, multipart, patched, cut])
async def test_p1_a_write_to_an_older_record_completes_no_stream_without_its_object(
    tmp_path: Path, autojump_clock: MockClock, story: Story
) -> None:
    writes = await lives(tmp_path / "none", story)
    assert writes > 4
    for to, before in combinations(range(writes), 2):
        await lives(tmp_path / f"{to}-{before}", story, to, before)
