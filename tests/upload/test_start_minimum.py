"""``WATCH_MIN_AGE_SECONDS`` and ``WATCH_MIN_SIZE_BYTES``: what is too young or too small is not begun, nor at risk."""

from __future__ import annotations

from itertools import product
from math import inf

import pytest
import trio
from waiting import completed

from cef_trio.files import SECOND_NS, FileStat
from cef_trio.lab.world import PART, World
from cef_trio.upload import StartMinimum

NOW_NS = 1_000_000 * SECOND_NS


@pytest.mark.parametrize(
    ("size_bytes", "seen_for", "unchanged_for"),
    [*product((0, 9, 10, 11), (0.0, 4.0, 5.0, 6.0), (-3, 0, 4, 5, 1e5, None))],
)
def test_a_file_is_begun_at_its_age_and_its_size(size_bytes: int, seen_for: float, unchanged_for: float | None) -> None:
    ctime_ns = 0 if unchanged_for is None else NOW_NS - int(unchanged_for * SECOND_NS)
    stat = FileStat(1, 2, size_bytes, 0, ctime_ns)
    wait = StartMinimum(age_seconds=5, size_bytes=10).wait_seconds(stat, seen_for_seconds=seen_for, now_ns=NOW_NS)
    if size_bytes < 10:
        assert wait == inf
    else:
        assert wait == max(0, 5 - max(seen_for, unchanged_for or 0))
    assert StartMinimum().wait_seconds(stat, seen_for_seconds=seen_for, now_ns=NOW_NS) == 0


async def test_p10_a_small_recording_is_skipped_without_a_risk_and_begun_when_it_has_grown(world: World) -> None:
    world.minimum = StartMinimum(size_bytes=PART)
    world.append(PART - 1)
    async with world.daemon() as daemon:
        daemon.closed()
        await trio.sleep(300)
        assert not world.known()
        assert daemon.at_risk == ()
        assert daemon.supervisor.files.too_small == 1
        assert daemon.observer is not None
        assert daemon.observer().below_minimum == {"size": 1, "age": 0}
        assert daemon.observer().lag.size_bytes == 0
        world.append(1)
        daemon.closed()
        await completed(world, 30)
        assert daemon.supervisor.files.too_small == 0
    assert world.content() in world.recordings()


async def test_a_young_recording_is_begun_when_it_is_old_enough_and_one_that_is_deleted_before_is_never_sent(
    world: World,
) -> None:
    world.minimum = StartMinimum(age_seconds=60)
    async with world.daemon() as daemon:
        for name in ("a.mp4", "deleted.mp4"):
            world.append(2 * PART, name)
            daemon.closed(name)
        await trio.sleep(50)
        assert not world.known()
        assert daemon.at_risk == ()
        assert daemon.supervisor.files.too_young == 2
        (world.folder / "deleted.mp4").unlink()
        daemon.gone("deleted.mp4")
        (world.folder / "a.mp4").rename(world.folder / "b.mp4")
        daemon.moved("a.mp4", "b.mp4")
        await trio.sleep(9)
        assert not world.known()
        await completed(world, 15)  # a rename does not prolong the wait
        assert daemon.supervisor.files.too_young == 0
    assert list(world.recordings()) == [world.content("b.mp4")]


async def test_p3_what_was_begun_goes_on_below_a_minimum_that_was_set_later(world: World) -> None:
    world.append(PART + 10)
    async with world.daemon() as daemon:
        daemon.seen()
        await trio.sleep(5)
        assert len(world.known()) == 1
    world.minimum = StartMinimum(age_seconds=1e6, size_bytes=100 * PART)
    async with world.daemon() as daemon:
        daemon.closed()
        await completed(world, 60)
    assert world.content() in world.recordings()


async def test_p7_a_recording_below_the_minimum_is_not_looked_up_at_each_write(world: World) -> None:
    world.minimum = StartMinimum(size_bytes=1_000_000)
    asked = 0

    async def count(operation: str, moment: object) -> None:
        nonlocal asked
        asked += operation == "find_by_path"

    async with world.daemon() as daemon:
        world.store.fault = count
        for _ in range(500):
            world.append(1)
            daemon.seen()
            await trio.sleep(0.1)
        world.store.fault = None
        assert daemon.supervisor.files.too_small == 1
    assert asked < 10
