"""A daemon that was cut off, and whose streams another one has taken over, changes nothing of them when it is back."""

from __future__ import annotations

import os
from collections import Counter
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


@pytest.mark.parametrize("another", [False, True], ids=["the recorded one", "the listed ones"])
async def test_p2_a_daemon_that_lost_its_lease_does_not_abort_the_upload_of_the_next_one(
    world: World, monkeypatch: pytest.MonkeyPatch, another: bool
) -> None:
    """Neither the upload that is recorded, nor one that was created meanwhile and is found under the key."""
    world.append(2 * PART)
    with capture_logs() as logs:

        def parts() -> list[int]:
            return [line["part_number"] for line in logs if line["event"] == "part_uploaded"]

        async with trio.open_nursery() as nursery, world.services(instance="first") as services:
            first = WorldDaemon(world, services)
            await nursery.start(first.run)
            first.seen()
            await until(lambda: len(parts()) == 2)
            if another:
                (begun,) = await world.checkpoints()
                await services.s3.create_multipart_upload(begun.meta.s3_key_prefix, metadata={})
            # With another one, the recorded upload is gone before the wait, and the next daemon creates one.
            waits = world.endpoint.faults.arm(Fault(Kind.FREEZE, "AbortMultipartUpload", nth=1 + another, times=1))
            os.truncate(world.path(), 0)
            first.closed()
            await until(lambda: waits.hits)
            async with world.services(instance="second") as other_services:
                second = WorldDaemon(world, other_services)
                await nursery.start(second.run)
                with monkeypatch.context() as patch:
                    without_renewals(first, patch)
                    world.append(4 * PART)
                    second.seen()
                    await until(lambda: len(parts()) == 6, seconds=100)
                world.endpoint.faults.disarm(waits)
                await until(lambda: any(line["event"] == "lease_lost" for line in logs), seconds=100)
                world.append(2 * PART)
                second.closed()
                await completed(world)
                assert world.recordings() == [world.content()]
                for daemon in (first, second):
                    daemon.shutdown.request()
                    daemon.shutdown.request()
                await until(lambda: first.exit_code is not None and second.exit_code is not None)
    aborted_while_ours = another
    assert [line["event"] for line in logs].count("upload_lost") == aborted_while_ours
    assert Counter(parts()[2:]) == Counter(range(1, 7)), "each part was sent once since the cut"
    assert world.open_uploads() == []


async def test_p5_a_daemon_that_lost_its_lease_aborts_the_upload_that_it_created_then(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No record names it, and a store that does not list uploads tells nobody of it."""
    world.endpoint.faults.arm(Fault(Kind.ERROR, "ListMultipartUploads", code="NotImplemented", times=None))
    world.append(2 * PART)
    with capture_logs() as logs:
        async with trio.open_nursery() as nursery, world.services(instance="first") as services:
            first = WorldDaemon(world, services)
            await nursery.start(first.run)
            without_renewals(first, monkeypatch)
            key = {"predicate": lambda call: (call.key or "").endswith("/a.mp4")}
            create = world.endpoint.faults.arm(Fault(Kind.FREEZE, "CreateMultipartUpload", times=1, **key))  # type: ignore[arg-type]
            first.closed()
            await until(lambda: create.hits)
            async with world.services(instance="second") as other_services:
                second = WorldDaemon(world, other_services)
                await nursery.start(second.run)
                world.closed.add(world.path())
                await completed(world)
                world.endpoint.faults.disarm(create)
                await until(lambda: any(line["event"] == "lease_lost" for line in logs))
                assert len(world.open_uploads()) == 1
                await until(lambda: not world.open_uploads(), 300)
                for daemon in (first, second):
                    daemon.shutdown.request()
                await until(lambda: first.exit_code is not None and second.exit_code is not None)
    assert world.recordings() == [world.content()]


async def test_p5_an_upload_whose_id_waits_for_redis_is_aborted_when_a_renewal_finds_the_lease_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task is cancelled then, and is told no error."""
    world.endpoint.faults.arm(Fault(Kind.ERROR, "ListMultipartUploads", code="NotImplemented", times=None))
    world.append(2 * PART)
    refused: list[str] = []
    with capture_logs() as logs:
        async with trio.open_nursery() as nursery, world.services(instance="first") as services:
            first = WorldDaemon(world, services)
            await nursery.start(first.run)
            with monkeypatch.context() as patch:
                without_renewals(first, patch)
                update = services.store.update

                async def not_written(stream_id: str, lease: Lease, change: Any) -> None:
                    if "s3_upload_id" not in change.fields:
                        await update(stream_id, lease, change)
                        return
                    await trio.lowlevel.checkpoint()
                    refused.append(stream_id)
                    if len(refused) > 1:
                        await trio.sleep_forever()  # Redis does not answer
                    raise RedisOperationError("update", "timed out", transient=True)

                monkeypatch.setattr(services.store, "update", not_written, raising=False)
                first.closed()
                await until(lambda: len(refused) > 1)
                async with world.services(instance="second") as other_services:
                    second = WorldDaemon(world, other_services)
                    await nursery.start(second.run)
                    world.closed.add(world.path())
                    await completed(world)
                    assert len(world.open_uploads()) == 1
                    patch.undo()
                    await until(lambda: any(line["event"] == "lease_lost" for line in logs), 300)
                    monkeypatch.undo()
                    await trio.sleep(1500)
                    left = world.open_uploads()
                    for daemon in (first, second):
                        daemon.shutdown.request()
                        daemon.shutdown.request()
                    await until(lambda: first.exit_code is not None and second.exit_code is not None)
    assert left == []
