"""A time stamp is what a writer says, or a clock: bytes are asked where it proves nothing (correctness.md, kind 3)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock
from worlds.waiting import completed

from cef_trio.lab.world import PART, World


@pytest.mark.parametrize("heard", [True, False], ids=["heard", "seen by the stale checker"])
async def test_p1_a_time_that_goes_back_at_equal_size_ends_in_the_right_object(
    world: World, autojump_clock: MockClock, heard: bool
) -> None:
    """``utime`` while it is open, and a patch: nobody hears of its close, so silence is its end."""
    world.has_writer = None
    async with world.daemon() as daemon:
        world.append(2 * PART + 10)
        daemon.saw()
        await trio.sleep(3)
        world.patch(5, b"patched")
        before = Path(world.path()).stat()
        os.utime(world.path(), ns=(before.st_atime_ns, before.st_mtime_ns - 3600 * 10**9))
        if heard:
            daemon.saw()
        await completed(world, seconds=120)
    assert world.recordings() == [world.content()]
