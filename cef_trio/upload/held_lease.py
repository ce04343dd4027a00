"""A lease that is held for the length of one block of work, and renewed while the work takes long."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from cef_trio.checkpoint import CheckpointStore, Lease
from cef_trio.exceptions import LeaseLostError


class HeldLease:
    """A lease that this task holds."""

    def __init__(self, store: CheckpointStore, name: str, lease: Lease) -> None:
        self._store = store
        self._name = name
        self._lease = lease
        self._renewed_at = trio.current_time()

    async def renew_if_due(self) -> None:
        """Renew the lease after a third of its lifetime; call it often during long work.

        Raises:
            LeaseLostError: another daemon holds it.
            RedisOperationError: Redis cannot be asked.
        """
        if trio.current_time() < self._renewed_at + self._lease.ttl_seconds / 3:
            return
        if await self._store.renew([self._name], self._lease):
            raise LeaseLostError("another daemon has taken the work over")
        self._renewed_at = trio.current_time()


@asynccontextmanager
async def hold_lease(store: CheckpointStore, name: str, lease: Lease) -> AsyncIterator[HeldLease | None]:
    """Acquire the lease ``name`` and release it at the end of the block; ``None``: another holder has it.

    If the block raises or is cancelled, the lease is not released: it expires by itself, so an effect that may still
    be under way is over before another daemon begins.

    Raises:
        RedisOperationError: Redis cannot be asked.
    """
    if not await store.acquire(name, lease):
        yield None
        return
    yield HeldLease(store, name, lease)
    await store.release([name], lease)
