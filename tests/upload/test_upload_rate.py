"""``MAX_UPLOAD_RATE`` on a whole daemon, on a virtual clock: it limits all streams together, not the exit (P4)."""

from __future__ import annotations

import pytest
import trio
from waiting import completed

from cef_trio.checkpoint.states import Status
from cef_trio.exit_codes import ExitCode
from cef_trio.lab.world import PART, World

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
