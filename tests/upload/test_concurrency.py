"""P6, P7: limits are exact, counted at the server; an outage causes one back-off; a slot is always released."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock
from waiting import completed

from cef_trio.checkpoint.model import Lease
from cef_trio.checkpoint.states import Status
from cef_trio.exit_codes import ExitCode
from cef_trio.lab.scenario_context import no_probe
from cef_trio.lab.world import PART, World, WorldDaemon
from cef_trio.s3_endpoint import CallInfo, Fault, Kind


class AtWork:
    """The maximum number of streams that hold a slot, sampled at each call that reaches the server."""

    def __init__(self, world: World) -> None:
        self.most = 0
        self.daemon: WorldDaemon | None = None
        world.endpoint.faults.arm(Fault(Kind.SLOW, "*", seconds=1, times=None, predicate=self._look))

    def _look(self, _call: CallInfo) -> bool:
        if self.daemon is not None:
            self.most = max(self.most, sum(live.processor.working for live in self.daemon.supervisor.live))
        return True


def names(count: int) -> list[str]:
    return [f"{number:03}.mp4" for number in range(count)]


async def test_p7_the_limits_hold_while_a_restart_resumes_and_verifies_everything_at_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """All work of two dozen streams at once: list parts, send, verify, send patched parts again, complete."""
    world = World(tmp_path, max_concurrent_streams=3, max_concurrent_parts=2)
    for name in names(24):
        world.append(4 * PART + 1, name)
    async with world.daemon():
        await trio.sleep(10)
    for name in names(24):
        world.patch(0, b"patched", name)
        world.append(PART, name)
    world.endpoint.log.reset()
    world.has_writer = False
    at_work = AtWork(world)
    async with world.daemon() as daemon:
        at_work.daemon = daemon
        await completed(world, seconds=3600)
    most = world.endpoint.log.max_concurrent
    assert at_work.most == 3, "reached, and never exceeded"
    assert most["UploadPart"] == 2
    assert most["ListParts"] == 3, "a stream that resumes holds a slot"
    assert max(most[call] for call in ("CompleteMultipartUpload", "PutObject", "ListMultipartUploads")) <= 3
    assert sorted(world.recordings()) == sorted(world.content(name) for name in names(24))


async def test_p6_the_end_of_an_outage_is_noticed_by_one_probe_and_not_by_two_hundred_streams(world: World) -> None:
    for name in names(200):
        world.append(PART, name)
    async with world.daemon() as daemon:
        await trio.sleep(5)
        down = world.endpoint.faults.arm(Fault(Kind.ERROR, "*", code="ServiceUnavailable", times=None))
        for name in names(200):
            world.append(PART, name)
            daemon.seen(name)
        await trio.sleep(60)
        world.endpoint.log.reset()
        await trio.sleep(600)
        asked = dict(world.endpoint.log.calls)
        longest = world.policy.max_seconds
        assert set(asked) == {"PutObject"}, "while it is down only the probe knocks, by what failed"
        assert 600 / longest <= asked["PutObject"] <= 600 / (longest / 2) + 1
        world.endpoint.faults.disarm(down)
        world.endpoint.log.reset()
        await daemon.services.s3_breaker.wait_up()
        probe = {"PutObject": 1, "CreateMultipartUpload": 2, "UploadPart": 2, "CompleteMultipartUpload": 1}
        tidy = {"DeleteObject": 2, "AbortMultipartUpload": 1}
        assert dict(world.endpoint.log.calls) == {**probe, **tidy}, "and one round of it ends it"
        for name in names(200):
            daemon.closed(name)
        await completed(world, seconds=900)
    assert len(world.recordings()) == 200


async def test_p6_a_retrying_stream_records_its_next_attempt_within_five_minutes_and_never_fails(world: World) -> None:
    """Its parts are refused for hours, and the probe's are not: there is no outage, and the stream does not end."""
    world.append(2 * PART)
    waits = set()
    async with world.daemon() as daemon:
        down = world.endpoint.faults.arm(
            Fault(Kind.ERROR, "UploadPart", code="SlowDown", times=None, predicate=no_probe)
        )
        for _ in range(3 * 3600):
            await trio.sleep(1)
            (checkpoint,) = world.known()
            meta = checkpoint.meta
            assert meta.status in {Status.ACTIVE, Status.RETRYING}
            if meta.status is Status.RETRYING:
                assert meta.retry_at_utc is not None
                waits.add((meta.retry_attempts, round((meta.retry_at_utc - world.utc_now()).total_seconds())))
        world.endpoint.faults.disarm(down)
        daemon.closed()
        await completed(world, seconds=400)
    next_times = [seconds for _, seconds in waits]
    assert max(next_times) == pytest.approx(300, abs=1), "they grow to five minutes"
    assert len({attempts for attempts, _ in waits}) > 30, "and go on"
    assert world.recordings() == [world.content()]


async def test_a_stream_that_is_cancelled_while_it_holds_the_only_slots_gives_them_back(
    world: World, tmp_path: Path
) -> None:
    """One slot of each kind. Its holder hangs in UploadPart, loses its lease and is cancelled; the others continue."""
    world._max_concurrent_streams = world._max_concurrent_parts = 1
    world.append(2 * PART, "hangs.mp4")
    frozen = world.endpoint.faults.arm(
        Fault(Kind.FREEZE, "UploadPart", times=None, predicate=lambda call: "hangs" in (call.key or ""))
    )
    async with world.daemon() as daemon:
        await trio.sleep(1)
        (hanging,) = world.known()
        services = daemon.services
        assert (services.stream_slots.borrowed_tokens, services.part_slots.borrowed_tokens) == (1, 1)
        for name in names(5):
            world.append(2 * PART, name)
            daemon.closed(name)
        await trio.sleep(5)
        assert world.recordings() == []
        world.store._hold(hanging.meta.stream_id, Lease("another-daemon", "its-token", 10_000.0))
        await trio.sleep(60)
        assert len(world.recordings()) == 5
        assert (services.stream_slots.borrowed_tokens, services.part_slots.borrowed_tokens) == (0, 0)
    assert frozen.hits >= 1
    assert sorted(world.recordings()) == sorted(world.content(name) for name in names(5))


@pytest.mark.parametrize("operation", ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "PutObject"])
async def test_p4_an_exit_does_not_wait_for_slots(world: World, operation: str) -> None:
    """The grace period ends while one stream holds the only slot in an endless call and nineteen wait for it."""
    world._max_concurrent_streams = world._max_concurrent_parts = 1
    for name in names(20):
        world.append(2 * PART, name)
    world.endpoint.faults.arm(Fault(Kind.FREEZE, operation, times=None))
    world.has_writer = False
    async with world.daemon() as daemon:
        await trio.sleep(30)
        began = trio.current_time()
        daemon.shutdown.request()
    assert trio.current_time() - began <= world.grace_seconds + 2
    assert daemon.exit_code is ExitCode.DONE
    services = daemon.services
    assert (services.stream_slots.borrowed_tokens, services.part_slots.borrowed_tokens) == (0, 0)
    assert not services.shutdown_flush.unsaved
    for checkpoint in world.known():
        assert checkpoint.meta.status in {
            Status.INTERRUPTED_CANCELLED,
            Status.INTERRUPTED_SHUTDOWN,
            Status.S3_COMPLETED,
        }
