"""Waiting for what a world (``cef_trio.lab.world``) comes to, on its virtual clock."""

from __future__ import annotations

import trio

from cef_trio.checkpoint.model import Checkpoint
from cef_trio.checkpoint.states import Status
from cef_trio.lab.world import World


async def until_idle(world: World, *statuses: Status, seconds: float = 600) -> list[Checkpoint]:
    """Wait, on the virtual clock, until every stream has one of these statuses; returns what the store holds."""
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
    return await until_idle(world, Status.COMPLETED, seconds=seconds)
