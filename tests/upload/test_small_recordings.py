"""A recording that is smaller than a part: one PutObject, with the same promises as a multipart upload."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
from failing_calls import of_a_recording
from store_faults import KilledAt
from trio.testing import MockClock
from waiting import completed, until, until_idle, uploaded

from cef_trio.checkpoint.states import ENDED, Status
from cef_trio.lab.file_faults import SYSTEMS
from cef_trio.lab.invariants import orphan_objects
from cef_trio.lab.world import BUCKET, PART, World
from cef_trio.lab.writers import Writers
from cef_trio.s3.config import ChecksumMode
from cef_trio.s3_endpoint import Fault, Kind, Moment
from cef_trio.settings.after_upload import AfterUploadAction, AfterUploadRule
from cef_trio.settings.object_options import ObjectOptions
from cef_trio.upload.object_key import metadata_key
from cef_trio.upload.part_plan import PartPlan

SIZE = PART - 10


def puts(world: World) -> int:
    """How many recordings S3 received whole, in part or as a repetition."""
    return sum(not (call.key or "").endswith(metadata_key("")) for call in world.endpoint.log.of("PutObject"))


async def killed_before_record(world: World) -> None:
    """A daemon is killed after S3 stored the recording, before the record."""
    async with world.killed_daemon() as daemon:
        world.store.fault = KilledAt(world, "record_put")
        daemon.closed()
        await trio.sleep(10)
    world.store.fault = None
    assert len(world.recordings()) == 1


@pytest.mark.parametrize(
    ("size_bytes", "upload_open", "one_put"),
    [
        (0, False, True),
        (0, True, True),
        (1, False, True),
        (9, False, True),
        (9, True, False),
        (10, False, False),
        (11, False, False),
    ],
)
def test_a_file_smaller_than_a_part_is_put_whole_unless_an_upload_is_open(
    size_bytes: int, upload_open: bool, one_put: bool
) -> None:
    for equal_parts in (False, True):
        assert PartPlan(10, equal_parts=equal_parts).is_one_put(size_bytes, upload_open=upload_open) is one_put


async def test_a_recording_that_grows_below_a_part_and_is_closed_is_put_whole(world: World) -> None:
    world.append(SIZE // 2)
    async with world.daemon() as daemon:
        daemon.seen()
        await trio.sleep(5)
        world.append(SIZE // 2)
        daemon.seen()
        await trio.sleep(5)
        daemon.closed()
        (checkpoint,) = await completed(world)
    assert world.recordings() == [world.content()]
    assert puts(world) == 1
    assert world.endpoint.log.calls["CreateMultipartUpload"] == 0
    part = checkpoint.parts[1]
    assert (part.etag, part.size_bytes, len(checkpoint.parts)) == (checkpoint.meta.object_etag, SIZE, 1)
    chunks = json.loads(world.objects()[metadata_key(checkpoint.meta.s3_key_prefix)])["chunks"]
    assert [(chunk["part_number"], chunk["size_bytes"], chunk["etag"]) for chunk in chunks] == [(1, SIZE, part.etag)]


@pytest.mark.parametrize("checksum", ChecksumMode)
@pytest.mark.parametrize("encryption", [None, "aws:kms"])
async def test_p2_after_a_kill_an_unrecorded_object_is_found_and_not_sent_again(
    world: World, checksum: ChecksumMode, encryption: str | None
) -> None:
    world.checksum = checksum
    world.options = ObjectOptions(encryption=encryption)
    world.append(SIZE)
    await killed_before_record(world)
    checkpoint = await uploaded(world)
    assert puts(world) == 1
    assert checkpoint.parts[1].etag == checkpoint.meta.object_etag


@pytest.mark.parametrize("kind", [Kind.IGNORE_CHECKSUMS, Kind.REJECT_CHECKSUMS])
async def test_p2_a_store_without_the_checksum_is_read_instead(world: World, kind: Kind) -> None:
    world.endpoint.faults.arm(Fault(kind, times=None))
    world.append(SIZE)
    await killed_before_record(world)
    sent = world.received_bytes()
    await uploaded(world)
    assert world.received_bytes() == sent
    assert world.endpoint.log.calls["GetObject"] == (kind is Kind.IGNORE_CHECKSUMS)


async def test_p1_an_unrecorded_object_of_a_changed_file_completes_its_stream_and_the_file_gets_another(
    world: World,
) -> None:
    world.append(SIZE)
    await killed_before_record(world)
    first = world.content()
    world.patch(0, b"patched")
    async with world.daemon() as daemon:
        daemon.closed()
        await until(lambda: len(world.recordings()) == 2, 600)
        await completed(world)
    assert set(world.recordings()) == {first, world.content()}


async def test_p5_an_unrecorded_object_of_a_deleted_file_completes_its_stream(world: World) -> None:
    world.append(SIZE)
    await killed_before_record(world)
    Path(world.path()).unlink()
    async with world.daemon():
        (checkpoint,) = await completed(world)
    assert metadata_key(checkpoint.meta.s3_key_prefix) in world.objects()


async def test_p6_an_unrecorded_object_of_a_replaced_file_completes_its_stream_without_the_others_media(
    world: World,
) -> None:
    world.append(SIZE)
    await killed_before_record(world)
    (stream_id,) = world.store.snapshot().streams
    world.append(PART // 2, "new")
    Path(world.path("new")).replace(world.path())
    async with world.daemon() as daemon:
        daemon.closed()
        await until(lambda: len(world.recordings()) == 2, 600)
        await completed(world)
    meta = world.store.snapshot().streams[stream_id].meta
    assert meta.duration_seconds is None
    assert metadata_key(meta.s3_key_prefix) in world.objects()


async def test_p1_an_unrecorded_object_does_not_get_the_identity_of_the_file_that_has_replaced_its_own(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """World 417849: where numbers do not last, and there is no part to compare, nothing tells the two files apart."""
    world = World(tmp_path / "watch", base=tmp_path)
    SYSTEMS["fat"](world.kernel.file_system(world.folder))
    writers = Writers(world.kernel, world.folder, world.random, world.journal)
    writers.append(SIZE, "a.mp4")
    writers.close("a.mp4")
    await killed_before_record(world)
    (stream,) = world.store.snapshot().streams.values()
    writers.replace(PART // 2, "a.mp4")
    async with world.daemon():
        await until(lambda: len(world.recordings()) == 2, 600)
        await completed(world)
    assert world.store.snapshot().streams[stream.meta.stream_id].meta.identity == stream.meta.identity


async def test_p2_a_put_that_never_arrived_is_sent_by_the_next_daemon(world: World) -> None:
    world.append(SIZE)
    async with world.killed_daemon() as daemon:
        world.endpoint.faults.arm(Fault(Kind.RESET, "PutObject", Moment.BODY, times=None))
        daemon.closed()
        await trio.sleep(10)
    world.endpoint.faults.clear()
    assert world.recordings() == []
    await uploaded(world)


@pytest.mark.parametrize("same_store", [True, False])
async def test_an_unrecorded_object_is_looked_for_under_a_new_endpoint_too(world: World, same_store: bool) -> None:
    world.s3_name = "https://old.example"
    world.append(SIZE)
    await killed_before_record(world)
    if not same_store:
        for key in world.objects():
            world.endpoint.model.delete_object(BUCKET, key)
    world.s3_name = "https://new.example"
    checkpoint = await uploaded(world)
    assert checkpoint.meta.s3_endpoint == "https://new.example"
    assert puts(world) == (1 if same_store else 2)


async def test_p5_the_key_stays_once_a_put_was_begun(world: World) -> None:
    """A request that takes effect late would otherwise leave an object under another key."""
    world.append(SIZE)
    async with world.daemon() as daemon:
        fault = world.endpoint.faults.arm(Fault(Kind.ERROR, "PutObject", times=None, code="InternalError"))
        daemon.closed()
        await trio.sleep(5)
        assert fault.hits
        Path(world.path()).rename(world.path("b.mp4"))
        daemon.moved("a.mp4", "b.mp4")
        world.endpoint.faults.disarm(fault)
        (checkpoint,) = await completed(world)
    assert checkpoint.meta.s3_key_prefix.endswith("/a.mp4")
    assert checkpoint.meta.current_path == world.path("b.mp4")
    assert world.recordings() == [world.content("b.mp4")]


async def test_p1_a_recording_that_grows_while_its_put_is_retried_becomes_an_upload(world: World) -> None:
    world.append(SIZE)
    async with world.daemon() as daemon:
        fault = world.endpoint.faults.arm(Fault(Kind.ERROR, "PutObject", times=None, code="InternalError"))
        daemon.closed()
        await trio.sleep(5)
        world.append(3 * PART)
        daemon.seen()
        await trio.sleep(5)
        world.endpoint.faults.disarm(fault)
        daemon.closed()
        (checkpoint,) = await completed(world)
    assert world.recordings() == [world.content()]
    assert len(checkpoint.parts) == 4


@pytest.mark.parametrize("size_bytes", [0, PART // 2])
async def test_p5_a_recording_that_is_truncated_below_a_part_leaves_no_upload_open(
    world: World, size_bytes: int
) -> None:
    world.append(2 * PART)
    async with world.daemon() as daemon:
        daemon.seen()
        await trio.sleep(5)
        with Path(world.path()).open("r+b") as file:
            file.truncate(size_bytes)
        world.stat()
        daemon.closed()
        await completed(world)
    assert world.recordings() == [world.content()]
    assert world.open_uploads() == []


async def test_p8_a_small_recording_is_deleted_after_its_upload(world: World) -> None:
    world.after_upload = AfterUploadRule(AfterUploadAction.DELETE)
    world.append(SIZE)
    content = world.content()
    async with world.daemon() as daemon:
        daemon.closed()
        await until(lambda: not Path(world.path()).exists(), 600)
    assert world.recordings() == [content]
    assert world.removed_unsaved == []


async def test_p6_a_put_that_s3_denies_fails_its_stream_and_says_why(world: World) -> None:
    world.append(SIZE)
    denied = Fault(
        Kind.ERROR,
        "PutObject",
        times=None,
        code="KeyTooLongError",
        predicate=lambda call: (call.key or "").endswith("/a.mp4"),
    )
    world.endpoint.faults.arm(denied)
    async with world.daemon() as daemon:
        daemon.closed()
        (checkpoint,) = await until_idle(world, Status.FAILED_S3_UPLOAD)
    assert "KeyTooLongError" in (checkpoint.meta.failure_reason or "")


async def test_p7_a_put_takes_a_slot_of_the_parts(world: World) -> None:
    for number in range(12):
        world.append(SIZE, f"{number}.mp4")
    world.endpoint.faults.arm(Fault(Kind.SLOW, "PutObject", Moment.REPLY, times=None, seconds=1))
    async with world.daemon() as daemon:
        for number in range(12):
            daemon.closed(f"{number}.mp4")
        await until(lambda: puts(world) == 4)
        assert daemon.services.part_slots.available_tokens == 0
        await completed(world)
    assert len(world.recordings()) == 12


async def test_p2_a_recording_that_grows_while_its_put_waits_for_a_slot_is_not_sent_before_it_ends(
    world: World,
) -> None:
    for number in range(5):
        world.append(SIZE // 2, f"{number}.mp4")
    world.endpoint.faults.arm(Fault(Kind.SLOW, "PutObject", Moment.REPLY, times=None, seconds=20))
    async with world.daemon() as daemon:
        for number in range(4):
            daemon.closed(f"{number}.mp4")
        await until(lambda: puts(world) == 4)
        daemon.closed("4.mp4")
        await trio.sleep(5)
        assert daemon.services.part_slots.statistics().tasks_waiting
        world.append(SIZE // 4, "4.mp4")
        world.endpoint.faults.clear()
        await trio.sleep(60)
        daemon.closed("4.mp4")
        await completed(world)
    assert puts(world) == len(world.recordings()) == 5
    assert world.content("4.mp4") in world.recordings()


@pytest.mark.parametrize("end", ["aborted", "deleted", "failed"])
async def test_p5_a_stream_that_ends_while_s3_has_a_damaged_object_of_it_names_it(world: World, end: str) -> None:
    """A store that ignores checksums keeps what it damaged (world 870136); nothing may take it for the recording."""
    world.append(SIZE)
    world.endpoint.faults.arm(Fault(Kind.DAMAGE, "PutObject", times=None, predicate=of_a_recording))
    async with world.daemon() as daemon:
        daemon.closed()
        await until(lambda: bool(world.recordings()))
        (stream,) = world.known()
        if end == "aborted":
            await world.store.request_abort([stream.meta.stream_id])
        elif end == "deleted":
            Path(world.path("a.mp4")).unlink()
            daemon.gone()
        await trio.sleep(3600)
    (ended,) = world.known()
    assert ended.meta.status in ENDED
    assert len(world.recordings()) == 1
    assert f"it may be deleted: {ended.meta.s3_key_prefix}" in (ended.meta.failure_reason or "")
    assert orphan_objects(world) == []
