"""The heartbeat: one round trip to Redis for the renewal, the question for expired leases and the report."""

from __future__ import annotations

from collections import Counter

import pytest
import trio
from servers.stream_records import DAEMON
from waiting import until

from cef_trio.checkpoint.memory import Moment
from cef_trio.checkpoint.states import Status
from cef_trio.exceptions import RedisOperationError
from cef_trio.lab.world import PART, World
from cef_trio.observability import read_fleet

PERIODIC = ("renew", "expired", "report", "beat")


def count_calls(world: World, *, fails: str = "") -> Counter[str]:
    """Count the calls to Redis from now on; those of the operation ``fails`` fail."""
    calls: Counter[str] = Counter()

    async def count(operation: str, moment: Moment) -> None:
        await trio.lowlevel.checkpoint()
        if moment is Moment.BEFORE:
            calls[operation] += 1
            if operation == fails:
                raise RedisOperationError(operation, "not now", transient=True)

    world.store.fault = count
    return calls


async def test_a_daemon_with_open_streams_makes_one_periodic_call_for_three(world: World) -> None:
    world.stream_timeout_seconds = 1000.0
    for number in range(5):
        world.append(PART + 10, f"{number}.mp4")
    async with world.daemon() as daemon:
        for number in range(5):
            daemon.seen(f"{number}.mp4")
        await trio.sleep(20)
        calls = count_calls(world)
        await trio.sleep(300)
        assert {name: calls[name] for name in PERIODIC} == {"renew": 0, "report": 0, "expired": 0, "beat": 60}
        fleet = read_fleet(await world.store.reports())
        assert fleet.now - fleet.reports[0].seen_at <= 15
        assert fleet.reports[0].active_streams == 5
        world.store.unix_clock = lambda: world.utc_now().timestamp() - 7
        await trio.sleep(20)
        offset = daemon.services.metrics.registry.get_sample_value("cef_trio_redis_clock_offset_seconds")
        assert offset == pytest.approx(7, abs=0.1)


@pytest.mark.parametrize("fails", ["beat", "expired", "report"])
async def test_p3_a_part_that_fails_or_a_heartbeat_that_fails_delays_no_renewal(world: World, fails: str) -> None:
    world.stream_timeout_seconds = 1000.0
    world.append(PART + 10)
    async with world.daemon() as daemon:
        daemon.seen()
        await trio.sleep(20)
        [stream_id] = daemon.supervisor.live_ids
        calls = count_calls(world, fails=fails)
        for _ in range(100):
            await trio.sleep(3)
            held = world.store._leases[stream_id]
            assert held.expires_at - trio.current_time() > 2 / 3 * daemon.services.lease.ttl_seconds - 1.5
        fleet = read_fleet(await world.store.reports())
        if fails == "beat":
            assert calls["renew"] >= 25
            assert fleet.now - fleet.reports[0].seen_at <= 25
        assert [one.meta.status for one in await world.checkpoints()] == [Status.ACTIVE]


async def test_p9_a_lease_that_another_daemon_took_is_found_by_the_heartbeat(world: World) -> None:
    world.stream_timeout_seconds = 1000.0
    world.append(PART + 10)
    async with world.daemon() as daemon:
        daemon.seen()
        await trio.sleep(20)
        [stream_id] = daemon.supervisor.live_ids
        world.store._leases.clear()
        assert await world.store.acquire(stream_id, DAEMON)
        calls = count_calls(world)
        await until(lambda: not daemon.supervisor.live_ids, 6)
        assert (calls["renew"], calls["beat"]) == (0, 1)
