"""P2: cost follows what changed. Bytes sent are bounded by bytes changed, whatever a writer does to its file."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import trio
from waiting import completed, uploaded

from cef_trio.checkpoint.states import Status
from cef_trio.lab.world import PART, World
from cef_trio.s3_endpoint import Fault, Kind, Moment


def cut(world: World, size_bytes: int) -> None:
    os.truncate(world.path(), size_bytes)
    world.stat()


def copies(world: World) -> int:
    return world.endpoint.log.calls["UploadPartCopy"]


@pytest.mark.parametrize("by", [1, 10, PART + 1])
async def test_p2_a_tail_that_is_cut_off_costs_one_part(world: World, by: int) -> None:
    world.append(12 * PART)
    async with world.daemon() as daemon:
        await trio.sleep(1)
        assert world.received_bytes() == 12 * PART
        cut(world, 12 * PART - by)
        daemon.closed()
        (checkpoint,) = await completed(world)
    assert world.recordings() == [world.content()]
    assert world.received_bytes() < 13 * PART
    assert checkpoint.meta.uploads_restarted == 0
    assert world.open_uploads() == []


async def test_p2_a_tail_that_is_cut_off_while_no_daemon_runs_costs_one_part(world: World) -> None:
    world.append(12 * PART)
    async with world.killed_daemon():
        await trio.sleep(1)
    cut(world, 11 * PART - 1)
    async with world.daemon() as daemon:
        await trio.sleep(1)
        daemon.closed()
        await completed(world)
    assert world.recordings() == [world.content()]
    assert world.received_bytes() < 13 * PART


async def test_p1_a_file_that_is_cut_and_grows_again_is_the_file_in_the_end(world: World) -> None:
    world.append(6 * PART)
    async with world.daemon() as daemon:
        for _ in range(3):
            await trio.sleep(1)
            cut(world, 4 * PART - 5)
            daemon.seen()
            await trio.sleep(1)
            world.append(2 * PART)
            daemon.seen()
        daemon.closed()
        await completed(world)
    assert world.recordings() == [world.content()]


async def upload(world: World, size_bytes: int) -> None:
    """A completed recording; the counters of calls and bytes are reset."""
    world.append(size_bytes)
    await uploaded(world)
    world.endpoint.log.reset()


def touch(world: World) -> None:
    world.stat()


def set_back(world: World) -> None:
    os.utime(world.path(), ns=(1, 1))


def copy_to_a_new_disk(world: World) -> None:
    """As after ``cp -a``: other inodes, the same bytes."""
    shutil.copy2(world.path(), world.path("new"))
    Path(world.path("new")).rename(world.path())


@pytest.mark.parametrize("size_bytes", [0, 10, 5 * PART, 5 * PART + 7])
@pytest.mark.parametrize("change", [touch, set_back, copy_to_a_new_disk])
@pytest.mark.parametrize("watched", [True, False], ids=["watched", "unwatched"])
async def test_p2_metadata_is_not_content(world: World, change: object, watched: bool, size_bytes: int) -> None:
    await upload(world, size_bytes)
    if not watched:
        await trio.sleep(5)
        change(world)  # type: ignore[operator]
    async with world.daemon() as daemon:
        await trio.sleep(5)
        if watched:
            change(world)  # type: ignore[operator]
            daemon.closed()
        await trio.sleep(30)
        (checkpoint,) = await world.checkpoints()
    assert checkpoint.meta.status is Status.COMPLETED
    assert checkpoint.meta.verified_mtime_ns == Path(world.path()).stat().st_mtime_ns
    assert checkpoint.meta.identity.file_ino == Path(world.path()).stat().st_ino
    assert world.received_bytes() == 0
    assert len(world.recordings()) == 1
    assert await world.store.acquire(checkpoint.meta.stream_id, daemon.services.lease)


async def test_p2_append_and_close_again_and_again_costs_what_was_appended_and_one_part_each_time(world: World) -> None:
    """Complete parts are copied within S3 each time; the last object's metadata names the previous one."""
    async with world.daemon() as daemon:
        for _ in range(8):
            world.append(2 * PART + 300)
            daemon.closed()
            await trio.sleep(10)
        await completed(world)
    size = len(world.content())
    assert world.received_bytes() <= size + 8 * PART
    assert copies(world) > 20
    objects = world.objects()
    (last,) = [key for key, body in objects.items() if body == world.content()]
    assert sum(len(body) for key, body in objects.items() if key.endswith(".mp4")) > size
    named = set()
    key = last
    while True:
        document = json.loads(objects[f"{key}.metadata.json"])
        assert document["total_size_bytes"] == len(objects[key])
        assert world.content().startswith(objects[key])
        if "supersedes" not in document:
            break
        key = document["supersedes"]["s3_key_prefix"]
        named.add(key)
    assert len(named) == 7


@pytest.mark.parametrize(
    "fault",
    [
        Fault(Kind.ERROR, "UploadPartCopy", status=501, code="NotImplemented", times=None),
        Fault(Kind.ERROR, "UploadPartCopy", status=500, code="InternalError", times=None),
        Fault(Kind.ERROR, "UploadPartCopy", status=403, code="AccessDenied", times=None),
        Fault(Kind.ERROR_IN_200, "UploadPartCopy", code="InternalError", times=None),
        Fault(Kind.RESET, "UploadPartCopy", Moment.REPLY, times=None),
        Fault(Kind.TRUNCATE, "UploadPartCopy", Moment.REPLY, times=None),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.code}",
)
async def test_p1_what_cannot_be_copied_is_sent(world: World, fault: Fault) -> None:
    await upload(world, 5 * PART)
    armed = world.endpoint.faults.arm(fault)
    async with world.daemon() as daemon:
        world.append(PART)
        daemon.closed()
        await trio.sleep(60)
        await completed(world)
    assert 1 <= armed.hits <= 3 + 2
    assert world.content() in world.recordings()
    assert world.received_bytes() == 6 * PART


async def test_p1_a_copy_that_is_not_the_files_bytes_is_sent_instead(world: World) -> None:
    """Another object was put under the key: its ETag and its bytes differ."""
    await upload(world, 5 * PART)
    (key,) = [key for key in world.objects() if key.endswith(".mp4")]
    await world.put_foreign(key)
    async with world.daemon() as daemon:
        world.append(PART)
        daemon.closed()
        await trio.sleep(60)
        await completed(world)
    assert world.content() in world.recordings()
    assert world.received_bytes() >= 6 * PART


async def test_p2_a_head_that_is_patched_after_the_end_costs_one_part(world: World) -> None:
    await upload(world, 9 * PART + 5)
    async with world.daemon() as daemon:
        world.patch(10, b"patched")
        daemon.closed()
        await trio.sleep(30)
        await completed(world)
    assert world.content() in world.recordings()
    assert world.received_bytes() == PART
    assert copies(world) == 9


async def test_p2_a_daemon_that_dies_while_it_copies_goes_on_copying(world: World) -> None:
    await upload(world, 9 * PART + 5)
    async with world.killed_daemon() as daemon:
        frozen = world.endpoint.faults.arm(Fault(Kind.FREEZE, "UploadPartCopy", nth=4, times=None))
        world.append(PART)
        daemon.seen()
        await trio.sleep(5)
    world.endpoint.faults.clear()
    assert frozen.hits
    async with world.daemon() as daemon:
        await trio.sleep(5)
        daemon.closed()
        await trio.sleep(30)
        await completed(world)
    assert world.content() in world.recordings()
    assert world.received_bytes() <= 2 * PART
    assert world.open_uploads() == []


async def test_another_recording_that_takes_the_name_has_nothing_to_do_with_the_old_one(world: World) -> None:
    await upload(world, 5 * PART)
    Path(world.path()).unlink()
    world.append(6 * PART)
    async with world.daemon() as daemon:
        daemon.closed()
        await trio.sleep(30)
        found = await completed(world)
    assert [checkpoint.meta.supersedes_key for checkpoint in found] == [None, None]
    assert copies(world) == 0
    assert not any(b"supersedes" in body for body in world.objects().values())


PAGES = 4096


@pytest.mark.parametrize("how", ["truncate", "fallocate"])
async def test_p2_a_file_whose_size_is_set_first_and_that_is_then_filled_is_sent_once(world: World, how: str) -> None:
    """No part is sent before it is written; the tail that is cut off at the close is never sent."""
    with Path(world.path()).open("wb") as file:
        file.truncate(60 * PAGES)
        if how == "fallocate":
            os.posix_fallocate(file.fileno(), 0, 60 * PAGES)
    world.stat()
    async with world.daemon() as daemon:
        for number in range(30):
            world.patch(number * PAGES, world.random.randbytes(PAGES))
            daemon.seen()
            await trio.sleep(3)
        assert world.received_bytes() >= 29 * PAGES - PART
        cut(world, 30 * PAGES - 10)
        daemon.closed()
        await completed(world)
    assert world.recordings() == [world.content()]
    assert world.received_bytes() <= 30 * PAGES + 3 * PART


async def test_p1_a_hole_that_stays_is_part_of_the_file(world: World) -> None:
    world.append(3 * PART)
    with Path(world.path()).open("r+b") as file:
        file.truncate(20 * PAGES)
    world.stat()
    world.append(5 * PART)
    async with world.daemon() as daemon:
        await trio.sleep(5)
        assert world.received_bytes() >= 2 * PART
        daemon.closed()
        await completed(world)
    assert world.recordings() == [world.content()]
