"""Time stamps are set by writers or clocks: where one proves nothing, bytes are compared (correctness.md, kind 3)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
from structlog.typing import EventDict
from trio.testing import MockClock
from waiting import completed

from cef_trio.checkpoint.states import Status
from cef_trio.exit_codes import ExitCode
from cef_trio.files.file_stat import FileStat
from cef_trio.files.file_system import FileSystem as Kind
from cef_trio.files.file_system import file_system_named
from cef_trio.files.time_stamps import granularity_wait_seconds
from cef_trio.lab.disk import InlineRecording
from cef_trio.lab.filesystem import FileSystem, Leases
from cef_trio.lab.run import Plan, run_plan
from cef_trio.lab.world import PART, World
from cef_trio.lab.writers import Writers

SENDS = ("CreateMultipartUpload", "UploadPart", "UploadPartCopy", "CompleteMultipartUpload", "PutObject")
NOW = 1_000 * 10**9
FINE, COARSE, REMOTE = file_system_named("ext4"), file_system_named("vfat"), file_system_named("nfs")
TICK = 2 * 10**9
OVER = TICK + 20_000_000
"""A tick, and what the kernel's own clock lags."""


@pytest.mark.parametrize("reported", [True, False], ids=["reported", "seen by the idle checker"])
async def test_p1_a_time_that_goes_back_at_equal_size_ends_in_the_right_object(world: World, reported: bool) -> None:
    """``utime`` while it is open, then a patch; without a close event, the timeout ends it."""
    world.has_writer = None
    async with world.daemon() as daemon:
        world.append(2 * PART + 10)
        daemon.seen()
        await trio.sleep(3)
        world.patch(5, b"patched")
        before = Path(world.path()).stat()
        os.utime(world.path(), ns=(before.st_atime_ns, before.st_mtime_ns - 3600 * 10**9))
        if reported:
            daemon.seen()
        await completed(world, seconds=120)
    assert world.recordings() == [world.content()]


@pytest.mark.parametrize(
    ("system", "mtime_ns", "seconds"),
    [
        (FINE, NOW - 20_000_000 - 1, 0.0),
        (FINE, NOW - 10_000_000 + 1, 0.01),
        (FINE, NOW - 10**9, 1.02),  # a whole second: it may be ext3's
        (FINE, NOW - 3 * 10**9, 0.0),
        (FINE, NOW + 3600 * 10**9 + 1, 0.02),  # of the future, set by a writer: a tick is enough
        (COARSE, NOW, 2.02),
        (COARSE, NOW - 10**9, 1.02),
        (COARSE, NOW - OVER, 0.0),
        (COARSE, NOW + TICK, 2.02),
        (REMOTE, NOW - 3600 * 10**9 + 1, 2.02),  # by a clock that may be behind ours
        (file_system_named(None), NOW - 3600 * 10**9, 2.02),
    ],
)
def test_p1_a_stamp_proves_nothing_while_its_tick_lasts(system: Kind, mtime_ns: int, seconds: float) -> None:
    assert granularity_wait_seconds(system, FileStat(1, 2, 3, mtime_ns), NOW) == pytest.approx(seconds, abs=1e-6)


def test_p1_a_change_of_the_same_size_within_the_tick_of_the_verified_stamp_is_seen() -> None:
    assert run_plan(Plan("same-mtime")).violations == []


async def test_p1_a_touched_recording_that_is_patched_within_the_tick_is_no_unchanged_one(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is patched behind the position of the comparison, with an unchanged time stamp."""
    world = World(tmp_path / "watch", base=tmp_path)
    system = world.kernel.file_system(world.folder)
    system.name, system.granularity_ns = "vfat", TICK
    writers = Writers(world.kernel, world.folder, world.random, world.journal)
    writers.append(2 * PART, "a.mp4")
    writers.close("a.mp4")
    async with world.daemon():
        await completed(world)
        writers.set_mtime("a.mp4", world.kernel.now_ns())
        read = InlineRecording.read

        async def patched_behind(self: InlineRecording, offset: int, size_bytes: int) -> bytes:
            block = await read(self, offset, size_bytes)
            if offset >= PART and not patched:
                patched.append(offset)
                writers.patch(5, b"patched", "a.mp4")
                writers.close("a.mp4")
            return block

        patched: list[int] = []
        monkeypatch.setattr(InlineRecording, "read", patched_behind)
        await trio.sleep(60)
        found = await world.checkpoints()
    assert patched
    assert {checkpoint.meta.status for checkpoint in found} == {Status.COMPLETED}
    assert world.content() in world.recordings()


@pytest.mark.parametrize("seconds_later", [0.5, 1.5])
async def test_a_time_that_is_set_after_the_close_leaves_the_recording_ended(
    world: World, seconds_later: float
) -> None:
    """It waited for ``STREAM_TIMEOUT_SECONDS``: the time had changed after the close was reported."""
    world.append(2 * PART + 7)
    async with world.daemon() as daemon:
        await trio.sleep(1)
        daemon.closed()
        await trio.sleep(seconds_later)
        os.utime(world.path(), ns=(1, 1))
        daemon.seen()
        with trio.fail_after(5):
            await completed(world)
    assert world.recordings() == [world.content()]


@pytest.fixture
async def fuse(tmp_path: Path, autojump_clock: MockClock) -> World:
    """A world on FUSE, where a comparison waits first until a stamp of two seconds would have changed."""
    system = FileSystem(name="fuse", device=50, leases=Leases.NEVER, generations=False, reports_events=False)
    world = World(tmp_path / "watch", base=tmp_path, file_system=system)
    world.stream_timeout_seconds = 2.0
    return world


async def touched_for(seconds: int, writers: Writers, world: World) -> None:
    for _ in range(seconds):
        await trio.sleep(1)
        writers.set_mtime("a.mp4", world.kernel.now_ns())


@pytest.mark.parametrize("size_bytes", [10, 3 * PART + 10])
async def test_p2_a_completed_recording_that_is_touched_each_second_is_not_sent_again(
    fuse: World, logged: list[EventDict], size_bytes: int
) -> None:
    writers = Writers(fuse.kernel, fuse.folder, fuse.random, fuse.journal)
    writers.append(size_bytes, "a.mp4")
    writers.close("a.mp4")
    async with fuse.daemon() as daemon:
        (before,) = await completed(fuse)
        calls = sum(fuse.endpoint.log.calls[name] for name in SENDS)
        for _ in range(40):
            await touched_for(10, writers, fuse)
            assert not daemon.at_risk, "its bytes are in S3, as often as they are compared (P10)"
        waits = [event["wait_seconds"] for event in logged if event["event"] == "stream_retrying"]
        assert waits[:7] == [1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 20.0], "it is read again after growing pauses"
        await trio.sleep(60)
        (after,) = await completed(fuse)
    assert after.meta.stream_id == before.meta.stream_id
    assert after.meta.verified_mtime_ns == writers.inode("a.mp4").mtime_ns, "the record is corrected in the end"
    assert sum(fuse.endpoint.log.calls[name] for name in SENDS) == calls


async def test_p1_a_recording_that_is_patched_while_it_is_touched_each_second_is_sent(fuse: World) -> None:
    writers = Writers(fuse.kernel, fuse.folder, fuse.random, fuse.journal)
    writers.append(3 * PART + 10, "a.mp4")
    writers.close("a.mp4")
    async with fuse.daemon():
        await completed(fuse)
        await touched_for(60, writers, fuse)
        writers.patch(5, b"patched", "a.mp4")
        writers.close("a.mp4")
        await trio.sleep(120)
        await completed(fuse)
    assert fuse.content() in fuse.recordings()


async def test_p4_a_daemon_ends_at_once_while_a_touched_recording_waits_for_its_next_comparison(fuse: World) -> None:
    writers = Writers(fuse.kernel, fuse.folder, fuse.random, fuse.journal)
    writers.append(PART, "a.mp4")
    writers.close("a.mp4")
    async with fuse.daemon() as daemon:
        await completed(fuse)
        await touched_for(100, writers, fuse)
        daemon.shutdown.request()
        ended_at = trio.current_time()
    assert trio.current_time() - ended_at < 3
    assert daemon.exit_code is ExitCode.DONE
    assert len(fuse.recordings()) == 1


async def test_p2_a_recording_whose_record_is_lost_and_that_is_touched_each_second_is_found_in_s3(fuse: World) -> None:
    writers = Writers(fuse.kernel, fuse.folder, fuse.random, fuse.journal)
    writers.append(3 * PART + 10, "a.mp4")
    writers.close("a.mp4")
    async with fuse.daemon():
        (before,) = await completed(fuse)
    await trio.sleep(5)
    calls = sum(fuse.endpoint.log.calls[name] for name in SENDS)
    fuse.lose_redis()
    mtime_ns = writers.inode("a.mp4").mtime_ns
    async with fuse.daemon():
        for _ in range(20):
            await trio.sleep(1)
            writers.set_mtime("a.mp4", mtime_ns)  # as chmod: its ctime alone changes
        await trio.sleep(60)
        (after,) = await completed(fuse)
    assert after.meta.stream_id == before.meta.stream_id
    assert sum(fuse.endpoint.log.calls[name] for name in SENDS) == calls
