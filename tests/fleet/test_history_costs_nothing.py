"""With a long history and many streams of neighbours a daemon asks Redis as much as it does alone."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import redis
import trio
from servers.valkey import ValkeyServer
from waiting import until_idle

from cef_trio.admin.page_source import MAX_ENDED, DaemonSource
from cef_trio.checkpoint.model import Lease
from cef_trio.checkpoint.redis.store import RedisCheckpointStore
from cef_trio.checkpoint.states import History, Status
from cef_trio.lab.world import PART, World
from cef_trio.observability.metrics import Metrics
from cef_trio.postprocess.retention import Retention
from cef_trio.upload.idle_checker import IdleChecker
from cef_trio.upload.missed_renames import MovedFiles
from cef_trio.upload.services import Services
from cef_trio.upload.supervisor import StreamSupervisor

COMPLETED, FOREIGN = 20_000, 10_000


def benchmark() -> ModuleType:
    """``benchmarks/history.py``, which fills a Redis."""
    path = Path(__file__).parents[2] / "benchmarks" / "history.py"
    spec = importlib.util.spec_from_file_location("benchmark_history", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True, slots=True)
class Cost:
    """Commands, also those within scripts, and bytes in both directions."""

    commands: int
    size_bytes: int


async def cost_of(client: Any, work: Callable[[], Awaitable[object]]) -> Cost:
    def sample() -> tuple[int, int]:
        calls = sum(one["calls"] for one in client.info("commandstats").values())
        stats = client.info("stats")
        return calls, stats["total_net_input_bytes"] + stats["total_net_output_bytes"]

    first, second = sample(), sample()
    await work()
    third = sample()
    used = [last - middle - (middle - begin) for begin, middle, last in zip(first, second, third, strict=True)]
    return Cost(*used)


@asynccontextmanager
async def periodic_work(world: World, services: Services) -> AsyncIterator[dict[str, Callable[[], Awaitable[object]]]]:
    """What a daemon does in Redis by the clock, by name, and what it does for files that it does not know."""
    world.append(PART, "unknown.mp4")
    files = {world.path("unknown.mp4"): world.stat("unknown.mp4")}
    async with trio.open_nursery() as nursery:
        supervisor = StreamSupervisor(services, nursery, lambda _: True)
        checker = IdleChecker(services, supervisor, timeout_seconds=60, period_seconds=5)
        page = DaemonSource(services, str(world.folder), lambda: False)
        retention, moved = Retention(services, timedelta(days=30)), MovedFiles(services)
        await checker._resume_without_task()  # reads all open streams, once

        async def survey() -> None:
            Metrics()
            await services.store.count()
            await services.store.is_persistent()

        async def forget() -> None:
            assert await services.store.mend_history() == 0
            assert await retention.forget_now() == 0

        yield {
            "idle check": checker._resume_without_task,
            "status page": page._refresh,
            "metrics": survey,
            "retention": forget,
            "leases": lambda: services.store.renew(["a", "b", "c", "d", "e"], services.lease),
            "unknown files": lambda: moved.find_completed(files),
        }


@pytest.mark.real
async def test_p7_a_round_of_each_periodic_task_costs_the_same_beside_a_long_history(
    world: World, valkey: ValkeyServer
) -> None:
    fill = benchmark().fill
    costs: list[dict[str, Cost]] = []
    with redis.Redis(unix_socket_path=str(valkey.socket_path), socket_timeout=60) as client:
        for completed, foreign in ((0, 0), (COMPLETED, FOREIGN)):
            client.flushall()
            async with RedisCheckpointStore(valkey.url, owner="node-7", socket_timeout_seconds=10) as store:
                fill(client, store.keys, completed=completed, foreign=foreign, now=world.utc_now())
                world.store = store  # type: ignore[assignment]
                async with world.services() as services, periodic_work(world, services) as tasks:
                    for work in tasks.values():
                        await work()  # the scripts are loaded then
                    costs.append({name: await cost_of(client, work) for name, work in tasks.items()})
                    assert (await store.count_ended())[History.COMPLETED] == completed
    alone, beside = costs
    assert {name: cost.commands for name, cost in alone.items()} == {
        name: cost.commands for name, cost in beside.items()
    }
    for name, cost in alone.items():
        ids = MAX_ENDED * 70 if name == "status page" else 0  # of the latest completed streams, however many there are
        assert abs(beside[name].size_bytes - cost.size_bytes) <= 0.1 * cost.size_bytes + ids, (name, cost, beside[name])


@pytest.mark.parametrize("seconds_before", [1, 20, 200])
async def test_a_dead_daemons_stream_is_taken_over_soon_after_its_lease(world: World, seconds_before: float) -> None:
    """In a shared folder: the other daemon has looked many times, and asks only for leases that ended since."""
    world.append(2 * PART + 1)
    async with world.daemon():
        await trio.sleep(2)
    (checkpoint,) = await until_idle(world, Status.INTERRUPTED_SHUTDOWN)
    stream_id, dead = checkpoint.meta.stream_id, Lease("dead", "1", 30.0, "another")
    assert await world.store.acquire(stream_id, dead)
    async with world.daemon() as daemon:
        for _ in range(int(seconds_before)):
            await trio.sleep(1)
            assert not await world.store.renew([stream_id], dead)
        since = trio.current_time()
        with trio.fail_after(30 + 5 + 0.5):
            while await world.store.renew([stream_id], daemon.services.lease):  # noqa: ASYNC110 - another program
                await trio.sleep(0.1)
        assert trio.current_time() - since > 29
