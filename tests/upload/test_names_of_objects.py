"""Keys of all fields: what is found again by them, and when they are fixed (P2, P5, P9).

Redis loses everything between two daemons, a day passes, files move between folders, and names hold other streams' ids.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog
import trio
from waiting import completed, until

from cef_trio.checkpoint.commit import Change
from cef_trio.checkpoint.model import Checkpoint, Lease, StreamMeta
from cef_trio.files import SECOND_NS, file_system, reader
from cef_trio.lab.world import EPOCH, PART, World
from cef_trio.resilience.best_effort import PAUSE_SECONDS
from cef_trio.upload.object_key import metadata_key
from cef_trio.upload.orphan_cleanup import PERIOD_SECONDS

LATER = 2 * 3600.0
"""After the hour that the keys name; seconds."""
ANOTHER = Lease("another", "token", 30.0)
TEMPLATES = (
    "x/{relative_dir}/{year}-{month}-{day}T{hour}/{file_stem}-{stream_id}{file_ext}",
    "x/{year}/{month}/{day}/{hour}/{relative_dir}/{file_name}/{file_stem}/{stream_id}{file_ext}",
    "x/{stream_id}/{relative_dir}/{file_name}",
    "x/{day}{stream_id}",
)
NAMES = ("a.mp4", "cam1/a.mp4", "cam1/front door/a.mp4", "cäm%41\n/a.mp4")
SENDS = ("CreateMultipartUpload", "UploadPart", "UploadPartCopy", "CompleteMultipartUpload", "PutObject")


async def uploaded(world: World) -> Checkpoint:
    """Let a daemon upload the recording of the first camera, which is closed."""
    async with world.daemon() as daemon:
        daemon.closed("cam1/a.mp4")
        (checkpoint,) = await completed(world)
    return checkpoint


@pytest.fixture
async def world(world: World) -> World:
    await trio.lowlevel.checkpoint()
    world.key_template = TEMPLATES[0]
    for name in (*NAMES, "cam2/a.mp4", "tmp/a.mp4"):
        Path(world.path(name)).parent.mkdir(parents=True, exist_ok=True)
    return world


def record(world: World) -> StreamMeta:
    (checkpoint,) = world.known()
    return checkpoint.meta


def key(meta: StreamMeta, folder: str, name: str = "a") -> str:
    return f"x/{folder}/{EPOCH:%Y-%m-%dT%H}/{name}-{meta.stream_id}.mp4"


def sent(world: World) -> int:
    return sum(world.endpoint.log.calls[operation] for operation in SENDS)


def move(world: World, old: str, new: str) -> None:
    Path(world.path(old)).rename(world.path(new))


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", NAMES)
async def test_p2_an_open_upload_is_found_by_its_key_after_redis_lost_everything(
    world: World, template: str, name: str
) -> None:
    world.key_template = template
    world.append(3 * PART + 10, name)
    async with world.daemon():
        await until_parts(world, 3)
    before = record(world)
    world.lose_redis()
    await trio.sleep(LATER)
    world.append(PART, name)
    async with world.daemon() as daemon:
        daemon.closed(name)
        (after,) = await completed(world)
    assert after.meta.stream_id == before.stream_id
    assert after.meta.s3_key_prefix == before.s3_key_prefix
    assert world.received_bytes() == 4 * PART + 10
    assert world.recordings() == [world.content(name)]
    assert world.open_uploads() == []


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size_bytes", [10, 2 * PART])
async def test_p2_a_completed_recording_is_found_by_its_key_after_redis_lost_everything(
    world: World, template: str, name: str, size_bytes: int
) -> None:
    world.key_template = template
    world.append(size_bytes, name)
    async with world.daemon() as daemon:
        daemon.closed(name)
        (before,) = await completed(world)
    world.endpoint.log.reset()
    await trio.sleep(LATER)
    world.lose_redis()
    async with world.daemon():
        (after,) = await completed(world)
        await trio.sleep(30)
    assert sent(world) == 0
    assert after.meta.s3_key_prefix == before.meta.s3_key_prefix
    assert after.meta.recording_began_at_utc == before.meta.recording_began_at_utc


async def test_files_of_one_name_in_two_folders_find_their_own_uploads_without_comparing_the_others(
    world: World,
) -> None:
    for name in ("cam1/a.mp4", "cam2/a.mp4"):
        world.append(2 * PART, name)
    async with world.daemon():
        await until_parts(world, 4)
    keys = {checkpoint.meta.current_path: checkpoint.meta.s3_key_prefix for checkpoint in world.known()}
    world.lose_redis()
    world.endpoint.log.reset()
    async with world.daemon() as daemon:
        daemon.closed("cam1/a.mp4")
        daemon.closed("cam2/a.mp4")
        after = await completed(world)
    assert {one.meta.current_path: one.meta.s3_key_prefix for one in after} == keys
    assert world.endpoint.log.calls["UploadPart"] == 0
    assert world.endpoint.log.calls["ListParts"] == 2


async def until_parts(world: World, parts: int) -> None:
    await until(lambda: sum(len(checkpoint.parts) for checkpoint in world.known()) >= parts)


@pytest.mark.parametrize("size_bytes", [10, 2 * PART])
async def test_a_recording_that_is_moved_before_its_upload_is_created_has_the_key_of_its_last_folder(
    world: World, size_bytes: int
) -> None:
    world.append(10, "tmp/a.mp4")
    async with world.daemon() as daemon:
        await trio.sleep(1)
        move(world, "tmp/a.mp4", "cam1/a.mp4")
        daemon.moved("tmp/a.mp4", "cam1/a.mp4")
        await trio.sleep(1)
        world.append(size_bytes, "cam1/a.mp4")
        daemon.closed("cam1/a.mp4")
        await completed(world)
    meta = record(world)
    assert meta.s3_key_prefix == key(meta, "cam1")
    document = json.loads(world.objects()[metadata_key(meta.s3_key_prefix)])
    assert document["s3_key_prefix"] == meta.s3_key_prefix
    assert document["relative_path"] == "cam1/a.mp4"


async def test_a_recording_that_is_moved_while_no_daemon_runs_has_the_key_of_its_last_folder(world: World) -> None:
    world.append(10, "tmp/a.mp4")
    async with world.daemon():
        await until(world.known)
    move(world, "tmp/a.mp4", "cam1/a.mp4")
    await uploaded(world)
    meta = record(world)
    assert meta.s3_key_prefix == key(meta, "cam1")


async def test_a_recording_that_is_moved_after_its_upload_was_created_keeps_its_key(world: World) -> None:
    world.append(PART, "cam1/a.mp4")
    async with world.daemon() as daemon:
        await until_parts(world, 1)
        before = record(world).s3_key_prefix
        move(world, "cam1/a.mp4", "cam2/b.mp4")
        daemon.moved("cam1/a.mp4", "cam2/b.mp4")
        world.append(PART, "cam2/b.mp4")
        daemon.closed("cam2/b.mp4")
        await completed(world)
    meta = record(world)
    assert meta.s3_key_prefix == before == key(meta, "cam1")


async def test_the_date_is_that_of_the_recordings_start_whenever_its_upload_is_created(world: World) -> None:
    world.append(10, "cam1/a.mp4")
    async with world.daemon():
        await trio.sleep(1)
    await trio.sleep(LATER)
    world.append(10, "cam1/a.mp4")
    await uploaded(world)
    meta = record(world)
    assert meta.s3_key_prefix == key(meta, "cam1")


async def test_a_record_of_an_earlier_version_is_dated_by_its_birth_or_the_begin_of_its_stream(world: World) -> None:
    world.append(10, "cam1/a.mp4")
    async with world.daemon():
        await trio.sleep(1)
    stream_id = record(world).stream_id
    assert await world.store.acquire(stream_id, ANOTHER)
    await world.store.update(stream_id, ANOTHER, Change({"recording_began_at_utc": None}))
    await world.store.release([stream_id], ANOTHER)
    assert record(world).recording_began_at_utc is None
    await trio.sleep(LATER)
    await uploaded(world)
    meta = record(world)
    assert meta.s3_key_prefix == key(meta, "cam1")


async def test_a_recording_that_changes_after_its_completion_keeps_its_date(world: World) -> None:
    world.append(2 * PART, "cam1/a.mp4")
    async with world.daemon() as daemon:
        daemon.closed("cam1/a.mp4")
        await completed(world)
        await trio.sleep(LATER)
        world.append(PART, "cam1/a.mp4")
        daemon.closed("cam1/a.mp4")
        await trio.sleep(60)
    later = next(one.meta for one in world.known() if one.meta.supersedes_key is not None)
    assert later.s3_key_prefix == key(later, "cam1")


@pytest.fixture
def born_at_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (reader, file_system):
        monkeypatch.setattr(module, "birth_ns", lambda *_: int(EPOCH.timestamp()) * SECOND_NS)


async def completed_and_changed(
    world: World, change: Callable[[str], object], *, grows_after_seconds: float = 1
) -> StreamMeta:
    """Complete a recording; change its file two hours later, and let it grow; return the record of that."""
    world.stream_timeout_seconds = 30.0
    async with world.daemon() as daemon:
        world.append(3 * PART, "cam1/a.mp4")
        daemon.closed("cam1/a.mp4")
        (first,) = await completed(world)
        await trio.sleep(LATER)
        change(world.path("cam1/a.mp4"))
        daemon.seen("cam1/a.mp4")
        await trio.sleep(grows_after_seconds)
        world.append(2 * PART, "cam1/a.mp4")
        daemon.closed("cam1/a.mp4")
        await trio.sleep(60)
    assert first.meta.recording_began_at_utc == EPOCH
    later = {
        one.meta.verified_size_bytes: one.meta for one in world.known() if one.meta.stream_id != first.meta.stream_id
    }
    return later[Path(world.path("cam1/a.mp4")).stat().st_size]


@pytest.mark.usefixtures("born_at_epoch")
@pytest.mark.parametrize("empty_seconds", [1, 120])
async def test_a_file_that_was_emptied_and_is_written_anew_has_the_date_of_that(
    world: World, empty_seconds: float
) -> None:
    """As by ``ffmpeg -y``: the inode is that of the first recording, and so is its birth.

    One that stays empty is completed as such; what is written then supersedes that.
    """
    later = await completed_and_changed(world, lambda path: os.truncate(path, 0), grows_after_seconds=empty_seconds)
    began = later.recording_began_at_utc
    assert began is not None
    assert LATER <= (began - EPOCH).total_seconds() < LATER + 60
    assert later.s3_key_prefix == f"x/cam1/{began:%Y-%m-%dT%H}/a-{later.stream_id}.mp4" != key(later, "cam1")


@pytest.mark.usefixtures("born_at_epoch")
@pytest.mark.parametrize("left_bytes", [PART, 10])
async def test_a_file_that_was_cut_keeps_its_date(world: World, left_bytes: int) -> None:
    """Of less than a part nothing shows whether its bytes are of the first recording."""
    later = await completed_and_changed(world, lambda path: os.truncate(path, left_bytes))
    assert later.recording_began_at_utc == EPOCH
    assert later.s3_key_prefix == key(later, "cam1")


@pytest.mark.usefixtures("born_at_epoch")
async def test_another_file_of_the_same_name_keeps_its_birth(world: World) -> None:
    def replace_it(path: str) -> None:
        Path(f"{path}.new").touch()
        Path(f"{path}.new").rename(path)

    later = await completed_and_changed(world, replace_it)
    assert later.recording_began_at_utc == EPOCH


async def test_an_upload_that_s3_lost_is_begun_again_under_the_same_date(world: World) -> None:
    world.append(2 * PART, "cam1/a.mp4")
    async with world.daemon():
        await until_parts(world, 2)
    await world.abort_open_uploads()
    await trio.sleep(LATER)
    await uploaded(world)
    meta = record(world)
    assert meta.s3_key_prefix == key(meta, "cam1")


async def test_p9_an_upload_whose_file_is_called_like_an_ended_stream_is_not_aborted(world: World) -> None:
    """The cleanup would take it for an orphan of that stream."""
    world.append(10, "cam1/a.mp4")
    ended = await uploaded(world)
    names = [f"b-{ended.meta.stream_id}.mp4", f"{ended.meta.stream_id}.mp4", f"c-{ended.meta.stream_id}-.mp4"]
    world.stream_timeout_seconds = 10 * PERIOD_SECONDS
    for name in names:
        world.append(PART + 10, name)
    with structlog.testing.capture_logs() as logs:
        async with world.daemon():
            await until_parts(world, len(names))
            await trio.sleep(2 * (PAUSE_SECONDS + PERIOD_SECONDS))
            assert len(world.open_uploads()) == len(names)
    assert not [entry for entry in logs if entry["event"] == "orphan_upload_aborted"]
