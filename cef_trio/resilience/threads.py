"""Worker threads: a call waits if the system has no thread to give.

``trio.to_thread`` raises ``RuntimeError`` at the limit of processes and threads (``RLIMIT_NPROC``, a cgroup's
``pids.max``). The call has not begun then, so it is tried again until a thread is available or it is cancelled.
``thread_unavailable`` is logged once, and ``thread_available`` when no call waits any more.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, TypeVar

import structlog
import trio

from cef_trio.resilience.backoff import RetryPolicy

log = structlog.get_logger(__name__)

T = TypeVar("T")

_BACKOFF: Final = RetryPolicy(initial_seconds=0.05, max_seconds=1.0)
_READ_SECONDS: Final = 1.0
_REFUSAL: Final = "start new thread"
"""Part of CPython's message; the exception has no errno."""


class _Waiting:
    """Number of calls that wait for a thread, for the whole process. Logs when it leaves 0 and when it is 0 again."""

    def __init__(self) -> None:
        self._calls = 0

    def begin(self, error: RuntimeError) -> None:
        if self._calls == 0:
            log.warning("thread_unavailable", error=str(error), hint="raise the limit of processes or pids.max")
        self._calls += 1

    def end(self) -> None:
        self._calls -= 1
        if self._calls == 0:
            log.warning("thread_available")


_waiting: Final = _Waiting()


async def run_in_thread(
    call: Callable[[], T], *, abandon_on_cancel: bool = False, limiter: trio.CapacityLimiter | None = None
) -> T:
    """Run a call in a worker thread (``trio.to_thread.run_sync``); wait if no thread is available.

    Raises:
        trio.Cancelled: as in trio; a call that waits for a thread has not begun.
    """
    began = False

    def run() -> T:
        nonlocal began
        began = True
        return call()

    async def attempt() -> T:
        return await trio.to_thread.run_sync(run, abandon_on_cancel=abandon_on_cancel, limiter=limiter)

    return await until_thread(attempt, lambda: began)


async def read_in_time(read: Callable[[], T], limiter: trio.CapacityLimiter) -> T:
    """Read a small file in a worker thread; wait a second at most, and not at all while an earlier read hangs.

    ``limiter`` has one place. An abandoned read, which took longer or was cancelled, keeps it until it ends, so that a
    hung disk holds one thread and not all of them; what it returns then is dropped.

    Raises:
        trio.TooSlowError: nothing was read; try again later.
    """
    if not limiter.available_tokens:
        raise trio.TooSlowError
    with trio.fail_after(_READ_SECONDS):
        return await run_in_thread(read, abandon_on_cancel=True, limiter=limiter)


async def until_thread(start: Callable[[], Awaitable[T]], has_begun: Callable[[], bool] = lambda: False) -> T:
    """Await ``start()``; repeat while no thread is available and the call has not begun."""
    waits = 0
    try:
        while True:
            try:
                return await start()
            except RuntimeError as error:
                if has_begun() or _REFUSAL not in str(error):
                    raise
                if not waits:
                    _waiting.begin(error)
                waits += 1
            await trio.sleep(_BACKOFF.ceiling_seconds(waits))
    finally:
        if waits:
            _waiting.end()


class ThreadedResolver(trio.abc.HostnameResolver):
    """Resolver for ``trio.socket.set_custom_hostname_resolver`` that uses :func:`run_in_thread`."""

    async def getaddrinfo(self, host: bytes | None, port: bytes | str | int | None, *how: int, **also: int) -> Any:
        """See :func:`socket.getaddrinfo`."""
        return await run_in_thread(partial(socket.getaddrinfo, host, port, *how, **also), abandon_on_cancel=True)

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        """See :func:`socket.getnameinfo`."""
        return await run_in_thread(partial(socket.getnameinfo, sockaddr, flags), abandon_on_cancel=True)
