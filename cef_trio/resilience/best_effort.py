"""Optional S3 calls: tried for a bounded time, then skipped.

Listing open uploads or parts saves bytes or finds leftovers, but an upload works without it. A store, or a proxy before
it, may refuse listings permanently and accept parts. So a listing is tried a few times while S3 itself responds; then
all callers go on without it, and one task tries it again a minute later. Each caller documents what it does without.

If S3 itself is down, callers wait for the end of the outage as with any other call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import structlog
import trio
from trio_util import AsyncBool

from cef_trio.exceptions import S3OperationError

T = TypeVar("T")
log = structlog.get_logger(__name__)

TRIES: Final = 3
TRY_SECONDS: Final = 10.0
"""Time limit of one try, including the retry policy's attempts and delays."""
PAUSE_SECONDS: Final = 60.0
"""Delay before a failing call is tried again."""
_BETWEEN_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class FailingCall:
    """An operation that is currently skipped."""

    since: float
    """``trio.current_time()``."""
    error: str
    retry_at: float
    """``trio.current_time()`` of the next try."""


class BestEffort:
    """Makes optional calls and tracks which ones fail. Shared by all streams of a daemon."""

    def __init__(self) -> None:
        self._failing: dict[str, FailingCall] = {}
        self._calls: dict[str, Callable[[], Awaitable[object]]] = {}
        """The last failed call of each operation, to be tried again."""
        self._fails = AsyncBool(False)

    @property
    def failing(self) -> Mapping[str, FailingCall]:
        """Operations that are currently skipped."""
        return self._failing

    async def retry_failing(self, reach: Callable[[], Awaitable[None]]) -> None:
        """Try failing calls again once a minute, so that recovery is noticed without traffic."""
        while True:
            await self._fails.wait_value(True)
            if not self._failing:  # it has worked again before this task's turn came
                continue
            await trio.sleep_until(min(call.retry_at for call in self._failing.values()))
            for operation, failing in list(self._failing.items()):
                call = self._calls.get(operation)  # None if it has succeeded since
                if call is not None and failing.retry_at <= trio.current_time():
                    with suppress(S3OperationError):  # a response, or an outage, which the breaker reports
                        await self.attempt(operation, call, reach=reach)

    async def attempt(
        self, operation: str, call: Callable[[], Awaitable[T]], *, reach: Callable[[], Awaitable[None]]
    ) -> T | None:
        """Return the result of ``call``; ``None`` if it is skipped. ``reach`` checks whether S3 itself responds.

        Raises:
            S3OperationError: S3 refuses the call permanently, or S3 itself is down (transient).
        """
        before, now = self._failing.get(operation), trio.current_time()
        if before is not None:
            if now < before.retry_at:
                return None
            self._failing[operation] = replace(before, retry_at=now + PAUSE_SECONDS)  # one task tries, the others skip
        error = ""
        for number in range(TRIES):
            if number:
                await trio.sleep(_BETWEEN_SECONDS)
            error = f"no answer within {TRY_SECONDS:g} seconds"
            try:
                with trio.move_on_after(TRY_SECONDS):
                    result = await call()
                    self._works(operation)
                    return result
            except S3OperationError as refused:
                if not refused.transient:
                    self._works(operation)  # a response, which the caller handles
                    raise
                error = str(refused)
            try:
                await reach()
            except S3OperationError as unreached:
                if unreached.transient:
                    raise  # S3 itself is down
        since = before.since if before is not None else now
        self._failing[operation] = FailingCall(since, error, trio.current_time() + PAUSE_SECONDS)
        self._calls[operation], self._fails.value = call, True
        if before is None or before.error != error:  # logged once, not at every try
            log.warning(
                "optional_call_failing",
                operation=operation,
                error=error,
                seconds=round(trio.current_time() - since, 3),
                asked_again_seconds=PAUSE_SECONDS,
            )
        return None

    def _works(self, operation: str) -> None:
        failed = self._failing.pop(operation, None)
        self._calls.pop(operation, None)
        self._fails.value = bool(self._failing)
        if failed is not None:
            seconds = round(trio.current_time() - failed.since, 3)
            log.info("optional_call_recovered", operation=operation, seconds=seconds)
