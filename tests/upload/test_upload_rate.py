"""``MAX_UPLOAD_RATE`` on a whole daemon, on a virtual clock: it limits all streams together, not the exit (P4)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import trio
from structlog.typing import EventDict
from waiting import completed

from cef_trio.checkpoint.states import Status
from cef_trio.exit_codes import ExitCode
from cef_trio.lab.world import PART, World
from cef_trio.settings.upload_rate import RateTimetable, parse_upload_rate

NAMES = ("a.mp4", "b.mp4", "c.mp4")


async def test_the_rate_holds_for_all_recordings_together(world: World) -> None:
    world.upload_rate = 2000
    for name in NAMES:
        world.append(10 * PART, name)
    began = trio.current_time()
    async with world.daemon() as daemon:
        await trio.sleep(5)
        received = dict.fromkeys(NAMES, 0)
        for (key, _), size_bytes in world.endpoint.log.received_bytes.items():
            received[key.rpartition("/")[2]] += size_bytes
        assert sum(received.values()) == pytest.approx(2000 * 5, abs=2 * PART)
        assert min(received.values()) > 0
        for name in NAMES:
            daemon.closed(name)
        await completed(world)
    # Besides the parts it is the three metadata documents that wait.
    sent = sum(len(body) for body in world.objects().values())
    assert sent / 2000 - 2 <= trio.current_time() - began <= sent / 2000 + 8
    assert sorted(world.recordings()) == sorted(world.content(name) for name in NAMES)


async def test_another_rate_holds_while_the_daemon_runs_and_is_measured(world: World) -> None:
    world.upload_rate = 100
    world.append(50 * PART)
    async with world.daemon() as daemon:
        value = daemon.services.metrics.registry.get_sample_value
        await trio.sleep(20)
        assert world.received_bytes() <= 100 * 20 + PART
        assert value("cef_trio_upload_limit_bytes_per_second") == 100
        waited = value("cef_trio_rate_limit_wait_seconds_total")
        assert waited is not None
        assert waited > 10
        daemon.services.rate_limiter.change(0)
        await trio.sleep(1)
        assert world.received_bytes() == 50 * PART
        assert value("cef_trio_upload_limit_bytes_per_second") == 0
        daemon.closed()
        await completed(world)


@pytest.mark.parametrize("signals", [1, 2])
async def test_p4_p3_parts_that_wait_for_the_rate_hold_no_exit_back_and_go_on_afterwards(
    world: World, signals: int
) -> None:
    world.upload_rate = 10
    world.append(20 * PART)
    async with world.daemon() as daemon:
        await trio.sleep(150)  # one piece of a whole part went at once, one was paid for
        began = trio.current_time()
        for _ in range(signals):
            daemon.shutdown.request()
    assert trio.current_time() - began <= (world.grace_seconds if signals == 1 else 0) + 2 + 1
    assert daemon.exit_code is ExitCode.DONE
    (checkpoint,) = await world.checkpoints()
    assert checkpoint.meta.status is Status.INTERRUPTED_CANCELLED
    acknowledged = len(checkpoint.parts)
    assert acknowledged >= 1
    world.upload_rate = 0
    received = world.received_bytes()
    async with world.daemon() as daemon:
        daemon.closed()
        await completed(world)
    assert world.recordings() == [world.content()]
    assert world.received_bytes() == received + (20 - acknowledged) * PART


async def test_a_rate_by_time_of_day_changes_while_parts_are_in_flight(world: World, logged: list[EventDict]) -> None:
    """On a virtual clock, from 23:59 to 00:01; the parts of before go on at the new rate."""
    table = parse_upload_rate("00:00,100 00:01,off 23:59,1000")
    assert isinstance(table, RateTimetable)
    start = datetime(2026, 3, 2, 23, 59, tzinfo=UTC) - timedelta(seconds=trio.current_time())

    def local() -> datetime:
        return start + timedelta(seconds=trio.current_time())

    world.upload_rate = lambda: table.rate_at(local())
    world.append(100 * PART)
    async with world.daemon() as daemon:
        value = daemon.services.metrics.registry.get_sample_value
        await trio.sleep(30)
        assert world.received_bytes() == pytest.approx(30_000, abs=5 * PART)
        assert value("cef_trio_upload_limit_bytes_per_second") == 1000
        await trio.sleep(30)
        in_first_minute = world.received_bytes()
        await trio.sleep(58)
        assert world.received_bytes() - in_first_minute == pytest.approx(5_800, abs=5 * PART)
        assert value("cef_trio_upload_limit_bytes_per_second") == 100
        await trio.sleep(4)
        assert world.received_bytes() == 100 * PART
        assert value("cef_trio_upload_limit_bytes_per_second") == 0
        daemon.closed()
        await completed(world)
    changes = [entry["bytes_per_second"] for entry in logged if entry["event"] == "upload_rate_changed"]
    assert changes == [100, 0]


async def test_a_step_of_the_clock_applies_within_a_second_also_to_a_part_that_waits(world: World) -> None:
    table = parse_upload_rate("08:00,10 19:00,off")
    assert isinstance(table, RateTimetable)
    clock = [datetime(2026, 3, 2, 12, tzinfo=UTC)]
    world.upload_rate = lambda: table.rate_at(clock[0])
    world.append(20 * PART)
    async with world.daemon() as daemon:
        await trio.sleep(120)
        assert world.received_bytes() <= 120 * 10 + 2 * PART
        clock[0] = datetime(2026, 3, 2, 20, tzinfo=UTC)
        await trio.sleep(2)
        assert world.received_bytes() == 20 * PART
        daemon.closed()
        await completed(world)
