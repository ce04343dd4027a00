"""A record of a newer schema is a newer daemon's: nothing is written to it, and its file gets no second stream."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio
from servers.stream_records import two_parts
from structlog.testing import capture_logs
from waiting import completed

from cef_trio.checkpoint import Lease, schema
from cef_trio.daemon.start_checks import raise_schema
from cef_trio.lab.world import PART, World
from cef_trio.observability.at_risk import Reason
from cef_trio.upload.risks import RiskObserver

NEWER = schema.CURRENT + 1
ANOTHER = Lease("a-newer-daemon", "its-token", 1e9)


async def interrupted(world: World) -> str:
    """A recording with two parts, whose daemon has ended and whose record a newer one has raised."""
    stream_id = await two_parts(world)
    world.store.set_schema(stream_id, NEWER)
    return stream_id


@pytest.mark.parametrize("held", [False, True], ids=["no newer daemon runs", "a newer daemon works on it"])
async def test_p9_p10_a_newer_record_is_left_alone_and_counted_and_is_a_risk_only_if_no_daemon_works_on_it(
    world: World, held: bool
) -> None:
    stream_id = await interrupted(world)
    if held:
        assert await world.store.acquire(stream_id, ANOTHER)
    before = world.store.snapshot().streams[stream_id]
    with capture_logs() as logs:
        async with world.daemon() as daemon:
            calls: list[str] = []

            async def note(operation: str, _: object) -> None:
                calls.append(operation)

            world.store.fault = note
            for _ in range(300):
                world.append(1)
                daemon.seen()
                await trio.sleep(1)
            daemon.closed()
            world.append(10, "other.mp4")
            daemon.seen("other.mp4")
            daemon.closed("other.mp4")
            await trio.sleep(100)
            risks = RiskObserver(daemon.services, daemon.supervisor)()
            assert [risk.reason for risk in risks] == ([] if held else [Reason.RECORD_NEWER])
            value = daemon.services.metrics.registry.get_sample_value
            assert value("cef_trio_newer_records") == 1
            assert value("cef_trio_unreadable_records") == 0
    world.store.fault = None
    assert calls.count("find_by_path") / 3 < 20, "once a minute, not at every check"
    assert [entry["event"] for entry in logs].count("records_newer") == 1
    assert world.store.snapshot().streams[stream_id] == before
    assert len(world.store.snapshot().streams) == 2
    assert world.recordings() == [world.content("other.mp4")]


async def test_a_recording_whose_newer_record_is_this_versions_again_resumes(world: World) -> None:
    stream_id = await interrupted(world)
    async with world.daemon() as daemon:
        daemon.seen()
        await trio.sleep(100)
        world.store.set_schema(stream_id, 1)
        daemon.closed()
        await completed(world)
    [known] = world.known()
    assert (known.meta.stream_id, known.meta.schema) == (stream_id, schema.CURRENT)
    assert world.recordings() == [world.content()]


async def test_a_stream_whose_record_becomes_newer_under_its_task_is_left_with_nothing_written(world: World) -> None:
    """As if the daemon had been paused, and a newer one had worked meanwhile under the same lease."""
    world.stream_timeout_seconds = 1e6
    world.append(2 * PART)
    async with world.daemon() as daemon:
        daemon.seen()
        await trio.sleep(3)
        [known] = world.known()
        world.store.set_schema(known.meta.stream_id, NEWER)
        before = world.store.snapshot().streams[known.meta.stream_id]
        world.append(5 * PART)
        daemon.seen()
        daemon.closed()
        await trio.sleep(300)
        assert not world.store.is_held(known.meta.stream_id)
    assert world.store.snapshot().streams[known.meta.stream_id] == before
    assert len(world.store.snapshot().streams) == 1
    assert world.recordings() == []


async def test_a_namespace_of_a_newer_version_is_logged_at_the_start_and_kept(world: World) -> None:
    world.store.restore(replace(world.store.snapshot(), schema=NEWER))
    async with world.daemon() as daemon:
        with capture_logs() as logs:
            await raise_schema(daemon.services)
            assert [entry["event"] for entry in logs] == ["namespace_newer"]
            assert f"of schema {NEWER}" in logs[0]["reason"]
            world.store.restore(replace(world.store.snapshot(), schema=1))
            await raise_schema(daemon.services)
            await raise_schema(daemon.services)
    assert len(logs) == 1
    assert world.store.snapshot().schema == schema.CURRENT


async def test_a_renamed_file_of_a_newer_record_waits_for_the_newer_daemon_to_record_its_name(world: World) -> None:
    stream_id = await interrupted(world)
    async with world.daemon() as daemon:
        daemon.seen()
        await trio.sleep(10)
        Path(world.path()).rename(world.path("b.mp4"))
        daemon.moved("a.mp4", "b.mp4")
        await trio.sleep(30)
        world.store._by_path[world.path("b.mp4")] = stream_id
        daemon.closed("b.mp4")
        await trio.sleep(300)
    assert set(world.store.snapshot().streams) == {stream_id}
    assert world.recordings() == []
