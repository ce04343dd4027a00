"""The parts of a completed stream are in its metadata JSON: Redis keeps none, and cost still follows what changed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import trio
from waiting import completed, until

from cef_trio.checkpoint.model import Checkpoint
from cef_trio.lab.world import BUCKET, PART, World
from cef_trio.media.metadata import metadata_json
from cef_trio.s3.checksums import combine_crc64nvme, crc64nvme
from cef_trio.s3.config import ChecksumMode
from cef_trio.s3_endpoint import Fault, Kind
from cef_trio.upload.object_key import MAX_METADATA_BYTES, metadata_key
from cef_trio.upload.object_match import parts_of_object, read_metadata
from cef_trio.upload.part_plan import MAX_PARTS


async def uploaded(world: World, size_bytes: int = 4 * PART) -> Checkpoint:
    """A completed recording; the counters of calls and bytes are reset."""
    world.append(size_bytes)
    async with world.daemon() as daemon:
        daemon.closed()
        (checkpoint,) = await completed(world)
        await trio.sleep(1)
    assert world.store.snapshot().streams[checkpoint.meta.stream_id].parts == {}
    assert len(checkpoint.parts) == -(-size_bytes // PART)
    assert checkpoint.meta.object_crc64nvme is not None
    world.endpoint.log.calls.clear()
    world.endpoint.log.received_bytes.clear()
    return checkpoint


async def again(world: World) -> None:
    async with world.daemon() as daemon:
        await trio.sleep(1)
        daemon.closed()
        await trio.sleep(60)
        await completed(world)


async def test_p2_parts_of_a_completed_recording_that_grew_are_copied(world: World) -> None:
    await uploaded(world)
    world.append(10)
    await again(world)
    assert world.endpoint.log.calls["UploadPartCopy"] == 4
    assert world.received_bytes() == 10


@pytest.mark.parametrize("touched", [True, False])
async def test_p1_without_its_metadata_json_a_recording_is_compared_whole(world: World, touched: bool) -> None:
    checkpoint = await uploaded(world)
    world.endpoint.model.delete_object(BUCKET, metadata_key(checkpoint.meta.s3_key_prefix))
    if touched:
        os.utime(world.path(), ns=(1, 1))
    else:
        world.append(10)
    await again(world)
    assert world.received_bytes() == (0 if touched else 4 * PART + 10)
    assert world.content() in world.recordings()


async def test_p6_while_s3_refuses_the_metadata_json_a_changed_recording_is_uploaded(world: World) -> None:
    await uploaded(world)
    world.append(10)
    world.endpoint.faults.arm(Fault(Kind.ERROR, "GetObject", code="AccessDenied", times=None))
    await again(world)
    assert world.received_bytes() == 4 * PART + 10
    assert world.content() in world.recordings()


async def test_p2_the_parts_in_the_record_of_an_earlier_version_are_used(world: World) -> None:
    """Its metadata JSON has no checksums of parts."""
    checkpoint = await uploaded(world)
    stored = world.store._streams[checkpoint.meta.stream_id]
    world.store._streams[checkpoint.meta.stream_id] = replace(stored, parts=checkpoint.parts)
    world.append(10)
    world.endpoint.faults.arm(Fault(Kind.ERROR, "GetObject", code="AccessDenied", times=None))
    await again(world)
    assert world.endpoint.log.calls["UploadPartCopy"] == 4
    assert world.received_bytes() == 10


Edit = Callable[[dict[str, Any]], object]
EDITS: dict[str, Edit] = {
    "another object": lambda document: document.update(etag="other"),
    "a part's checksum": lambda document: document["chunks"][0].update(crc64nvme="AAAAAAAAAAA="),
    "a part's size": lambda document: document["chunks"][0].update(size_bytes=1),
    "no checksums": lambda document: [chunk.pop("crc64nvme") for chunk in document["chunks"]],
    "one has none": lambda document: document["chunks"][0].pop("crc64nvme"),
    "no checksum": lambda document: document["chunks"][0].update(crc64nvme="?"),
    "another type": lambda document: document["chunks"][0].update(checksum=1),
    "no time": lambda document: document["chunks"][0].update(uploaded_at_utc="now"),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
async def test_p1_a_metadata_json_that_is_not_of_just_this_object_has_no_parts(world: World, edit: Edit) -> None:
    checkpoint = await uploaded(world)
    meta = checkpoint.meta
    parts = {number: replace(part, checksum="x") for number, part in checkpoint.parts.items()}
    document = json.loads(metadata_json(meta, list(parts.values()), None, processed_at_utc=meta.started_at_utc))
    assert parts_of_object(meta, read_metadata(json.dumps(document).encode(), meta.stream_id)) == parts
    edit(document)
    assert parts_of_object(meta, read_metadata(json.dumps(document).encode(), meta.stream_id)) == {}


async def test_p2_a_recording_that_was_only_touched_needs_no_request(world: World) -> None:
    await uploaded(world)
    os.utime(world.path(), ns=(1, 1))
    await again(world)
    assert world.received_bytes() == 0
    assert world.endpoint.log.calls["GetObject"] == 0


async def test_p1_without_its_parts_a_completed_object_keeps_the_checksum_that_s3_gave(world: World) -> None:
    """Redis evicted the hash of the parts between the completion and the metadata JSON."""
    world.append(4 * PART)
    no_metadata = Fault(
        Kind.ERROR,
        "PutObject",
        code="InternalError",
        times=None,
        predicate=lambda call: (call.key or "").endswith(metadata_key("")),
    )
    world.endpoint.faults.arm(no_metadata)
    async with world.daemon() as daemon:
        daemon.closed()
        await until(lambda: bool(world.recordings()))
        await trio.sleep(1)
    world.endpoint.faults.clear()
    (checkpoint,) = world.store.snapshot().streams.values()
    assert checkpoint.meta.object_crc64nvme == crc64nvme(world.content())
    stream_id = checkpoint.meta.stream_id
    world.store._streams[stream_id] = replace(world.store._streams[stream_id], parts={})
    async with world.daemon():
        (checkpoint,) = await completed(world)
    assert checkpoint.meta.object_crc64nvme == crc64nvme(world.content())


@pytest.mark.parametrize("checksum", [ChecksumMode.MD5, ChecksumMode.SHA256])
async def test_p1_a_metadata_json_that_was_forged_proves_no_copy(world: World, checksum: ChecksumMode) -> None:
    """Its checksums are of the changed file, and add up to the object's; the ETags are of the object's other bytes."""
    world.checksum = checksum
    checkpoint = await uploaded(world)
    meta = checkpoint.meta
    world.patch(PART, b"another")
    world.append(10)
    crcs = [crc64nvme(world.content()[PART * n : PART * (n + 1)]) for n in range(3)]
    rest = combine_crc64nvme([(crc, PART) for crc in crcs] + [(0, PART)]) ^ (meta.object_crc64nvme or 0)
    forged = {n: replace(checkpoint.parts[n], crc64nvme=crc) for n, crc in enumerate([*crcs, rest], start=1)}
    document = metadata_json(meta, list(forged.values()), None, processed_at_utc=meta.started_at_utc)
    assert parts_of_object(meta, read_metadata(document, meta.stream_id)) == forged
    async with world.foreign_client() as s3:
        key = metadata_key(meta.s3_key_prefix)
        await s3.put_object(key, document, content_type="application/json", metadata={})
    await again(world)
    assert world.content() in world.recordings()
    assert len(world.recordings()) == 2


async def test_p7_the_longest_metadata_json_is_within_the_limit_of_what_is_read(world: World) -> None:
    checkpoint = await uploaded(world)
    meta, part = checkpoint.meta, checkpoint.parts[1]
    longest = replace(part, size_bytes=5 << 30, etag="f" * 32, crc64nvme=2**64 - 1, checksum="x" * 44)
    parts = [replace(longest, part_number=number) for number in range(1, MAX_PARTS + 1)]
    meta = replace(meta, original_path="/" + os.fsdecode(b"\xff" * 4095))
    document = metadata_json(meta, parts, None, processed_at_utc=meta.started_at_utc)
    assert len(document) < 0.75 * MAX_METADATA_BYTES
