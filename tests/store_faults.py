"""Faults for ``MemoryCheckpointStore.fault``, which strike at one call to the store."""

from __future__ import annotations

import trio

from cef_trio.checkpoint.memory import Moment
from cef_trio.lab.world import World


class KilledAt:
    """Kill the world's daemon at its first such call."""

    def __init__(self, world: World, operation: str, moment: Moment = Moment.BEFORE) -> None:
        self._world, self._operation, self._moment = world, operation, moment

    async def __call__(self, operation: str, moment: Moment) -> None:
        if (operation, moment) == (self._operation, self._moment):
            self._world.life.end()
            await trio.sleep_forever()


class CancelledAt:
    """Cancel a scope at the first such call; ``hit`` tells whether there was one."""

    def __init__(self, scope: trio.CancelScope, operation: str, moment: Moment) -> None:
        self._scope, self._operation, self._moment = scope, operation, moment
        self.hit = False

    async def __call__(self, operation: str, moment: Moment) -> None:
        if (operation, moment) == (self._operation, self._moment) and not self.hit:
            self.hit = True
            self._scope.cancel()
        await trio.lowlevel.checkpoint()
