"""P10, P6: a file whose bytes are read too slowly to be recognized at once is compared apart, and told meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog.testing
import trio
from waiting import until, until_idle

from cef_trio.checkpoint.states import Status
from cef_trio.exceptions import FileAccessError
from cef_trio.files.file_system import Origin, file_system_named
from cef_trio.lab.disk import InlineRecording
from cef_trio.lab.world import PART, World, WorldDaemon
from cef_trio.observability.at_risk import Reason
from cef_trio.s3_endpoint import Fault, Kind

SLOW_SECONDS = 20.0
"""How long each read takes: longer than the lookups wait for one file."""


@pytest.fixture
async def reused(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """On a FUSE mount without birth times, another recording has the name of a failed one with two parts."""
    monkeypatch.setattr("cef_trio.lab.disk.origin_of", lambda _: Origin(system=file_system_named("fuse")))
    world.stream_timeout_seconds = 10
    world.endpoint.faults.arm(
        Fault(Kind.ERROR, "CompleteMultipartUpload", status=400, code="EntityTooLarge", times=None)
    )
    world.append(2 * PART)
    async with world.daemon() as daemon:
        daemon.closed()
        await until_idle(world, Status.FAILED_FINALIZATION)
    world.endpoint.faults.clear()
    world.append(3 * PART, "new.tmp")
    Path(world.path("new.tmp")).rename(world.path())
    return world


async def rescanned(daemon: WorldDaemon, seconds: float) -> None:
    """Scan the folder every 30 seconds, as the watcher does by default."""
    while True:
        daemon.supervisor.handle_event(daemon.world.scan())
        if seconds <= 0:
            return
        await trio.sleep(min(seconds, 30))
        seconds -= 30


async def test_p6_p10_a_file_that_is_read_slowly_is_told_recognized_in_the_end_and_begun(reused: World) -> None:
    reused.read_seconds = SLOW_SECONDS
    with structlog.testing.capture_logs() as logs:
        async with reused.daemon() as daemon:
            await rescanned(daemon, 2 * SLOW_SECONDS)
            assert len(reused.known()) == 1
            reused.read_seconds = 0.0  # of later reads
            reused.append(PART, "quick.mp4")
            daemon.closed("quick.mp4")
            await until(lambda: reused.content("quick.mp4") in reused.recordings(), SLOW_SECONDS / 2)
            assert reused.content() not in reused.recordings(), "the quick one did not wait for it"
            await until(lambda: reused.content() in reused.recordings())
    assert [entry["event"] for entry in logs].count("recording_compared_slowly") == 1


async def test_p10_a_file_whose_bytes_take_for_ever_is_at_risk_since_it_was_first_seen(reused: World) -> None:
    reused.read_seconds = 1e9
    async with reused.daemon() as daemon:
        began_at = daemon.services.unix_time(trio.current_time())
        await rescanned(daemon, 120)
        [risk] = daemon.at_risk
        assert risk.reason is Reason.NOT_LOOKED_UP
        assert risk.since - began_at < 1, "a scan does not begin to count anew"
        assert risk.size_bytes == 3 * PART
        assert "slow" in risk.why
        Path(reused.path()).unlink()
        await rescanned(daemon, 0)
        assert daemon.at_risk == ()


async def test_p10_a_file_whose_bytes_cannot_be_read_is_at_risk_since_it_was_first_seen(
    reused: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> bytes:
        raise FileAccessError("cannot read: input/output error", denied=False)

    with monkeypatch.context() as patched:
        patched.setattr(InlineRecording, "read", broken)
        async with reused.daemon() as daemon:
            await rescanned(daemon, 120)
            assert [risk.reason for risk in daemon.at_risk] == [Reason.NOT_LOOKED_UP]
            patched.undo()
            await rescanned(daemon, 60)
            assert daemon.at_risk == ()
    assert reused.content() in reused.recordings()


async def test_p6_another_file_at_the_path_does_not_wait_for_the_slow_one(reused: World) -> None:
    reused.read_seconds = 1e9
    async with reused.daemon() as daemon:
        await rescanned(daemon, 40)
        reused.read_seconds = 0.0
        reused.append(4 * PART, "newer.tmp")
        Path(reused.path("newer.tmp")).rename(reused.path())
        daemon.closed()
        await until(lambda: reused.content() in reused.recordings())
