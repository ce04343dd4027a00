"""``CHUNK_SIZE_BYTES=auto``: few requests a minute, a bounded delay, and one size for each upload."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from structlog.typing import EventDict
from trio.testing import MockClock
from waiting import completed, until

from cef_trio.daemon.wiring import _rules
from cef_trio.files.file_stat import SECOND_NS, FileStat
from cef_trio.lab.world import AUTO_PART_SIZE, PART, World, WorldDaemon
from cef_trio.lab.writers import Writers
from cef_trio.settings.model import load_settings
from cef_trio.upload.object_key import KeyTemplate
from cef_trio.upload.part_plan import MAX_PARTS, MIB, MIN_PART_BYTES, PartPlan
from cef_trio.upload.part_size import DEFAULT_PART_BYTES, AutoPartSize, known_part_size, write_rate

AUTO = AutoPartSize()
MBIT = 1_000_000 / 8
TIB = 1 << 40
rates = st.one_of(st.none(), st.floats(0, 10 * 1024 * MIB))
sizes = st.integers(0, 5 * TIB)

# -- the rule ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mbit_per_second", "mib"),
    [(0.1, 5), (0.7, 5), (1, 7), (1.3, 9), (1.5, 10), (4, 10), (8, 19), (20, 47), (27, 64), (1000, 64), (None, 10)],
)
def test_a_part_is_what_a_recording_writes_in_twenty_seconds_or_the_default_for_up_to_a_minute(
    mbit_per_second: float | None, mib: int
) -> None:
    rate = None if mbit_per_second is None else mbit_per_second * MBIT
    assert AUTO.choose(rate, 5 * MIB, equal_parts=False) == mib * MIB


@given(rate=rates, size_bytes=sizes, equal_parts=st.booleans())
def test_every_size_is_one_that_s3_takes_in_whole_mebibytes(
    rate: float | None, size_bytes: int, *, equal_parts: bool
) -> None:
    size = AUTO.choose(rate, size_bytes, equal_parts=equal_parts)
    assert size >= MIN_PART_BYTES
    assert size % MIB == 0
    assert size <= 64 * MIB or (equal_parts and (size - MIB) * MAX_PARTS < size_bytes), "no larger than needed"
    if size_bytes < 4.8 * TIB:
        assert size_bytes <= PartPlan(size, equal_parts=equal_parts).max_size_bytes, "10,000 parts hold the file"


@given(st.floats(0, 10 * 1024 * MIB), sizes)
def test_at_a_steady_rate_no_byte_waits_longer_than_a_minute_or_the_least_part(rate: float, size_bytes: int) -> None:
    size = AUTO.choose(rate, size_bytes, equal_parts=False)
    assert size == MIN_PART_BYTES or size <= rate * AUTO.longest_seconds
    assert size <= DEFAULT_PART_BYTES or size <= rate * AUTO.part_seconds


@given(st.floats(0, 10 * 1024 * MIB), st.integers(1, 48 * 3600))
def test_auto_costs_no_more_requests_than_the_default_unless_a_byte_would_wait_longer_than_a_minute(
    rate: float, seconds: int
) -> None:
    size = AUTO.choose(rate, 5 * MIB, equal_parts=False)
    if rate * AUTO.longest_seconds >= DEFAULT_PART_BYTES:
        assert size >= DEFAULT_PART_BYTES
        recording = min(int(rate * seconds), PartPlan(DEFAULT_PART_BYTES).max_size_bytes)
        auto, fixed = (sum(1 for _ in PartPlan(one).split(recording)) for one in (size, DEFAULT_PART_BYTES))
        assert auto <= fixed
    else:
        assert size < DEFAULT_PART_BYTES


@given(rate=st.floats(0, 10 * 1024 * MIB), factor=st.floats(1, 4), size_bytes=sizes, equal_parts=st.booleans())
def test_a_faster_recording_never_gets_smaller_parts(
    rate: float, factor: float, size_bytes: int, *, equal_parts: bool
) -> None:
    slow, fast = (AUTO.choose(one, size_bytes, equal_parts=equal_parts) for one in (rate, rate * factor))
    assert slow <= fast


def test_equal_parts_are_never_smaller_than_the_default_because_their_number_is_limited() -> None:
    assert AUTO.choose(0.1 * MBIT, 5 * MIB, equal_parts=True) == DEFAULT_PART_BYTES
    assert AUTO.choose(None, TIB, equal_parts=True) == 105 * MIB


def at(seconds: float, size_bytes: int, inode: int = 1) -> FileStat:
    return FileStat(1, inode, size_bytes, int(seconds * SECOND_NS))


def test_the_rate_is_what_was_written_between_two_time_stamps_of_the_file() -> None:
    assert write_rate(at(100, 3 * MIB), at(104, 7 * MIB)) == MIB


@pytest.mark.parametrize(
    "latest",
    [
        pytest.param(at(101.9, 9 * MIB), id="less than two seconds"),
        pytest.param(at(100, 9 * MIB), id="no time, as of a coarse clock"),
        pytest.param(at(40, 9 * MIB), id="a time that was set"),
        pytest.param(at(104, 3 * MIB), id="preallocated, or there before"),
        pytest.param(at(104, 2 * MIB), id="truncated"),
        pytest.param(at(104, 9 * MIB, inode=2), id="another file"),
    ],
)
def test_the_rate_is_unknown_where_the_time_stamps_show_none(latest: FileStat) -> None:
    assert write_rate(at(100, 3 * MIB), latest) is None


@pytest.mark.parametrize(("value", "size"), [("auto", 10 * MIB), (" AUTO ", 10 * MIB), ("20MiB", 20 * MIB)])
def test_the_setting_takes_auto_or_a_size(tmp_path: Path, value: str, size: int) -> None:
    settings = load_settings(None, watch_dir=tmp_path, s3_bucket_name="abc", chunk_size_bytes=value)
    assert known_part_size(settings.chunk_size_bytes) == size
    rules = _rules(settings, KeyTemplate(settings.s3_key_template))
    assert rules.part_size == size
    assert rules.recorded_part_size == (size if value == "20MiB" else MIN_PART_BYTES)


def test_the_default_is_that_of_the_setting(tmp_path: Path) -> None:
    settings = load_settings(None, watch_dir=tmp_path, s3_bucket_name="abc")
    assert settings.chunk_size_bytes == DEFAULT_PART_BYTES


# -- a recording, on a virtual clock; a world's parts are 500 to 4,000 bytes, of ten seconds ---------------------------


@pytest.fixture
async def simulated(tmp_path: Path, autojump_clock: MockClock) -> World:
    world = World(tmp_path / "watch", base=tmp_path)
    world.auto_part_size = AUTO_PART_SIZE
    return world


@pytest.fixture
async def writers(simulated: World) -> Writers:
    return Writers(simulated.kernel, simulated.folder, simulated.random, simulated.journal)


async def record(writers: Writers, seconds: float, bytes_per_second: int) -> None:
    """Write twice a second."""
    for _ in range(int(2 * seconds)):
        writers.append(bytes_per_second // 2, "a.mp4")
        await trio.sleep(0.5)


def part_sizes(world: World) -> list[int]:
    (checkpoint,) = world.known()
    return [checkpoint.parts[number].size_bytes for number in sorted(checkpoint.parts)]


@asynccontextmanager
async def oldest_ages(daemon: WorldDaemon) -> AsyncIterator[list[float]]:
    """The age of the oldest byte that is not in S3, ten times a second."""
    ages: list[float] = []

    async def look() -> None:
        while True:
            for live in daemon.supervisor.live:
                now = trio.current_time()
                ages.append(live.lag(now).seconds(now))
            await trio.sleep(0.1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        yield ages
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("rate", "size"), [(200, 2000), (50, 1000), (25, 750), (10, 500), (1000, 1000)])
async def test_a_recordings_bytes_wait_for_the_seconds_of_one_part_at_most(
    simulated: World, writers: Writers, rate: int, size: int
) -> None:
    """At 1,000 bytes a second the least part is there before two seconds are over: the rate is unknown."""
    async with simulated.daemon() as daemon:
        async with oldest_ages(daemon) as ages:
            await record(writers, 120, rate)
            filling = max(AUTO_PART_SIZE.default_bytes, size)
            assert max(ages) <= max(min(filling / rate, 30.0), AUTO_PART_SIZE.least_bytes / rate) + 1
            assert daemon.at_risk == ()
        sizes = part_sizes(simulated)
        assert sizes[0] == pytest.approx(size, rel=0.25)
        assert len(set(sizes)) == 1
        writers.close("a.mp4")
        await completed(simulated)
    assert simulated.recordings() == [writers.content("a.mp4")]


async def test_p10_a_part_that_fills_slowly_is_not_late_and_the_last_bytes_wait_for_the_timeout_only(
    simulated: World, writers: Writers
) -> None:
    async with simulated.daemon() as daemon:
        await record(writers, 20, 200)
        assert part_sizes(simulated) == [pytest.approx(2000, rel=0.25)] * 2
        for _ in range(60):  # the rate falls to 10 bytes a second: a part would take 200 seconds
            await record(writers, 2, 10)
            assert daemon.at_risk == ()
        stopped_at = trio.current_time()
        await completed(simulated)  # the writer neither writes nor closes
        assert trio.current_time() - stopped_at <= simulated.stream_timeout_seconds + 5
    assert simulated.recordings() == [writers.content("a.mp4")]


async def test_a_file_that_was_there_before_gets_the_default(simulated: World, writers: Writers) -> None:
    writers.append(3 * PART + 10, "a.mp4")
    async with simulated.daemon():
        await trio.sleep(1)
        assert part_sizes(simulated) == [PART] * 3
        writers.close("a.mp4")
        await completed(simulated)


async def test_the_upload_is_not_created_before_a_part_of_the_chosen_size_is_full(
    simulated: World, writers: Writers, logged: list[EventDict]
) -> None:
    async with simulated.daemon():
        await record(writers, 6, 200)
        (checkpoint,) = simulated.known()
        assert checkpoint.meta.part_size == pytest.approx(2000, rel=0.25)
        assert checkpoint.meta.s3_upload_id is None
        await record(writers, 6, 200)
        assert len(part_sizes(simulated)) == 1
    (chosen,) = [entry for entry in logged if entry["event"] == "part_size_chosen"]
    (created,) = [entry for entry in logged if entry["event"] == "upload_created"]
    assert created["part_size"] == chosen["part_size"] == checkpoint.meta.part_size
    assert chosen["bytes_per_second"] == pytest.approx(200, rel=0.25)


async def test_a_recording_that_ends_before_its_first_part_is_full_is_put_whole(
    simulated: World, writers: Writers
) -> None:
    async with simulated.daemon():
        await record(writers, 6, 200)
        (checkpoint,) = simulated.known()
        assert AUTO_PART_SIZE.least_bytes < len(writers.content("a.mp4")) < checkpoint.meta.part_size
        writers.close("a.mp4")
        await completed(simulated)
    calls = simulated.endpoint.log.calls
    assert (calls["CreateMultipartUpload"], calls["UploadPart"], calls["PutObject"]) == (0, 0, 2)
    assert simulated.recordings() == [writers.content("a.mp4")]


@pytest.mark.parametrize("seconds", [6, 15], ids=["before the upload is created", "while it is open"])
@pytest.mark.parametrize("auto", [True, False])
async def test_p2_the_chosen_size_stays_when_the_daemon_starts_again(
    simulated: World, writers: Writers, seconds: int, *, auto: bool
) -> None:
    async with simulated.daemon():
        await record(writers, seconds, 200)
    (before,) = simulated.known()
    simulated.auto_part_size = AUTO_PART_SIZE if auto else None
    async with simulated.daemon():
        await record(writers, 20, 1000)
        writers.close("a.mp4")
        await completed(simulated)
    (after,) = simulated.known()
    assert after.meta.part_size == before.meta.part_size != AUTO_PART_SIZE.least_bytes
    assert simulated.received_bytes() == len(writers.content("a.mp4"))
    assert simulated.recordings() == [writers.content("a.mp4")]


async def test_a_grown_recording_keeps_the_size_of_the_parts_that_it_copies(simulated: World, writers: Writers) -> None:
    simulated.auto_part_size = None
    simulated.part_size = AUTO_PART_SIZE.least_bytes
    async with simulated.daemon():
        await record(writers, 10, 200)
        writers.close("a.mp4")
        await completed(simulated)
    sent = simulated.received_bytes()
    simulated.auto_part_size = AUTO_PART_SIZE
    async with simulated.daemon():
        await record(writers, 10, 200)
        writers.close("a.mp4")
        await completed(simulated)
    assert simulated.received_bytes() - sent < 2000 + AUTO_PART_SIZE.least_bytes
    assert writers.content("a.mp4") in simulated.recordings()


async def test_a_small_recording_that_goes_on_after_its_put_gets_no_least_parts(
    simulated: World, writers: Writers
) -> None:
    """No part can be copied from an object of one PutObject, so its part size is not kept."""
    writers.append(AUTO_PART_SIZE.least_bytes // 2, "a.mp4")
    writers.close("a.mp4")
    async with simulated.daemon() as daemon:
        await completed(simulated)
        assert simulated.endpoint.log.calls["CreateMultipartUpload"] == 0
        writers.append(3 * PART, "a.mp4")
        daemon.seen()
        writers.close("a.mp4")
        await until(lambda: writers.content("a.mp4") in simulated.recordings(), 60)
        await completed(simulated)
    (grown,) = [one for one in simulated.known() if one.meta.supersedes_key is not None]
    assert grown.meta.part_size == PART
