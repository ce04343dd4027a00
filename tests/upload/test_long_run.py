"""P7: completed streams are forgotten in the end; one unreadable record hides no other."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import trio
from servers.valkey import valkey_server
from waiting import completed

from cef_trio.checkpoint.model import FileIdentity, Lease, StreamMeta
from cef_trio.checkpoint.redis.store import RedisCheckpointStore
from cef_trio.checkpoint.states import Status, StreamSet
from cef_trio.lab.world import BUCKET, PART, World
from cef_trio.postprocess.retention import Retention


async def test_p7_a_completed_stream_is_forgotten_after_its_time_if_its_file_is_gone(world: World) -> None:
    world.append(PART, "gone.mp4")
    world.append(PART, "kept.mp4")
    async with world.daemon() as daemon:
        daemon.closed("gone.mp4")
        daemon.closed("kept.mp4")
        await completed(world)
        Path(world.path("gone.mp4")).unlink()
        assert await Retention(daemon.services, timedelta(minutes=10)).forget_now() == 0
        await trio.sleep(1200)
        assert await Retention(daemon.services, timedelta(minutes=10)).forget_now() == 1
    (left,) = await world.checkpoints()
    assert left.meta.current_path == world.path("kept.mp4")
    assert world.store._by_path == {world.path("kept.mp4"): left.meta.stream_id}


@pytest.mark.real
async def test_one_corrupt_record_is_named_and_hides_no_other(world: World) -> None:
    world.append(1, "a.mp4")
    world.append(1, "b.mp4")
    with valkey_server() as server:
        async with RedisCheckpointStore(server.url, socket_timeout_seconds=10) as store:
            world.store = store  # type: ignore[assignment]
            async with world.services() as services:
                from cef_trio.upload.orphan_uploads import OrphanUploads
                from cef_trio.upload.recovery import begin

                uploads = [
                    await begin(services, OrphanUploads(services), world.path(name), on_stream_id=lambda _: None)
                    for name in ("a.mp4", "b.mp4")
                ]
            server.command("HSET", f"stream:{uploads[0].stream_id}:meta", "part_size", "many")
            found = await store.load_metas([upload.stream_id for upload in uploads])
            by_path = await store.find_by_path([world.path("a.mp4"), world.path("b.mp4")])
    assert set(found) == {uploads[1].stream_id}
    assert set(by_path) == {world.path("b.mp4")}
    assert set(by_path.unreadable) == {world.path("a.mp4")}


async def test_p7_a_completed_stream_of_another_watch_folder_is_not_forgotten_here(world: World) -> None:
    """For example of another host whose root has the same device number: its file may exist there."""
    world.append(PART, "a.mp4")
    elsewhere = str(world.folder.parent / "elsewhere" / "a.mp4")
    async with world.daemon() as daemon:
        daemon.closed("a.mp4")
        (checkpoint,) = await completed(world)
        await trio.sleep(5)
        other = Lease("other", "1", 30.0)
        assert await world.store.acquire(checkpoint.meta.stream_id, other)
        await world.store.rename(checkpoint.meta.stream_id, other, elsewhere)
        await trio.sleep(1200)
        assert await Retention(daemon.services, timedelta(minutes=10)).forget_now() == 0


@pytest.mark.real
async def test_p7_no_manual_edit_of_redis_keeps_a_stream_from_being_forgotten(world: World) -> None:
    """An unreadable record, one that names another stream, a path with a NUL, a name that is not UTF-8."""
    world.webhook = True
    with valkey_server() as server:
        async with RedisCheckpointStore(server.url, socket_timeout_seconds=10) as store:
            world.store = store  # type: ignore[assignment]
            async with world.services() as services:
                place = await services.disk.mount_around(world.path("a.mp4"))
                assert place is not None
                for stream_id in ("old", "corrupt", "foreign", "nul"):
                    gone = StreamMeta(
                        stream_id=stream_id,
                        original_path=world.path(f"{stream_id}.mp4"),
                        current_path=world.path(f"{stream_id}.mp4"),
                        identity=FileIdentity(place.file_dev, 1),
                        s3_bucket=BUCKET,
                        s3_key_prefix=stream_id,
                        part_size=PART,
                        equal_parts=False,
                        started_at_utc=services.utc_now(),
                        last_activity_at_utc=services.utc_now() - timedelta(days=2),
                        status=Status.COMPLETED,
                    )
                    await store.create(gone, services.lease)
                server.command("HSET", "stream:corrupt:meta", "part_size", "many")
                server.command("HSET", "stream:foreign:meta", "stream_id", "old")
                server.command("HSET", "stream:nul:meta", "current_path", world.path("a\0b.mp4"))
                server.command("SADD", "webhooks:owed", b"\xff")
                assert await Retention(services, timedelta(days=1)).forget_now() == 1
            assert await store.members(StreamSet.COMPLETED) == {"corrupt", "foreign", "nul"}
