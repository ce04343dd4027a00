"""P2, P3, P5: at every single step of a stream's task it is cancelled, drained or killed, and then goes on.

A step is what a task does between two checkpoints. The scheduler is seeded, so step k is the same step in every run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from cef_trio.checkpoint.states import Status
from cef_trio.lab.world import PART, World, WorldDaemon
from cef_trio.local.s3 import Fault, Kind, Moment

SAVED = {Status.INTERRUPTED_CANCELLED, Status.INTERRUPTED_SHUTDOWN, Status.S3_COMPLETED, Status.COMPLETED}
MIN_STEPS = 100


class AtStep(trio.abc.Instrument):
    """Counts the steps of streams' tasks, and does something before the ``at``-th."""

    def __init__(self, at: int, strike: Callable[[], None]) -> None:
        self.steps = 0
        self._at = at
        self._strike = strike

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if "_run_stream" in task.name or "send_one" in task.name:
            self.steps += 1
            if self.steps == self._at:
                self._strike()


def cancel(_world: World, daemon: WorldDaemon) -> None:
    daemon.shutdown.request()
    daemon.shutdown.request()


def drain(_world: World, daemon: WorldDaemon) -> None:
    daemon.shutdown.request()


def kill(world: World, daemon: WorldDaemon) -> None:
    world.life.end()
    daemon.shutdown.request()
    daemon.shutdown.request()


def nothing_wrong(_world: World) -> None:
    """The ordinary life."""


def passing_faults(world: World) -> None:
    """Each kind of call fails once, before or after it had its effect."""
    for operation in ("CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "PutObject"):
        world.endpoint.faults.arm(Fault(Kind.ERROR, operation, code="InternalError"))
        world.endpoint.faults.arm(Fault(Kind.RESET, operation, Moment.REPLY, nth=2))


@pytest.fixture(autouse=True)
def repeatable_scheduler() -> Iterator[None]:
    """trio shuffles the tasks that can run; hypothesis's way of seeding that."""
    run: Any = trio._core._run
    before = run._r
    run._ALLOW_DETERMINISTIC_SCHEDULING = True
    yield
    run._ALLOW_DETERMINISTIC_SCHEDULING = False
    run._r = before


Strike = Callable[[World, WorldDaemon], None]


async def one_run(folder: Path, at_step: int, strike: Strike, faults: Callable[[World], None]) -> bool:
    """Run, strike at that step, and check; returns whether there was such a step."""
    world = World(folder, seed=at_step)
    faults(world)
    world.append(3 * PART + 100)
    async with world.services() as services, trio.open_nursery() as nursery:
        daemon = WorldDaemon(world, services)
        await nursery.start(daemon.run)
        steps = AtStep(at_step, lambda: strike(world, daemon))
        trio.lowlevel.add_instrument(steps)
        await trio.sleep(0.5)
        world.append(2 * PART)
        if not daemon.shutdown.signals:
            daemon.saw()
        await trio.sleep(0.5)
        world.patch(5, b"patched")
        if not daemon.shutdown.signals:
            daemon.closed()
        await trio.sleep(30)
        trio.lowlevel.remove_instrument(steps)
        if not daemon.shutdown.signals:
            daemon.shutdown.request()
    assert services.stream_slots.borrowed_tokens == 0
    assert services.part_slots.borrowed_tokens == 0
    before = await world.checkpoints()
    if strike is not kill:
        assert {checkpoint.meta.status for checkpoint in before} <= SAVED
        assert services.exit_saves.unsaved == set()
        # P2: every part whose acknowledgement arrived is recorded, the newest one where a part was sent twice.
        parts = {number: part.etag for checkpoint in before for number, part in checkpoint.parts.items()}
        assert dict(world.acknowledged).items() <= parts.items()
    recorded = {(checkpoint.meta.s3_key_prefix, number) for checkpoint in before for number in checkpoint.parts}
    received = dict(world.endpoint.log.received_bytes)
    world.endpoint.faults.clear()
    async with world.daemon() as healthy:
        healthy.closed()
        await trio.sleep(120)
    (after,) = await world.checkpoints()
    assert after.meta.status is Status.COMPLETED
    assert world.recordings() == [world.content()]
    assert world.open_uploads() == []
    again = {
        part
        for part, size_bytes in world.endpoint.log.received_bytes.items()
        if part in recorded and part[1] != 1 and size_bytes > received.get(part, 0)
    }
    assert again == set(), "recorded parts, of which no byte changed, were sent again"
    return steps.steps >= at_step


@pytest.mark.slow
@pytest.mark.parametrize("faults", [nothing_wrong, passing_faults])
@pytest.mark.parametrize("strike", [cancel, drain, kill])
def test_at_every_step_the_state_is_saved_and_the_next_start_goes_on(
    tmp_path: Path, strike: Strike, faults: Callable[[World], None]
) -> None:
    run: Any = trio._core._run
    at_step, there_was_one = 0, True
    with capture_logs():
        while there_was_one:
            at_step += 1
            folder = tmp_path / str(at_step)
            folder.mkdir()
            run._r = random.Random(1)
            try:
                there_was_one = trio.run(
                    one_run, folder, at_step, strike, faults, clock=MockClock(autojump_threshold=0)
                )
            except BaseException as error:
                error.add_note(f"{strike.__name__} at step {at_step}, {faults.__name__}")
                raise
    assert at_step > MIN_STEPS
