"""Time stamps are set by writers or clocks: where one proves nothing, bytes are compared (correctness.md, kind 3)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock
from waiting import completed

from cef_trio.checkpoint.states import Status
from cef_trio.files.file_stat import FileStat
from cef_trio.files.file_system import FileSystem, file_system_named
from cef_trio.files.time_stamps import granularity_wait_seconds
from cef_trio.lab.disk import InlineRecording
from cef_trio.lab.run import Plan, run_plan
from cef_trio.lab.world import PART, World
from cef_trio.lab.writers import Writers

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
def test_p1_a_stamp_proves_nothing_while_its_tick_lasts(system: FileSystem, mtime_ns: int, seconds: float) -> None:
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
