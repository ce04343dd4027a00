"""Calls of S3 that a stream's next step can do without: tried a bounded time, then left out, and that is said.

To list open uploads or parts saves bytes, or finds what was lost. No recording is kept waiting for it: a store (or a
proxy before it) may refuse a listing for ever, and store parts all the while. So a listing is tried a few times, each
time for some seconds, while S3 itself answers. Then whoever asked goes on without it, and so does everybody else, until
it is asked again, by one task, a minute later. What goes on without is said at each place: nothing is lost by it.

An S3 that is away altogether is no case of this: nothing could be sent then either, so everybody waits for its end.
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
"""How long one try may take, the retry policy's attempts and waits included."""
PAUSE_SECONDS: Final = 60.0
"""How long nobody asks again."""
_BETWEEN_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class FailingCall:
    """An operation that is done without at present."""

    since: float
    """``trio.current_time()``."""
    error: str
    ask_at: float
    """By ``trio.current_time()``: when it is asked again."""


class BestEffort:
    """Which of these calls fail at present, and the one way to make one. Shared by all streams of a daemon."""

    def __init__(self) -> None:
        self._failing: dict[str, FailingCall] = {}
        self._calls: dict[str, Callable[[], Awaitable[object]]] = {}
        """What failed last, by operation: it is made again to see whether it works."""
        self._fails = AsyncBool(False)

    @property
    def failing(self) -> Mapping[str, FailingCall]:
        """The operations that are done without at present."""
        return self._failing

    async def ask_again(self, reach: Callable[[], Awaitable[None]]) -> None:
        """Make what fails again once a minute, for ever, so that its end is known though nobody needs it."""
        while True:
            await self._fails.wait_value(True)
            await trio.sleep_until(min(call.ask_at for call in self._failing.values()))
            for operation, failing in list(self._failing.items()):
                call = self._calls.get(operation)  # gone, if it has worked since
                if call is not None and failing.ask_at <= trio.current_time():
                    with suppress(S3OperationError):  # an answer; or S3 itself is away, which its breaker says
                        await self.attempt(operation, call, reach=reach)

    async def attempt(
        self, operation: str, call: Callable[[], Awaitable[T]], *, reach: Callable[[], Awaitable[None]]
    ) -> T | None:
        """The result of ``call``; ``None`` if it cannot be had now. ``reach`` asks whether S3 itself is there.

        Raises:
            S3OperationError: S3 refuses the call for good (it is an answer), or S3 itself is away (transient).
        """
        before, now = self._failing.get(operation), trio.current_time()
        if before is not None:
            if now < before.ask_at:
                return None
            self._failing[operation] = replace(before, ask_at=now + PAUSE_SECONDS)  # one task asks, not all
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
                    self._works(operation)  # it answers; what it says is for the caller
                    raise
                error = str(refused)
            await _reached(reach)
        since = before.since if before is not None else now
        self._failing[operation] = FailingCall(since, error, trio.current_time() + PAUSE_SECONDS)
        self._calls[operation], self._fails.value = call, True
        if before is None or before.error != error:  # said once, however often it is asked again
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


async def _reached(reach: Callable[[], Awaitable[None]]) -> None:
    """Make sure that it is this call only that fails.

    Raises:
        S3OperationError: it is not: S3 is away.
    """
    try:
        await reach()
    except S3OperationError as error:
        if error.transient:
            raise
