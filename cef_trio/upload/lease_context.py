"""A lease that is held for the length of one block of work, and renewed while the work takes long."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import trio

from cef_trio.checkpoint import CheckpointStore, Lease
from cef_trio.exceptions import CefMp4ProcessorError, LeaseLostError
from cef_trio.resilience import shielded

_RELEASE_SECONDS: Final = 2.0


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
async def hold_lease(
    store: CheckpointStore, name: str, lease: Lease, *, release_on_failure: bool = False
) -> AsyncIterator[HeldLease | None]:
    """Acquire the lease ``name`` for the block, and release it at its end; yield ``None`` if another holder has it.

    A lease that cannot be released expires. If the block raises or is cancelled, the lease is left to expire: an effect
    that may still be under way, such as a request to S3, is over before another daemon begins. ``release_on_failure``
    is for commands: each has a lease owner of its own, so an interrupted one could not be repeated before the lease
    expires. It also releases a lease whose acquisition was not acknowledged.

    Raises:
        RedisOperationError: the lease could not be acquired.
    """
    try:
        held = await store.acquire(name, lease)
        yield HeldLease(store, name, lease) if held else None
        if held:
            with suppress(CefMp4ProcessorError):
                await store.release([name], lease)
    except BaseException:
        if release_on_failure:
            with shielded(_RELEASE_SECONDS, saving="command's lease"), suppress(CefMp4ProcessorError):
                await store.release([name], lease)
        raise
