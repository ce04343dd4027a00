"""A stream from its first byte to its metadata, on a virtual clock: ordinary writers, and writers that rewrite."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock
from waiting import completed, until, until_idle

from cef_trio.checkpoint.states import Status, StreamSet
from cef_trio.exceptions import ChunkProcessingError
from cef_trio.files.file_stat import FileStat
from cef_trio.files.reader import regular_file_stat
from cef_trio.lab.disk import InlineDisk
from cef_trio.lab.world import PART, World
from cef_trio.s3_endpoint import Fault, Kind
from cef_trio.watch.events import Moved, Scanned


@pytest.mark.parametrize("size_bytes", [0, 1, PART - 1, PART, PART + 1, 7 * PART + 123])
async def test_p1_a_file_of_any_size_arrives_as_it_is(world: World, size_bytes: int) -> None:
    world.append(size_bytes)
    async with world.daemon() as daemon:
        daemon.closed()
        (checkpoint,) = await completed(world)
    assert world.recordings() == [world.content()]
    assert checkpoint.meta.total_bytes_sent == size_bytes
    assert len(checkpoint.parts) == -(-size_bytes // PART)
    assert world.open_uploads() == []


async def test_parts_go_up_while_the_recording_grows(world: World) -> None:
    world.append(PART // 2)
    async with world.daemon() as daemon:
        for expected in range(6):
            world.append(PART)
            daemon.seen()
            await trio.sleep(1)
            assert world.endpoint.log.calls["UploadPart"] == expected + 1
        assert world.recordings() == []
        daemon.closed()
        await completed(world)
    assert world.recordings() == [world.content()]


async def test_the_metadata_is_stored_beside_the_object_and_its_chunks_add_up(world: World) -> None:
    world.append(3 * PART + 5)
    async with world.daemon() as daemon:
        daemon.closed()
        (checkpoint,) = await completed(world)
    key = checkpoint.meta.s3_key_prefix
    metadata = json.loads(world.objects()[f"{key}.metadata.json"])
    assert metadata["stream_id"] == checkpoint.meta.stream_id
    assert [chunk["size_bytes"] for chunk in metadata["chunks"]] == [PART, PART, PART, 5]
    assert metadata["total_size_bytes"] == 3 * PART + 5
    assert metadata["etag"] == checkpoint.meta.object_etag


async def test_p1_bytes_that_are_patched_after_they_were_sent_are_sent_again_and_only_those_parts(world: World) -> None:
    """The writer of a plain MP4 fills in the size of ``mdat`` when it closes."""
    world.append(5 * PART + 10)
    async with world.daemon() as daemon:
        await trio.sleep(1)
        assert world.endpoint.log.calls["UploadPart"] == 5
        world.patch(32, b"the size")
        world.patch(3 * PART + 7, b"and an index")
        daemon.closed()
        (checkpoint,) = await completed(world)
    assert world.recordings() == [world.content()]
    assert checkpoint.meta.parts_rewritten == 2
    assert checkpoint.meta.bytes_rewritten == 2 * PART


async def test_p1_a_body_that_is_shifted_as_a_whole_is_sent_again_as_a_whole(world: World) -> None:
    """``+faststart`` shifts everything by the length of the index."""
    world.append(5 * PART + 10)
    async with world.daemon() as daemon:
        await trio.sleep(1)
        before = world.content()
        world.patch(0, b"moov" * 50 + before)
        daemon.closed()
        (checkpoint,) = await completed(world)
    assert world.recordings() == [b"moov" * 50 + before]
    assert checkpoint.meta.parts_rewritten == 5


async def test_p1_a_writer_that_goes_on_during_the_verification_is_waited_for(world: World) -> None:
    world.append(5 * PART)
    async with world.daemon() as daemon:
        slow = world.endpoint.faults.arm(Fault(Kind.SLOW, "UploadPart", seconds=5, times=None))
        daemon.closed()
        await trio.sleep(3)
        world.append(PART)
        world.patch(0, b"again")
        daemon.seen()
        await trio.sleep(3)
        world.endpoint.faults.disarm(slow)
        daemon.closed()
        await completed(world)
    assert world.recordings() == [world.content()]


async def test_a_file_that_is_closed_but_written_by_another_is_not_finalized(world: World) -> None:
    world.append(PART)
    world.has_writer = True
    async with world.daemon() as daemon:
        daemon.closed()
        await trio.sleep(10)
        assert world.endpoint.log.calls["CompleteMultipartUpload"] == 0
        world.has_writer = False
        daemon.closed()
        await completed(world)


async def test_a_file_without_a_close_ends_after_silence(world: World) -> None:
    world.append(2 * PART + 1)
    async with world.daemon() as daemon:
        began = trio.current_time()
        daemon.seen()
        await completed(world)
        assert world.stream_timeout_seconds <= trio.current_time() - began <= world.stream_timeout_seconds + 10


async def test_an_inaccessible_file_does_not_stop_others_from_being_finalized(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user of the folder may remove our permissions for a part of it."""
    world.append(100, "a.mp4")
    world.append(100, "b.mp4")
    stat = InlineDisk.stat

    async def refused(self: InlineDisk, path: str) -> FileStat | None:
        if path.endswith("a.mp4"):
            raise ChunkProcessingError(f"cannot look at {path!r}: Permission denied")
        return await stat(self, path)

    monkeypatch.setattr(InlineDisk, "stat", refused)
    async with world.daemon():
        await until(world.recordings, world.stream_timeout_seconds + 60)
        statuses = {checkpoint.meta.current_path[-5:]: checkpoint.meta.status for checkpoint in world.known()}
        assert statuses == {"a.mp4": Status.ACTIVE, "b.mp4": Status.COMPLETED}


async def test_a_file_that_was_there_before_and_has_no_writer_is_taken_at_once(world: World) -> None:
    world.has_writer = False
    world.append(2 * PART + 1)
    async with world.daemon():
        await completed(world, seconds=5)
    assert world.recordings() == [world.content()]


async def test_a_file_is_taken_once(world: World) -> None:
    world.append(2 * PART)
    for _ in range(3):
        async with world.daemon() as daemon:
            daemon.closed()
            await completed(world)
            daemon.supervisor.handle_event(world.scan())
            daemon.closed()
            await trio.sleep(60)
    assert world.endpoint.log.calls["CreateMultipartUpload"] == 1


async def test_a_finished_file_that_is_written_again_becomes_a_new_stream(world: World) -> None:
    world.append(2 * PART)
    async with world.daemon() as daemon:
        daemon.closed()
        await completed(world)
        world.append(PART)
        daemon.closed()
        await trio.sleep(60)
        assert len(await completed(world)) == 2
    assert world.content() in world.recordings()


async def test_a_renamed_recording_is_followed(world: World) -> None:
    world.append(2 * PART)
    async with world.daemon() as daemon:
        await trio.sleep(1)
        Path(world.path()).rename(world.path("b.mp4"))
        daemon.moved("a.mp4", "b.mp4")
        world.append(PART + 1, "b.mp4")
        daemon.closed("b.mp4")
        (checkpoint,) = await completed(world)
    assert world.recordings() == [world.content("b.mp4")]
    assert checkpoint.meta.original_path == world.path("a.mp4")
    assert checkpoint.meta.current_path == world.path("b.mp4")
    assert set(await world.store.find_by_path([world.path("a.mp4"), world.path("b.mp4")])) == {world.path("b.mp4")}


async def test_a_rename_that_only_a_scan_shows_is_followed(world: World) -> None:
    world.append(2 * PART)
    async with world.daemon() as daemon:
        await trio.sleep(1)
        Path(world.path()).rename(world.path("b.mp4"))
        daemon.supervisor.handle_event(world.scan())
        await trio.sleep(1)
        daemon.closed("b.mp4")
        (checkpoint,) = await completed(world)
    assert world.endpoint.log.calls["CreateMultipartUpload"] == 1
    assert checkpoint.meta.current_path == world.path("b.mp4")


async def test_a_deleted_recording_is_aborted(world: World) -> None:
    world.append(2 * PART)
    async with world.daemon() as daemon:
        await trio.sleep(1)
        Path(world.path()).unlink()
        daemon.gone()
        (checkpoint,) = await until_idle(world, Status.DELETED_LOCALLY)
    assert checkpoint.meta.failure_reason is not None
    assert world.open_uploads() == []
    assert world.objects() == {}


async def test_p2_a_recording_that_moved_within_a_big_tree_does_not_count_as_deleted_before_a_complete_scan(
    world: World,
) -> None:
    """A scan in progress had read the target folder before the move; the next scan takes long."""
    world.append(2 * PART)
    async with world.daemon() as daemon:
        await trio.sleep(1)
        under_way = Scanned({}, began_at=trio.current_time())
        Path(world.path()).rename(world.path("b.mp4"))
        asked: list[float] = []
        daemon.services.scans.request_scan = lambda: asked.append(trio.current_time())
        daemon.gone()
        await trio.sleep(30)
        daemon.supervisor.handle_event(under_way)
        await trio.sleep(30)
        assert len(asked) == 1
        daemon.supervisor.handle_event(world.scan())
        await trio.sleep(1)
        world.append(PART, "b.mp4")
        daemon.closed("b.mp4")
        (checkpoint,) = await completed(world)
    assert checkpoint.meta.current_path == world.path("b.mp4")
    assert world.endpoint.log.calls["CreateMultipartUpload"] == 1
    assert world.endpoint.log.calls["UploadPart"] == 3


async def test_p2_a_recording_that_is_renamed_twice_while_a_scan_is_waited_for_does_not_count_as_deleted(
    world: World,
) -> None:
    """The event of its second rename is lost."""
    world.append(2 * PART)
    async with world.daemon() as daemon:
        await trio.sleep(1)
        Path(world.path()).rename(world.path("c.mp4"))
        daemon.services.scans.request_scan = lambda: None
        daemon.gone()
        await trio.sleep(10)
        stat = regular_file_stat(Path(world.path("c.mp4")).stat())
        assert stat is not None
        daemon.supervisor.handle_event(Moved(world.path(), world.path("b.mp4"), stat))
        await trio.sleep(30)
        (checkpoint,) = world.known()
        assert checkpoint.stream_set is StreamSet.ACTIVE, "no scan began since it was missed"
        daemon.supervisor.handle_event(world.scan())
        await trio.sleep(1)
        daemon.closed("c.mp4")
        await completed(world)
    assert world.endpoint.log.calls["UploadPart"] == 2


async def test_p3_a_stream_whose_file_is_missing_at_a_start_waits_for_a_scan_of_it_all(world: World) -> None:
    world.append(2 * PART)
    async with world.daemon():
        await trio.sleep(1)
    Path(world.path()).rename(world.path("kept"))
    async with world.daemon() as daemon:
        daemon.services.scans.request_scan = lambda: None
        await trio.sleep(60)
        (checkpoint,) = world.known()
        assert checkpoint.stream_set is StreamSet.ACTIVE, "no scan began since it was missed"
        Path(world.path("kept")).rename(world.path("b.mp4"))
        daemon.supervisor.handle_event(world.scan())
        await trio.sleep(1)
        daemon.closed("b.mp4")
        await completed(world)
    assert world.endpoint.log.calls["UploadPart"] == 2


async def test_a_file_in_an_unreadable_folder_does_not_count_as_deleted(
    world: World,
) -> None:
    world.append(2 * PART)
    async with world.daemon() as daemon:
        await trio.sleep(1)
        Path(world.path()).unlink()
        daemon.services.scans.request_scan = lambda: None
        daemon.gone()
        await trio.sleep(10)
        daemon.supervisor.handle_event(Scanned({}, frozenset({str(world.folder)}), began_at=trio.current_time()))
        await trio.sleep(60)
        (checkpoint,) = world.known()
        assert checkpoint.stream_set is StreamSet.ACTIVE
        daemon.supervisor.handle_event(Scanned({}, began_at=trio.current_time()))
        await until_idle(world, Status.DELETED_LOCALLY)


async def test_p7_contradicting_stat_and_open_cause_no_busy_loop(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check finds the stream's file, and the work then opens another one, each time."""
    asked: list[float] = []

    def never(*_args: object) -> bool:
        asked.append(trio.current_time())
        assert len(asked) < 100, "it spins"
        return False

    monkeypatch.setattr("cef_trio.upload.processor.is_same_file", never)
    world.append(2 * PART)
    async with world.daemon():
        await trio.sleep(60)
        assert len(asked) > 4, "it goes on"
        monkeypatch.undo()
        await trio.sleep(60)
    (checkpoint,) = world.known()
    assert len(checkpoint.parts) == 2


@pytest.mark.parametrize("told", [True, False])
async def test_recordings_that_are_gone_with_the_whole_watched_folder_are_not_deleted(world: World, told: bool) -> None:
    """The folder was moved on the same disk, or the mount point was removed after unmounting."""
    world.append(3 * PART)
    elsewhere = world.folder.with_name("elsewhere")
    async with world.daemon() as daemon:
        await trio.sleep(1)
        world.folder.rename(elsewhere)
        if told:
            daemon.gone()
        await trio.sleep(300)
        (checkpoint,) = await world.checkpoints()
        assert checkpoint.stream_set is StreamSet.ACTIVE
        assert len(world.open_uploads()) == 1
        elsewhere.rename(world.folder)
        world.append(PART)
        daemon.closed()
        await completed(world)
    assert world.recordings() == [world.content()]
    assert world.endpoint.log.calls["AbortMultipartUpload"] == 0
    assert world.endpoint.log.calls["UploadPart"] == 4


async def test_a_false_deletion_event_changes_nothing(world: World) -> None:
    world.append(2 * PART)
    async with world.daemon() as daemon:
        await trio.sleep(1)
        daemon.gone()
        await trio.sleep(5)
        daemon.closed()
        await completed(world)
    assert world.endpoint.log.calls["AbortMultipartUpload"] == 0


async def test_a_file_that_vanishes_without_an_event_is_noticed_by_the_idle_checker(world: World) -> None:
    world.append(PART - 1)
    async with world.daemon():
        await trio.sleep(1)
        Path(world.path()).unlink()
        await until_idle(world, Status.ABORTED_NO_PARTS)


async def test_a_truncated_recording_starts_over_in_the_same_stream(world: World) -> None:
    world.append(4 * PART)
    async with world.daemon() as daemon:
        await trio.sleep(1)
        os.truncate(world.path(), 10)
        world.append(PART)
        daemon.seen()
        await trio.sleep(2)
        daemon.closed()
        (checkpoint,) = await completed(world)
    assert world.recordings() == [world.content()]
    assert len(checkpoint.parts) == 2
    assert world.open_uploads() == []


async def test_p2_a_newer_copy_that_takes_the_name_again_and_again_costs_what_is_new(world: World) -> None:
    """``rsync`` of a growing recording, without ``--inplace``: each run makes a new file and renames it."""
    grown = os.urandom(7 * PART + 7)
    world.append(0)
    Path(world.path()).write_bytes(grown[: 3 * PART])
    async with world.daemon() as daemon:
        await trio.sleep(1)
        for parts in (5, 6, 8):
            Path(world.path("a.tmp")).write_bytes(grown[: parts * PART])
            Path(world.path("a.tmp")).replace(world.path())
            daemon.seen()
            await trio.sleep(1)
        (checkpoint,) = await completed(world)
    assert world.recordings() == [world.content()] == [grown]
    assert checkpoint.meta.parts_rewritten == 0
    assert world.endpoint.log.calls["UploadPart"] == 8
    assert checkpoint.meta.identity.file_ino == world.stat().file_ino


async def test_a_replaced_file_ends_its_stream_and_begins_another(world: World) -> None:
    world.append(3 * PART)
    async with world.daemon() as daemon:
        await trio.sleep(1)
        world.append(2 * PART + 7, "other.tmp")
        Path(world.path("other.tmp")).replace(world.path())
        daemon.closed()
        await trio.sleep(60)
        found = await until_idle(world, Status.COMPLETED, Status.FAILED_FILE_REPLACED)
    assert {checkpoint.meta.status for checkpoint in found} == {Status.COMPLETED, Status.FAILED_FILE_REPLACED}
    assert world.recordings() == [world.content()]
    assert world.open_uploads() == []


async def test_two_files_that_change_places_are_both_followed(world: World) -> None:
    """Rotation: ``a`` becomes ``a.1``, and a new ``a`` begins."""
    world.append(2 * PART, "a.mp4")
    async with world.daemon() as daemon:
        await trio.sleep(1)
        Path(world.path("a.mp4")).rename(world.path("a1.mp4"))
        daemon.moved("a.mp4", "a1.mp4")
        world.append(3 * PART, "a.mp4")
        daemon.closed("a1.mp4")
        daemon.closed("a.mp4")
        await trio.sleep(2)
        await completed(world)
    assert sorted(world.recordings()) == sorted([world.content("a.mp4"), world.content("a1.mp4")])


async def test_p7_the_daemon_wide_limits_hold_to_the_number(tmp_path: Path, autojump_clock: MockClock) -> None:
    world = World(tmp_path, max_concurrent_streams=2, max_concurrent_parts=3)
    names = [f"{number:02}.mp4" for number in range(20)]
    for name in names:
        world.append(5 * PART + 1, name)
    world.endpoint.faults.arm(Fault(Kind.SLOW, "UploadPart", seconds=1, times=None))
    world.has_writer = False
    async with world.daemon():
        await completed(world)
    assert world.endpoint.log.max_concurrent["UploadPart"] == 3
    assert sorted(world.recordings()) == sorted(world.content(name) for name in names)


async def test_p7_with_a_limit_of_two_none_of_a_hundred_streams_waits_for_anothers_end(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    world = World(tmp_path, max_concurrent_streams=2, max_concurrent_parts=4)
    names = [f"{number:03}.mp4" for number in range(100)]
    for name in names:
        world.append(20 * PART, name)
    world.endpoint.faults.arm(Fault(Kind.SLOW, "UploadPart", seconds=1, times=None))
    async with world.daemon():
        # 100 streams of 20 parts take 500 s; after a fifth of it every stream has its share.
        await trio.sleep(120)
        progress = [len(checkpoint.parts) for checkpoint in await world.checkpoints()]
    assert len(progress) == 100
    assert min(progress) >= 3
    assert max(progress) - min(progress) <= 4
