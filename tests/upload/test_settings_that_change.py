"""Settings that change between two runs of a daemon: recorded values hold, or the change is handled (kind 13).

The table of all settings is in docs/operations.md; ``tests/house/test_settings_table.py`` keeps it whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog.testing
import trio
from waiting import completed, until_idle

from cef_trio.checkpoint.commit import Change
from cef_trio.checkpoint.model import Lease, StreamMeta
from cef_trio.checkpoint.states import Status
from cef_trio.lab.world import AUTO_PART_SIZE, BUCKET, OTHER_BUCKET, PART, World, WorldDaemon
from cef_trio.observability.at_risk import PATIENCE_SECONDS, Reason
from cef_trio.s3.config import ChecksumMode
from cef_trio.s3_endpoint import CallInfo, Fault, Kind
from cef_trio.settings.object_options import ObjectOptions
from cef_trio.upload.object_key import metadata_key

SIZE = 3 * PART + 10


async def interrupted(world: World) -> StreamMeta:
    """An open stream with three parts and no task."""
    world.append(SIZE)
    async with world.daemon():
        await trio.sleep(1)
    return record(world)


def record(world: World) -> StreamMeta:
    (checkpoint,) = world.known()
    return checkpoint.meta


async def finish(world: World) -> StreamMeta:
    async with world.daemon() as daemon:
        daemon.closed()
        await completed(world)
    return record(world)


def change(**values: object) -> Callable[[World], None]:
    def apply(world: World) -> None:
        for name, value in values.items():
            setattr(world, name, value)

    return apply


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(change(part_size=PART // 2), id="CHUNK_SIZE_BYTES"),
        pytest.param(change(auto_part_size=AUTO_PART_SIZE), id="CHUNK_SIZE_BYTES=auto"),
        pytest.param(change(equal_parts=True), id="S3_EQUAL_PARTS"),
        pytest.param(change(checksum=ChecksumMode.SHA256), id="S3_CHECKSUM"),
        pytest.param(change(key_template="other/{stream_id}.mp4"), id="S3_KEY_TEMPLATE"),
        pytest.param(
            change(options=ObjectOptions(tags=(("a", "b"),))), id="S3_TAGS and what else objects are put with"
        ),
        pytest.param(change(s3_name="https://another.name"), id="S3_ENDPOINT_URL, another name of the store"),
        pytest.param(change(webhook=True), id="ON_COMPLETE_WEBHOOK"),
    ],
)
async def test_p2_an_open_stream_is_held_to_what_was_recorded_with_it(
    world: World, changed: Callable[[World], None]
) -> None:
    world.s3_name = "https://s3.example"
    before = await interrupted(world)
    changed(world)
    after = await finish(world)
    assert world.recordings() == [world.content()]
    assert world.received_bytes() == SIZE
    for name in ("stream_id", "s3_key_prefix", "part_size", "equal_parts", "checksum_algorithm", "s3_upload_id"):
        assert getattr(after, name) == getattr(before, name), name
    assert after.s3_endpoint == world.s3_name


async def test_p2_another_instance_goes_on_when_the_old_ones_lease_is_over(world: World) -> None:
    world.append(SIZE)
    async with world.killed_daemon():
        await trio.sleep(1)
    async with world.services(instance="renamed") as services, trio.open_nursery() as nursery:
        daemon = WorldDaemon(world, services)
        nursery.start_soon(daemon.run)
        await completed(world, seconds=services.lease.ttl_seconds + 60)
        daemon.shutdown.request()
    assert world.received_bytes() == SIZE


async def test_p9_a_stream_of_another_bucket_starts_over_and_its_old_upload_is_named_and_left(world: World) -> None:
    before = await interrupted(world)
    world.bucket = OTHER_BUCKET
    with structlog.testing.capture_logs() as logs:
        after = await finish(world)
    assert (after.stream_id, after.s3_bucket) == (before.stream_id, OTHER_BUCKET)
    assert world.objects(OTHER_BUCKET)[after.s3_key_prefix] == world.content()
    assert json.loads(world.objects(OTHER_BUCKET)[metadata_key(after.s3_key_prefix)])["s3_bucket"] == OTHER_BUCKET
    assert world.objects(BUCKET) == {}
    assert world.open_uploads() == [before.s3_key_prefix], "it is the other bucket's: `cef-trio gc` there ends it"
    (named,) = [entry for entry in logs if entry["event"] == "upload_left_behind"]
    assert (named["bucket"], named["upload_id"]) == (BUCKET, before.s3_upload_id)


async def test_a_bucket_that_is_set_back_before_a_daemon_ran_changes_nothing(world: World) -> None:
    await interrupted(world)
    world.bucket = OTHER_BUCKET
    world.bucket = BUCKET
    await finish(world)
    assert world.received_bytes() == SIZE


async def without_its_metadata(world: World) -> StreamMeta:
    """A stream whose object is complete, and whose metadata is still to be written."""

    def is_metadata(call: CallInfo) -> bool:
        return (call.key or "").endswith(".json")

    world.append(SIZE)
    world.endpoint.faults.arm(Fault(Kind.ERROR, "PutObject", predicate=is_metadata, code="InternalError", times=None))
    async with world.daemon() as daemon:
        daemon.closed()
        await trio.sleep(5)
    world.endpoint.faults.clear()
    assert record(world).object_etag is not None
    return record(world)


@pytest.mark.parametrize("which", ["bucket", "store"])
async def test_p6_an_object_that_the_settings_do_not_lead_to_fails_with_advice_and_loses_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    world.s3_name = "https://s3.example"
    before = await without_its_metadata(world)
    if which == "bucket":
        world.bucket = OTHER_BUCKET
    else:
        world.s3_name = "https://another.store"
        world.endpoint.faults.arm(Fault(Kind.ERROR, "HeadObject", code="NoSuchKey", times=None))
    async with world.daemon() as daemon:
        await until_idle(world, Status.FAILED_FINALIZATION)
        await trio.sleep(PATIENCE_SECONDS + 1)
        assert [risk.reason for risk in daemon.at_risk] == [Reason.FAILED]  # promise P10
    assert "cef-trio retry" in (record(world).failure_reason or "")
    assert world.objects(OTHER_BUCKET) == {}
    world.bucket, world.s3_name = BUCKET, "https://s3.example"
    world.endpoint.faults.clear()
    person = Lease("command", "1", 30.0)
    assert await world.store.acquire(before.stream_id, person)
    await world.store.transition(before.stream_id, person, Status.S3_COMPLETED, Change({"failure_reason": None}))
    await world.store.release([before.stream_id], person)
    await finish(world)
    assert world.received_bytes() == SIZE
    assert metadata_key(before.s3_key_prefix) in world.objects()


async def test_p1_a_file_that_changed_since_its_object_was_completed_elsewhere_is_uploaded_to_the_new_bucket(
    world: World,
) -> None:
    """Seed 6328: the failed stream kept its changed file from being uploaded."""
    before = await without_its_metadata(world)
    world.append(PART)
    world.bucket = OTHER_BUCKET
    async with world.daemon() as daemon:
        daemon.closed()
        await until_idle(world, Status.FAILED_FINALIZATION, Status.COMPLETED)
        await trio.sleep(PATIENCE_SECONDS + 1)
        assert daemon.at_risk == ()
    (after,) = [known.meta for known in world.known() if known.meta.status is Status.COMPLETED]
    assert world.objects(OTHER_BUCKET)[after.s3_key_prefix] == world.content()
    assert set(world.objects()) == {before.s3_key_prefix}
    assert after.supersedes_stream_id == before.stream_id


async def test_p2_a_touch_sends_nothing_of_a_recording_whose_metadata_failed(world: World) -> None:
    await without_its_metadata(world)
    world.bucket = OTHER_BUCKET
    for _ in range(2):
        async with world.daemon() as daemon:
            daemon.closed()
            await until_idle(world, Status.FAILED_FINALIZATION)
            touched = world.stat()
            daemon.seen()
            await trio.sleep(10)
        assert record(world).verified_mtime_ns == touched.mtime_ns
    assert world.received_bytes() == SIZE


async def test_a_stream_of_another_store_starts_over_there_and_that_is_no_lost_upload(world: World) -> None:
    world.s3_name = "https://s3.example"
    before = await interrupted(world)
    await world.abort_open_uploads()  # as a store that never had it
    world.s3_name = "https://another.store"
    with structlog.testing.capture_logs() as logs:
        after = await finish(world)
    assert after.uploads_restarted == 0
    assert after.s3_endpoint == "https://another.store"
    (named,) = [entry for entry in logs if entry["event"] == "upload_left_behind"]
    assert (named["endpoint"], named["upload_id"]) == ("https://s3.example", before.s3_upload_id)


async def test_a_stream_without_an_upload_is_recorded_at_the_store_that_it_is_uploaded_to(world: World) -> None:
    """It stayed recorded at the store of its first life, where nothing of it is."""
    world.s3_name = "https://s3.example"
    world.append(PART // 2)
    async with world.daemon():
        await trio.sleep(1)
    assert (record(world).s3_upload_id, record(world).s3_endpoint) == (None, "https://s3.example")
    world.s3_name = "https://another.store"
    world.append(PART)
    after = await finish(world)
    assert after.s3_endpoint == "https://another.store"
    assert world.recordings() == [world.content()]


async def test_p2_a_record_that_names_no_endpoint_goes_on(world: World) -> None:
    """As every record of an earlier version."""
    assert (await interrupted(world)).s3_endpoint is None
    world.s3_name = "https://s3.example"
    assert (await finish(world)).s3_endpoint == "https://s3.example"
    assert world.received_bytes() == SIZE


async def test_a_key_is_made_when_its_upload_begins_from_the_file_name_of_that_time(world: World) -> None:
    """A temporary name and a template, both changed before the first part is complete."""
    world.append(PART // 2, "rec.tmp.mp4")
    async with world.daemon():
        await trio.sleep(1)
    assert record(world).s3_upload_id is None
    world.key_template = "other/{file_name}/{stream_id}"
    async with world.daemon() as daemon:
        await trio.sleep(1)
        Path(world.path("rec.tmp.mp4")).rename(world.path("rec.mp4"))
        daemon.moved("rec.tmp.mp4", "rec.mp4")
        await trio.sleep(1)
        world.append(2 * PART, "rec.mp4")
        daemon.closed("rec.mp4")
        await completed(world)
    meta = record(world)
    assert meta.s3_key_prefix == f"other/rec.mp4/{meta.stream_id}"
    assert set(world.objects()) == {meta.s3_key_prefix, metadata_key(meta.s3_key_prefix)}
    document = json.loads(world.objects()[metadata_key(meta.s3_key_prefix)])
    assert document["original_file_path"] == world.path("rec.mp4")
    assert document["s3_key_prefix"] == meta.s3_key_prefix


@pytest.mark.parametrize("size_bytes", [0, 10, PART - 1])
async def test_a_recording_that_is_renamed_before_its_first_part_is_stored_under_its_last_name(
    world: World, size_bytes: int
) -> None:
    world.append(size_bytes, "rec.tmp.mp4")
    async with world.daemon() as daemon:
        await trio.sleep(1)
        Path(world.path("rec.tmp.mp4")).rename(world.path("rec.mp4"))
        daemon.moved("rec.tmp.mp4", "rec.mp4")
        daemon.closed("rec.mp4")
        await completed(world)
    meta = record(world)
    assert meta.s3_key_prefix.endswith("/rec.mp4")
    document = json.loads(world.objects()[metadata_key(meta.s3_key_prefix)])
    assert document["original_file_path"] == world.path("rec.mp4")
    assert world.recordings() == [world.content("rec.mp4")]


async def test_a_recording_that_is_renamed_after_its_first_part_keeps_its_key(world: World) -> None:
    world.append(PART, "rec.tmp.mp4")
    async with world.daemon() as daemon:
        await trio.sleep(1)
        Path(world.path("rec.tmp.mp4")).rename(world.path("rec.mp4"))
        daemon.moved("rec.tmp.mp4", "rec.mp4")
        daemon.closed("rec.mp4")
        await completed(world)
    assert record(world).s3_key_prefix.endswith("/rec.tmp.mp4")
    assert world.received_bytes() == PART
