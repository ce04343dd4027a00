"""A file whose stream another daemon works on is left to it, and not for ever, whatever becomes of that stream."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import pytest
import trio
from servers.stream_records import two_parts
from structlog.testing import capture_logs
from waiting import completed, until_idle

from cef_trio.checkpoint import Change, Lease, Status
from cef_trio.checkpoint.memory import Moment
from cef_trio.checkpoint.model import Owner
from cef_trio.lab.world import PART, World
from cef_trio.upload import ownership
from cef_trio.upload.supervisor import StreamSupervisor
from cef_trio.upload.work_division import wait_seconds

ANOTHER = Lease("another-daemon", "its-token", 1e9)


async def held(world: World) -> str:
    """A recording with two parts that another daemon works on."""
    stream_id = await two_parts(world)
    assert await world.store.acquire(stream_id, ANOTHER)
    return stream_id


async def test_p7_a_recording_that_grows_under_another_daemon_is_not_looked_up_at_each_write(world: World) -> None:
    await held(world)
    async with world.daemon() as daemon:
        calls: list[str] = []

        async def note(operation: str, moment: Moment) -> None:
            if moment is Moment.BEFORE:
                calls.append(operation)

        world.store.fault = note
        with capture_logs() as logs:
            for _ in range(3000):
                world.append(1)
                daemon.seen()
                await trio.sleep(0.1)
        world.store.fault = None
    assert calls.count("find_by_path") == 1
    assert calls.count("holders") < 15
    assert not any(entry["event"] == "lease_lost" for entry in logs)


async def test_a_recording_that_another_daemon_is_to_begin_costs_no_read_of_all_open_streams(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was one for each look, by each host of a shared folder, every 3 s; the one that begins it needs one."""
    monkeypatch.setattr(ownership, "owner_at", lambda *_: Owner("a", "net:nfs nas:/rec", "/rec /"))
    asked_for: list[str] = []

    async def others_files(supervisor: StreamSupervisor, paths: Collection[str]) -> Mapping[str, str]:
        await trio.lowlevel.checkpoint()
        waiting = [path for path in paths if not supervisor.files.is_begun_here(path)]
        asked_for.extend(waiting)
        return dict.fromkeys(waiting, "another daemon")

    monkeypatch.setattr(StreamSupervisor, "_others_files", others_files)
    calls: list[str] = []

    async def note(operation: str, moment: Moment) -> None:
        if moment is Moment.BEFORE:
            calls.append(operation)

    async with world.daemon() as daemon:
        world.append(PART)
        daemon.seen()
        await trio.sleep(2)  # the first one is searched for by all daemons, as any may have missed renames before
        world.store.fault = note
        asked_for.clear()
        await trio.sleep(wait_seconds(world.rescan_seconds) - 3)
        assert len(asked_for) > 1
        assert "members" not in calls
        await trio.sleep(10)
        assert "members" in calls
        world.store.fault = None
        daemon.closed()
        await completed(world)


async def test_p10_a_stream_that_fails_under_another_daemon_is_a_failed_file_here_too(world: World) -> None:
    stream_id = await held(world)
    async with world.daemon() as daemon:
        daemon.seen()
        await trio.sleep(100)
        assert not daemon.supervisor.failed_files
        assert not daemon.supervisor.files.pending_lookups
        await world.store.transition(stream_id, ANOTHER, Status.FAILED_FINALIZATION, Change({}))
        await world.store.release([stream_id], ANOTHER)
        await trio.sleep(70)
        [failed] = daemon.supervisor.failed_files
        assert failed.size_bytes == 2 * PART


async def test_p6_a_recording_whose_stream_redis_lost_with_the_other_daemon_is_uploaded(world: World) -> None:
    await held(world)
    async with world.daemon() as daemon:
        daemon.seen()
        daemon.closed()
        await trio.sleep(100)
        world.store.clear()
        await completed(world)
    assert world.recordings() == [world.content()]


@pytest.mark.parametrize("closed_at", ["before it is seen", "while it is held", "after its takeover"])
async def test_p6_a_recording_that_was_closed_under_another_daemon_does_not_wait_for_its_time_out(
    world: World, closed_at: str
) -> None:
    """The takeover asks for writers anew: where they are known, no earlier close has to be remembered."""
    stream_id = await held(world)
    async with world.daemon() as daemon:
        if closed_at == "before it is seen":
            daemon.closed()
        daemon.seen()
        await trio.sleep(100)
        if closed_at == "while it is held":
            daemon.closed()
        await world.store.release([stream_id], ANOTHER)
        await trio.sleep(30)
        if closed_at == "after its takeover":
            daemon.closed()
        await completed(world, seconds=60)
    assert world.recordings() == [world.content()]


async def test_another_file_at_the_path_is_looked_up_at_once(world: World) -> None:
    await held(world)
    async with world.daemon() as daemon:
        daemon.seen()
        await trio.sleep(30)
        world.append(PART + 1, "b.mp4")
        Path(world.path("b.mp4")).rename(world.path())
        calls: list[str] = []

        async def note(operation: str, _: Moment) -> None:
            calls.append(operation)

        world.store.fault = note
        daemon.seen()
        await trio.sleep(2)
        world.store.fault = None
    assert "find_by_path" in calls


async def test_p6_an_open_stream_that_the_index_of_leases_lacks_is_found_though_it_has_no_file(world: World) -> None:
    stream_id = await held(world)
    Path(world.path()).unlink()
    async with world.daemon():
        await trio.sleep(30)
        world.store._lease_ends.clear()
        await world.store.release([stream_id], ANOTHER)
        await trio.sleep(700)
        await until_idle(world, Status.FAILED_FILE_MISSING_ON_RESUME)


async def test_p6_a_stream_that_was_released_before_the_clock_of_redis_was_set_back_is_found(world: World) -> None:
    stream_id = await held(world)
    Path(world.path()).unlink()
    async with world.daemon():
        await trio.sleep(300)
        await world.store.release([stream_id], ANOTHER)
        world.store._lease_ends[stream_id] += 3_600_000
        real = world.store._clock
        world.store._clock = lambda: real() - 200
        await trio.sleep(30)
        await until_idle(world, Status.FAILED_FILE_MISSING_ON_RESUME)
