"""What can be wrong with a world's Redis: it is silent, refuses writes, or fails over to a node that knows less."""

from __future__ import annotations

from typing import Final

import trio
from trio_util import AsyncBool

from cef_trio.checkpoint.memory import FaultHook, Moment, Snapshot
from cef_trio.exceptions import RedisOperationError
from cef_trio.lab.journal import Lane
from cef_trio.lab.world import World

_READS: Final = frozenset(
    {
        "count",
        "find_by_path",
        "holders",
        "is_persistent",
        "load",
        "load_metas",
        "members",
        "pending_webhooks",
        "persistence",
        "ping",
    }
)
"""Calls that change nothing; a node that refuses writes answers these."""


class RedisFaults:
    """The switches. What else a world does to its Redis (``also``) happens as before."""

    def __init__(self, world: World, *, also: FaultHook | None = None) -> None:
        self._world = world
        self._also = also
        self.silent = AsyncBool(False)
        """While it is true, nothing is taken and nothing answered."""
        self.refusal = ""
        """How writes are refused; empty: they are not."""
        self.refused = 0
        """How often that happened."""
        world.store.fault = self._strike

    def keep(self) -> Snapshot:
        """What a replica has by now."""
        return self._world.store.snapshot()

    def fail_over(self, replica: Snapshot) -> None:
        """The replica takes over: what was acknowledged since is lost."""
        self.refusal = ""
        self._world.lose_redis(down_to=replica)

    def turn_read_only(self) -> None:
        """The node that is asked is a replica now: it may be read, and nothing else."""
        self._world.journal.note(Lane.LAB, "Redis refuses writes")
        self.refusal = "READONLY You can't write against a read only replica."

    async def _strike(self, operation: str, moment: Moment) -> None:
        if moment is Moment.SENT and self.silent.value:
            await self.silent.wait_value(False)
        if moment is Moment.BEFORE and self.refusal and operation not in _READS:
            self.refused += 1
            await trio.lowlevel.checkpoint()
            raise RedisOperationError(operation, self.refusal, transient=True)
        if self._also is not None:
            await self._also(operation, moment)
