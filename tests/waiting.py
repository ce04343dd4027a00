"""Wait for what only another look can show: a process, a thread, a file, a stream's record.

Time-outs are generous: they end a test only when something is broken.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable

import trio

from cef_trio.checkpoint.model import Checkpoint
from cef_trio.checkpoint.states import Status
from cef_trio.lab.world import PART, World, WorldDaemon

WAIT_SECONDS = 60.0
_MAX_PAUSE_SECONDS = 0.1


def wait_until(
    true: Callable[[], object],
    seconds: float = WAIT_SECONDS,
    *,
    otherwise: Callable[[], str] = str,
    longest_pause: float = _MAX_PAUSE_SECONDS,
) -> None:
    """Wait until ``true()``, by the real clock; ``otherwise()`` explains a failure.

    ``longest_pause``: between two looks, in seconds.
    """
    deadline, pause = time.monotonic() + seconds, 0.001
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s: {otherwise()}"
        time.sleep(pause)
        pause = min(2 * pause, longest_pause)


async def until(true: Callable[[], object | Awaitable[object]], seconds: float = WAIT_SECONDS) -> None:
    """Wait until ``true()``, by trio's clock, be it real or virtual; ``true`` may be asynchronous."""
    pause = 0.001
    with trio.fail_after(seconds):
        while True:
            found = true()
            if await found if inspect.isawaitable(found) else found:
                return
            await trio.sleep(pause)
            pause = min(2 * pause, _MAX_PAUSE_SECONDS)


async def until_idle(world: World, *statuses: Status, seconds: float = 600) -> list[Checkpoint]:
    """Wait, on the virtual clock, until every stream has one of these statuses; return what the store holds."""
    with trio.move_on_after(seconds):
        while True:
            found = await world.checkpoints()
            if found and {checkpoint.meta.status for checkpoint in found} <= set(statuses):
                return found
            await trio.sleep(0.1)
    states = [
        (checkpoint.meta.status.value, checkpoint.meta.failure_reason) for checkpoint in await world.checkpoints()
    ]
    raise AssertionError(f"after {seconds} virtual seconds the streams are {states}, not {statuses}")


async def completed(world: World, seconds: float = 600) -> list[Checkpoint]:
    """Wait until every stream is completed."""
    return await until_idle(world, Status.COMPLETED, seconds=seconds)


async def begun(world: World, daemon: WorldDaemon, *, parts: int) -> Checkpoint:
    """Let a daemon see a recording of some parts that grows on; return the world's one stream, which lives."""
    world.append(parts * PART)
    daemon.seen()
    await trio.sleep(1)
    (live,) = await world.checkpoints()
    assert live.meta.status is Status.ACTIVE
    return live


async def uploaded(world: World) -> Checkpoint:
    """Let a daemon upload the world's one recording, which is closed; return what the store holds."""
    async with world.daemon() as daemon:
        daemon.closed()
        (checkpoint,) = await completed(world)
    assert world.recordings() == [world.content()]
    assert world.open_uploads() == []
    return checkpoint
