"""P9, good neighbour: what belongs to another host, folder, bucket or program is never changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py
import trio
from servers.stream_records import a_part, a_stream, stream_id
from servers.valkey import ValkeyServer, valkey_server
from waiting import completed

from cef_trio.checkpoint.commit import Change, ExitState
from cef_trio.checkpoint.memory import MemoryCheckpointStore
from cef_trio.checkpoint.model import FileIdentity, Lease
from cef_trio.checkpoint.redis.store import RedisCheckpointStore
from cef_trio.checkpoint.states import Status
from cef_trio.lab.world import PART, World
from cef_trio.postprocess.retention import Retention

OTHER_HOST = Lease("another-host", "1", 30.0)


def record_of(store: MemoryCheckpointStore, stream: str) -> Any:
    held = store._streams[stream]
    return held.meta, held.stream_set, dict(held.parts)


@pytest.mark.parametrize("held", [True, False], ids=["its daemon runs", "its daemon is down"])
@pytest.mark.parametrize("status", [Status.ACTIVE, Status.PENDING_COMPLETION, Status.RETRYING, Status.COMPLETED])
async def test_p9_a_stream_of_another_folder_is_left_alone_although_its_device_and_inode_are_those_of_a_file_here(
    world: World, status: Status, held: bool
) -> None:
    """Hosts have equal device numbers, and inode numbers repeat: they prove nothing about a file of another folder."""
    world.append(2 * PART, "ours.mp4")
    stat = Path(world.path("ours.mp4")).stat()
    theirs = a_stream(
        1,
        "/srv/another/folder/theirs.mp4",
        identity=FileIdentity(stat.st_dev, stat.st_ino),
        last_activity_at_utc=world.utc_now() - timedelta(days=90),
        status=status,
    )
    await world.store.create(theirs, OTHER_HOST, [a_part(1, PART)])
    if not held:
        await world.store.release([stream_id(1)], OTHER_HOST)
    before = record_of(world.store, stream_id(1))
    async with world.daemon() as daemon:
        daemon.closed("ours.mp4")
        await trio.sleep(100)
        assert await Retention(daemon.services, timedelta(days=1)).forget_now() == 0
    assert record_of(world.store, stream_id(1)) == before
    assert world.content("ours.mp4") in world.recordings()


async def test_p9_a_lease_that_another_instance_holds_is_never_taken_renewed_or_released(world: World) -> None:
    world.append(2 * PART)
    async with world.daemon() as daemon:
        daemon.seen()
        await trio.sleep(3)
    (parked,) = world.known()
    assert await world.store.acquire(parked.meta.stream_id, replace(OTHER_HOST, ttl_seconds=1e6))
    before = record_of(world.store, parked.meta.stream_id)
    async with world.daemon() as daemon:
        world.append(PART)
        daemon.closed()
        await trio.sleep(300)
    assert record_of(world.store, parked.meta.stream_id) == before
    assert await world.store.holders([parked.meta.stream_id]) == {parked.meta.stream_id: OTHER_HOST.value}


async def test_p9_uploads_and_objects_under_other_prefixes_are_left_alone(world: World) -> None:
    world.append(2 * PART)
    async with world.daemon() as daemon:
        s3 = daemon.services.s3
        foreign = [f"backup/{stream_id(7)}/a.mp4", "streams/a.mp4", f"streams/{stream_id(8)}/b.mp4"]
        for key in foreign:
            await s3.create_multipart_upload(key, metadata={})
        daemon.closed()
        await completed(world)
        await trio.sleep(7200)
        assert {upload.key for upload in await s3.list_multipart_uploads("")} == set(foreign)


@pytest.fixture
def valkey() -> Iterator[ValkeyServer]:
    with valkey_server(tcp=True) as server:
        yield server


@pytest.mark.real
async def test_p9_no_key_of_another_program_or_prefix_is_touched_in_redis(valkey: ValkeyServer) -> None:
    """Make every write and every deletion, beside keys of the same names under another prefix."""
    with redis_py.Redis.from_url(valkey.url) as raw:
        async with RedisCheckpointStore(valkey.url, key_prefix="theirs:", socket_timeout_seconds=10) as theirs:
            await theirs.create(a_stream(1), OTHER_HOST, [a_part(1)])
            await theirs.create(a_stream(2, "/rec/z.mp4", status=Status.COMPLETED), OTHER_HOST)
            await theirs.report("another-host", "well", beginning="")
        raw.set("session:1", "of a web shop")
        raw.rpush("stream:queue", "of a job runner")
        raw.hset("streams", "a", "b")
        before = {key: raw.dump(key) for key in raw.keys("*")}
        async with RedisCheckpointStore(valkey.url, key_prefix="ours:", socket_timeout_seconds=10) as ours:
            lease = Lease("us", "1", 30.0)
            await ours.create(a_stream(1), lease, [a_part(1)])
            await ours.record_part(stream_id(1), lease, a_part(2))
            await ours.rename(stream_id(1), lease, "/rec/b.mp4")
            await ours.transition(stream_id(1), lease, Status.S3_COMPLETED, Change())
            await ours.transition(stream_id(1), lease, Status.COMPLETED, Change(), enqueue_webhook=True)
            await ours.create(a_stream(3, "/rec/c.mp4"), lease)
            await ours.save_interrupted(
                [ExitState(stream_id(3), Status.INTERRUPTED_SHUTDOWN, a_stream().started_at_utc)], lease
            )
            await ours.report("us", "well", beginning="")
            await ours.forget_reports(["us", "another-host"])
            await ours.forget(stream_id(1))
            await ours.forget(stream_id(2))
        assert {key: raw.dump(key) for key in before} == before
        assert {key for key in raw.keys("*") if not key.startswith(b"ours:")} == set(before)
