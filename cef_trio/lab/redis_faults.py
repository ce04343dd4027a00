"""Faults of a world's Redis: no responses, refused writes, failover to a replica that lags behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Final

import trio
from trio_util import AsyncBool

from cef_trio.checkpoint.memory import FaultHook, Moment, StoreSnapshot
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


def lose_responses(calls: Collection[int], hits: Counter[str]) -> FaultHook:
    """Return a fault hook that loses the responses of calls, by their numbers from 1.

    A final state (``save_interrupted``) is not counted: it is saved without a retry, and the scenario ``redis-frozen``
    has a Redis that is down then.
    """
    number = 0

    async def lose(operation: str, moment: Moment) -> None:
        nonlocal number
        if moment is Moment.AFTER and operation != "save_interrupted":
            number += 1
            if number in calls:
                hits["redis: answer lost"] += 1
                await trio.sleep(5)

    return lose


class RedisFaults:
    """The faults of Redis as switches. ``then``: a fault hook that is applied after these."""

    def __init__(self, world: World, *, then: FaultHook | None = None) -> None:
        self._world = world
        self._then = then
        self.silent = AsyncBool(False)
        """While true, calls neither take effect nor return."""
        self.refusal = ""
        """The error of every write; empty: writes succeed."""
        self.refused = 0
        """Number of refused writes."""
        world.store.fault = self._apply

    def keep(self) -> StoreSnapshot:
        """Return what a replica has now."""
        return self._world.store.snapshot()

    def fail_over(self, replica: StoreSnapshot) -> None:
        """Fail over to a replica; later acknowledged writes are lost."""
        self.refusal = ""
        self._world.lose_redis(down_to=replica)

    def turn_read_only(self) -> None:
        """Refuse writes, as a replica does."""
        self._world.journal.note(Lane.LAB, "Redis refuses writes")
        self.refusal = "READONLY You can't write against a read only replica."

    async def _apply(self, operation: str, moment: Moment) -> None:
        if moment is Moment.SENT and self.silent.value:
            await self.silent.wait_value(False)
        if moment is Moment.BEFORE and self.refusal and operation not in _READS:
            self.refused += 1
            await trio.lowlevel.checkpoint()
            raise RedisOperationError(operation, self.refusal, transient=True)
        if self._then is not None:
            await self._then(operation, moment)
