"""Kind 3: a completed recording whose record is lost, or that has another name, is not uploaded a second time.

Each test counts the bytes and calls that S3 received.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock
from waiting import completed

from cef_trio.checkpoint.model import Checkpoint
from cef_trio.files import SECOND_NS
from cef_trio.lab.filesystem import FileSystem
from cef_trio.lab.world import PART, World
from cef_trio.lab.writers import Writers
from cef_trio.resilience.best_effort import TRIES, TRY_SECONDS
from cef_trio.s3.config import ChecksumMode
from cef_trio.s3_endpoint import Fault, Kind, Moment
from cef_trio.settings.after_upload import AfterUploadAction, AfterUploadRule
from cef_trio.upload.object_key import metadata_key

SENDS = ("CreateMultipartUpload", "UploadPart", "UploadPartCopy", "CompleteMultipartUpload", "PutObject")


async def upload(world: World, size_bytes: int = 3 * PART + 10, name: str = "a.mp4") -> Checkpoint:
    """A completed recording; the counters of calls and bytes are reset."""
    world.append(size_bytes, name)
    async with world.daemon() as daemon:
        daemon.closed(name)
        await completed(world)
    await trio.sleep(5)
    world.endpoint.log.reset()
    return next(checkpoint for checkpoint in world.known() if checkpoint.meta.current_path == world.path(name))


def calls(world: World, *operations: str) -> int:
    return sum(world.endpoint.log.calls[operation] for operation in operations)


def is_as_it_was(before: Checkpoint, after: Checkpoint) -> None:
    """The restored record equals the lost one in every field that is used."""
    kept = (
        "stream_id status current_path identity s3_bucket s3_key_prefix part_size equal_parts checksum_algorithm "
        "object_etag object_crc64nvme verified_size_bytes verified_mtime_ns started_at_utc completed_at_utc "
        "duration_seconds next_part_to_upload"
    )
    for name in kept.split():
        assert getattr(after.meta, name) == getattr(before.meta, name), name
    assert after.stream_set == before.stream_set
    assert parts_of(after) == parts_of(before)


def parts_of(checkpoint: Checkpoint) -> list[tuple[int, str, int, int]]:
    parts = sorted(checkpoint.parts.values(), key=lambda part: part.part_number)
    return [(part.part_number, part.etag, part.size_bytes, part.crc64nvme) for part in parts]


@pytest.mark.parametrize("size_bytes", [0, 10, 3 * PART, 3 * PART + 10])
@pytest.mark.parametrize("checksum", [ChecksumMode.AUTO, ChecksumMode.MD5])
async def test_p2_a_completed_recording_that_redis_has_lost_is_found_in_s3(
    world: World, size_bytes: int, checksum: ChecksumMode
) -> None:
    world.checksum = checksum
    before = await upload(world, size_bytes)
    objects = world.objects()
    world.lose_redis()
    async with world.daemon() as daemon:
        (after,) = await completed(world)
        await trio.sleep(30)
        assert await world.store.acquire(after.meta.stream_id, daemon.services.lease), "its lease was given back"
    assert calls(world, *SENDS) == 0
    assert world.objects() == objects, "nothing was changed"
    assert after.meta.stream_id == before.meta.stream_id
    assert after.meta.s3_key_prefix == before.meta.s3_key_prefix
    asked = {name: calls(world, name) for name in ("ListObjectsV2", "HeadObject", "GetObject")}
    assert asked == {"ListObjectsV2": 1, "HeadObject": 1, "GetObject": 1}


async def test_p2_the_restored_record_equals_the_lost_one(world: World) -> None:
    before = await upload(world)
    world.lose_redis()
    async with world.daemon():
        (after,) = await completed(world)
    is_as_it_was(before, after)
    os.utime(world.path(), ns=(1, 1))
    async with world.daemon():  # so it is compared with its parts, like any
        await trio.sleep(30)
    assert calls(world, *SENDS) == 0
    world.append(PART)
    async with world.daemon() as daemon:  # and goes on from its own object
        daemon.closed()
        await trio.sleep(30)
    assert calls(world, "UploadPartCopy") == 3
    assert world.received_bytes() <= 2 * PART
    assert world.content() in world.recordings()


async def test_p2_one_listing_serves_all_that_redis_has_lost(world: World) -> None:
    names = [f"{number}.mp4" for number in range(12)]
    for name in names:
        world.append(2 * PART + len(name), name)
    async with world.daemon() as daemon:
        for name in names:
            daemon.closed(name)
        await completed(world)
    world.endpoint.log.reset()
    await trio.sleep(5)
    world.lose_redis()
    async with world.daemon():
        await trio.sleep(30)
        assert len(await completed(world)) == 12
    assert calls(world, *SENDS) == 0
    assert calls(world, "ListObjectsV2") == 1
    assert calls(world, "HeadObject") == 12


@pytest.mark.parametrize("skew_seconds", [0, 7200], ids=["its mtime was set", "its server's clock is ahead"])
async def test_p2_a_recording_with_a_time_in_the_future_that_redis_has_lost_is_found_in_s3(
    tmp_path: Path, autojump_clock: MockClock, skew_seconds: int
) -> None:
    system = FileSystem(skew_ns=skew_seconds * SECOND_NS)
    world = World(tmp_path / "watch", base=tmp_path, file_system=system)
    writers = Writers(world.kernel, world.folder, world.random, world.journal)
    writers.append(3 * PART + 10, "a.mp4")
    if not skew_seconds:
        writers.set_mtime("a.mp4", world.kernel.now_ns() + 7200 * SECOND_NS)
    writers.close("a.mp4")
    async with world.daemon():
        (before,) = await completed(world)
        await trio.sleep(5)
    world.endpoint.log.reset()
    world.lose_redis()
    async with world.daemon():
        (after,) = await completed(world)
    assert after.meta.stream_id == before.meta.stream_id
    assert calls(world, *SENDS) == 0


async def test_p7_new_recordings_of_a_server_whose_clock_is_a_little_ahead_cost_no_listing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    world = World(tmp_path / "watch", base=tmp_path, file_system=FileSystem(skew_ns=5 * SECOND_NS))
    writers = Writers(world.kernel, world.folder, world.random, world.journal)
    async with world.daemon():
        await trio.sleep(3)
        writers.append(PART, "a.mp4")
        writers.close("a.mp4")
        await completed(world)
    assert calls(world, "ListObjectsV2") == 0


async def test_p7_a_daemon_without_a_sign_of_loss_lists_no_objects(world: World) -> None:
    await upload(world)
    async with world.daemon() as daemon:
        for number in range(5):
            await trio.sleep(3)
            world.append(PART, f"new-{number}.mp4")
            daemon.closed(f"new-{number}.mp4")
        await trio.sleep(10)
        assert len(await completed(world)) == 6
    assert calls(world, "ListObjectsV2") == 0


async def test_p7_old_recordings_that_come_one_by_one_do_not_each_cost_a_listing(world: World) -> None:
    await upload(world)
    async with world.daemon() as daemon:
        for number in range(8):
            await trio.sleep(5)
            name = f"old-{number}.mp4"
            world.append(PART, name)
            os.utime(world.path(name), ns=(number, number))
            daemon.closed(name)
        await trio.sleep(10)
        assert len(await completed(world)) == 9
    assert calls(world, "ListObjectsV2") == 1


async def test_p2_an_object_whose_metadata_was_not_written_yet_gets_it(world: World) -> None:
    before = await upload(world)
    key = metadata_key(before.meta.s3_key_prefix)
    async with world.foreign_client() as s3:
        await s3.delete_object(key)
    world.endpoint.log.reset()
    world.lose_redis()
    async with world.daemon():
        (after,) = await completed(world)
    assert after.meta.stream_id == before.meta.stream_id
    assert world.recordings() == [world.content()]
    document = json.loads(world.objects()[key])
    assert document["stream_id"] == before.meta.stream_id
    assert [chunk["etag"] for chunk in document["chunks"]] == [part.etag for part in before.parts.values()]
    assert (calls(world, "UploadPart"), calls(world, "PutObject")) == (0, 1)


@pytest.mark.parametrize("part_size", [PART // 2, 4 * PART])
async def test_p2_it_is_found_though_the_part_size_is_another_one(
    world: World, part_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cef_trio.upload.part_matching.MIN_PART_BYTES", 1)
    before = await upload(world)
    world.lose_redis()
    world.part_size = part_size
    async with world.daemon():
        (after,) = await completed(world)
    assert calls(world, *SENDS) == 0
    assert after.meta.part_size == before.meta.part_size
    assert len(after.parts) == len(before.parts)


@pytest.mark.parametrize("how", ["another", "longer", "same size"])
async def test_p1_a_file_with_other_bytes_is_uploaded_and_the_object_left_alone(world: World, how: str) -> None:
    await upload(world)
    objects = world.objects()
    size = len(world.content())
    if how == "longer":
        world.append(1)
    elif how == "same size":
        world.patch(PART + 1, b"#")
    else:
        Path(world.path()).unlink()
        world.append(size)
    await trio.sleep(5)
    world.lose_redis()
    async with world.daemon():
        await completed(world)
    assert world.content() in world.recordings()
    assert objects.items() <= world.objects().items()
    assert calls(world, "CompleteMultipartUpload") == 1


async def test_p9_an_object_that_another_client_put_under_our_key_is_not_taken(world: World) -> None:
    """The same bytes under the same key, without our stream's id: they were not verified."""
    before = await upload(world)
    async with world.foreign_client() as s3:
        await s3.put_object(before.meta.s3_key_prefix, world.content(), content_type="video/mp4", metadata={})
    world.lose_redis()
    async with world.daemon():
        (after,) = await completed(world)
    assert after.meta.stream_id != before.meta.stream_id


@pytest.mark.parametrize("document", [b"", b"{", b"[]", b'{"stream_id": "another"}', b"9" * 5000, b"x" * 9_000_000])
async def test_p9_an_object_whose_metadata_is_not_ours_is_not_taken(world: World, document: bytes) -> None:
    before = await upload(world)
    key = metadata_key(before.meta.s3_key_prefix)
    async with world.foreign_client() as s3:
        await s3.put_object(key, document, content_type="application/json", metadata={})
    world.lose_redis()
    async with world.daemon():
        (after,) = await completed(world)
    assert after.meta.stream_id != before.meta.stream_id
    assert world.objects()[key] == document


async def test_p9_two_files_of_one_name_and_the_same_bytes_do_not_share_an_object(world: World) -> None:
    """One of two equal files gets the object, the other is uploaded; each has its own record."""
    world.key_template = "streams/{stream_id}"
    before = await upload(world)
    for name in ("b.mp4", "c.mp4"):
        shutil.copy2(world.path(), world.path(name))
    await trio.sleep(5)
    world.lose_redis()
    async with world.daemon():
        await trio.sleep(60)
        found = await completed(world)
    keys = {checkpoint.meta.s3_key_prefix for checkpoint in found}
    assert len(keys) == len(world.recordings()) == 3
    assert before.meta.s3_key_prefix in keys


async def test_p3_a_webhook_that_may_have_been_lost_is_pending(world: World) -> None:
    world.webhook = True
    before = await upload(world)
    told = len(world.receiver.received)
    world.lose_redis()
    async with world.daemon():
        await completed(world)
        await trio.sleep(10)
    assert [one.stream_id for one in world.receiver.received[told:]] == [before.meta.stream_id]
    assert calls(world, *SENDS) == 0


OPTIONAL = [
    pytest.param({"kind": Kind.ERROR, "code": "InternalError"}, id="500"),
    pytest.param({"kind": Kind.ERROR, "code": "NotImplemented"}, id="501"),
    pytest.param({"kind": Kind.ERROR, "code": "AccessDenied"}, id="403"),
    pytest.param({"kind": Kind.FREEZE}, id="no answer"),
    pytest.param({"kind": Kind.TRUNCATE, "moment": Moment.REPLY}, id="cut off"),
]


@pytest.mark.parametrize("operation", ["ListObjectsV2", "HeadObject", "GetObject"])
@pytest.mark.parametrize("how", OPTIONAL)
async def test_p6_what_cannot_be_found_is_uploaded_and_nothing_is_waited_for_without_end(
    world: World, operation: str, how: dict[str, object]
) -> None:
    await upload(world)
    world.lose_redis()
    world.endpoint.faults.arm(Fault(operation=operation, times=None, **how))  # type: ignore[arg-type]
    async with world.daemon() as daemon:
        await completed(world, seconds=2 * TRIES * (TRY_SECONDS + 1) + 20)
        assert daemon.services.s3_breaker.up.value
    assert world.content() in world.recordings()


async def test_p4_a_daemon_that_leaves_while_objects_are_listed_begins_nothing_and_the_next_one_finds_them(
    world: World,
) -> None:
    before = await upload(world)
    world.lose_redis()
    frozen = world.endpoint.faults.arm(Fault(Kind.FREEZE, "ListObjectsV2", times=None))
    async with world.daemon():
        await trio.sleep(2)
    assert frozen.hits
    assert world.known() == []
    world.endpoint.faults.clear()
    async with world.daemon():
        (after,) = await completed(world)
    assert after.meta.stream_id == before.meta.stream_id
    assert calls(world, *SENDS) == 0


async def test_p10_a_recording_that_is_written_waits_for_no_listing(world: World) -> None:
    """While objects are listed for a possibly lost recording, others continue, and so does an old one with a writer."""
    await upload(world)
    world.lose_redis()
    world.append(2 * PART + 5, "open.mp4")
    await trio.sleep(5)
    world.endpoint.faults.arm(Fault(Kind.FREEZE, "ListObjectsV2", times=None))
    async with world.daemon() as daemon:
        world.append(PART, "new.mp4")
        daemon.seen("new.mp4")
        await trio.sleep(3)
        assert world.received_bytes() == 3 * PART
        world.endpoint.faults.clear()
        for name in ("open.mp4", "new.mp4"):
            daemon.closed(name)
        await completed(world)
    assert len(world.recordings()) == 3


async def test_p2_a_file_that_is_touched_after_redis_lost_it_in_a_daemons_life_is_found(world: World) -> None:
    """A file that was settled before and has no record now shows that records were lost."""
    world.append(3 * PART + 1)
    async with world.daemon() as daemon:
        daemon.closed()
        (before,) = await completed(world)
        await trio.sleep(5)
        world.endpoint.log.reset()
        world.lose_redis()
        world.stat()
        daemon.closed()
        await trio.sleep(30)
        (after,) = await completed(world)
    assert after.meta.stream_id == before.meta.stream_id
    assert calls(world, *SENDS) == 0


def rename(world: World) -> None:
    Path(world.path()).rename(world.path("b.mp4"))


def move_to_another_disk(world: World) -> None:
    """As after ``mv`` or ``cp -a``: another inode, the same time stamp."""
    shutil.copy2(world.path(), world.path("b.mp4"))
    Path(world.path()).unlink()


@pytest.mark.parametrize("change", [rename, move_to_another_disk])
@pytest.mark.parametrize("successor", [False, True], ids=["alone", "its old name is another's"])
async def test_p2_a_completed_recording_that_is_renamed_while_no_daemon_runs_is_recognized_by_its_bytes(
    world: World, change: object, successor: bool
) -> None:
    before = await upload(world)
    await trio.sleep(5)
    change(world)  # type: ignore[operator]
    if successor:
        world.append(2 * PART)
        await trio.sleep(5)
    async with world.daemon():
        await trio.sleep(60)
        found = {checkpoint.meta.current_path: checkpoint for checkpoint in await completed(world)}
    assert found[world.path("b.mp4")].meta.stream_id == before.meta.stream_id
    assert world.received_bytes() == (2 * PART if successor else 0)
    assert len(world.recordings()) == len(found) == 1 + successor


async def test_p2_a_renamed_recording_that_grew_goes_on_from_its_object(world: World) -> None:
    await upload(world, 5 * PART)
    rename(world)
    world.append(PART, "b.mp4")
    await trio.sleep(5)
    async with world.daemon():
        await trio.sleep(60)
        await completed(world)
    assert world.content("b.mp4") in world.recordings()
    assert world.received_bytes() <= 2 * PART


async def test_a_copy_beside_the_original_is_a_recording_of_its_own(world: World) -> None:
    before = await upload(world)
    shutil.copy2(world.path(), world.path("b.mp4"))
    await trio.sleep(5)
    async with world.daemon():
        await trio.sleep(60)
        found = {checkpoint.meta.current_path: checkpoint for checkpoint in await completed(world)}
    assert found[world.path()].meta == before.meta
    assert len(found) == len(world.recordings()) == 2


async def test_p8_a_file_that_was_found_to_be_stored_may_be_deleted_like_any(world: World) -> None:
    await upload(world)
    content = world.content()
    world.lose_redis()
    world.after_upload = AfterUploadRule(AfterUploadAction.DELETE)
    async with world.daemon():
        await trio.sleep(120)
    assert not Path(world.path()).exists()
    assert world.recordings() == [content]
    assert world.removed_unsaved == []
