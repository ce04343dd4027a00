"""A daemon that was cut off, and whose streams another one has taken over, changes nothing of them when it is back."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from waiting import completed, until

from cef_trio.checkpoint import Beat, Lease, Status
from cef_trio.exceptions import RedisOperationError
from cef_trio.lab.world import PART, World, WorldDaemon
from cef_trio.s3_endpoint import Fault, Kind

RECORDING = {"operation": "PutObject", "predicate": lambda call: (call.key or "").endswith("/a.mp4")}


def without_renewals(daemon: WorldDaemon, patch: pytest.MonkeyPatch) -> None:
    """The renewals of a daemon's leases do not get through."""

    async def renew(stream_ids: Collection[str], lease: Lease) -> frozenset[str]:
        await trio.lowlevel.checkpoint()
        raise RedisOperationError("renew", "timed out", transient=True)

    async def beat(beat: Beat) -> Any:
        await trio.lowlevel.checkpoint()
        raise RedisOperationError("beat", "timed out", transient=True)

    patch.setattr(daemon.services.store, "renew", renew, raising=False)
    patch.setattr(daemon.services.store, "beat", beat, raising=False)


@pytest.mark.parametrize("grows_by", [10, 3 * PART])
async def test_p1_a_daemon_that_lost_its_lease_does_not_replace_the_newer_object_of_the_next_one(
    world: World, monkeypatch: pytest.MonkeyPatch, grows_by: int
) -> None:
    world.append(PART // 2)
    with capture_logs() as logs:
        async with trio.open_nursery() as nursery, world.services(instance="first") as services:
            first = WorldDaemon(world, services)
            await nursery.start(first.run)
            without_renewals(first, monkeypatch)
            put = world.endpoint.faults.arm(Fault(Kind.FREEZE, times=1, **RECORDING))  # type: ignore[arg-type]
            first.closed()
            await until(lambda: put.hits)
            async with world.services(instance="second") as other_services:
                second = WorldDaemon(world, other_services)
                await nursery.start(second.run)
                world.append(grows_by)
                world.closed.add(world.path())
                (checkpoint,) = await completed(world)
                assert checkpoint.meta.status is Status.COMPLETED
                assert world.recordings() == [world.content()]
                world.endpoint.faults.disarm(put)
                await until(lambda: any(line["event"] == "lease_lost" for line in logs))
                await trio.sleep(60)
                assert world.recordings() == [world.content()]
                for daemon in (first, second):
                    daemon.shutdown.request()
                    daemon.shutdown.request()
                await until(lambda: first.exit_code is not None and second.exit_code is not None)
    assert world.open_uploads() == []
