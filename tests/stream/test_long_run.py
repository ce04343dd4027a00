"""P7: what is done is forgotten in the end; one record that cannot be read hides no other."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import trio
from servers.valkey import valkey_server
from trio.testing import MockClock
from worlds.waiting import completed

from cef_trio.checkpoint.redis import RedisCheckpointStore
from cef_trio.exceptions import RedisOperationError
from cef_trio.lab.world import PART, World
from cef_trio.stream.lookup import find_by_path, load_metas
from cef_trio.stream.retention import forget_now


async def test_p7_a_completed_stream_is_forgotten_after_its_time_if_its_file_is_gone(
    world: World, autojump_clock: MockClock
) -> None:
    world.append(PART, "gone.mp4")
    world.append(PART, "kept.mp4")
    async with world.daemon() as daemon:
        daemon.closed("gone.mp4")
        daemon.closed("kept.mp4")
        await completed(world)
        Path(world.path("gone.mp4")).unlink()
        assert await forget_now(daemon.services, timedelta(minutes=10)) == 0
        await trio.sleep(1200)
        assert await forget_now(daemon.services, timedelta(minutes=10)) == 1
    (left,) = await world.checkpoints()
    assert left.meta.current_path == world.path("kept.mp4")
    assert world.store._by_path == {world.path("kept.mp4"): left.meta.stream_id}


@pytest.mark.real
async def test_one_corrupt_record_is_named_and_hides_no_other(world: World) -> None:
    world.append(1, "a.mp4")
    world.append(1, "b.mp4")
    with valkey_server() as server:
        async with RedisCheckpointStore(server.url) as store:
            world.store = store  # type: ignore[assignment]
            async with world.services() as services:
                from cef_trio.stream.adoption import UnknownUploads
                from cef_trio.stream.recovery import begin

                uploads = [
                    await begin(services, UnknownUploads(services), world.path(name), named=lambda _: None)
                    for name in ("a.mp4", "b.mp4")
                ]
            server.command("HSET", f"stream:{uploads[0].stream_id}:meta", "part_size", "many")
            with pytest.raises(RedisOperationError, match="part_size"):
                await store.load_metas([upload.stream_id for upload in uploads])
            found = await load_metas(store, [upload.stream_id for upload in uploads])
            by_path, unreadable = await find_by_path(store, [world.path("a.mp4"), world.path("b.mp4")])
    assert set(found) == {uploads[1].stream_id}
    assert set(by_path) == {world.path("b.mp4")}
    assert unreadable == {world.path("a.mp4")}
