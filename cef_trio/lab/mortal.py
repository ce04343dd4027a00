"""A process that dies: from one moment on nothing it does has any effect.

Cancelling a task is not killing a process: a cancelled task may still save something on its way out. Here the edges
know whether the daemon behind them lives; after its end every call fails before it does anything, so what S3 and the
store hold is exactly what they held at that moment.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from cef_trio.checkpoint.memory import MemoryCheckpointStore
from cef_trio.exceptions import RedisOperationError


class Life:
    """One process's life."""

    def __init__(self) -> None:
        self.ended = False

    def end(self) -> None:
        """The process is killed."""
        self.ended = True


class MortalStore:
    """The store as one process sees it: every method of a ``CheckpointStore``, until that process is dead."""

    def __init__(self, store: MemoryCheckpointStore, life: Life) -> None:
        self._store = store
        self._life = life

    def __getattr__(self, operation: str) -> Callable[..., Awaitable[Any]]:
        method: Callable[..., Awaitable[Any]] = getattr(self._store, operation)

        async def call(*args: Any, **kwargs: Any) -> Any:
            if self._life.ended:
                raise RedisOperationError(operation, "the process is dead")
            return await method(*args, **kwargs)

        return call


class MortalTransport(httpx.AsyncBaseTransport):
    """The network as one process sees it, until that process is dead.

    ``acknowledged`` is told each part whose acknowledgement has reached the process: (part number, ETag).
    """

    def __init__(
        self, transport: httpx.AsyncBaseTransport, life: Life, acknowledged: Callable[[int, str], None]
    ) -> None:
        self._transport = transport
        self._life = life
        self._acknowledged = acknowledged

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Pass a request on."""
        if self._life.ended:
            raise httpx.ConnectError("the process is dead", request=request)
        response = await self._transport.handle_async_request(request)
        part_number = request.url.params.get("partNumber")
        if request.method == "PUT" and part_number is not None and response.is_success:
            self._acknowledged(int(part_number), response.headers["etag"].strip('"'))
        return response
