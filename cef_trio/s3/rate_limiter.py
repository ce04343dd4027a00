"""The limit of ``MAX_UPLOAD_RATE`` for the bodies of all parts and objects; requests without a body are not limited.

All bodies share one queue. The first task waits until the bucket (:mod:`cef_trio.s3.token_bucket`) allows a piece,
takes it and queues again, so all bodies get the same rate. A changed rate and a cancellation take effect at once, a
rate that follows the time of day within a second.

Waiting here never exceeds a time-out: httpx limits each write to the socket, and the wait comes before it. Only the
bytes of bodies count, not TLS and headers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog
import trio
from trio_util import AsyncValue

from cef_trio.s3.token_bucket import TokenBucket

log = structlog.get_logger(__name__)

Rate = int | Callable[[], int]
"""Bytes a second, or a function that returns the rate in force; 0 is no limit."""
_ASK_SECONDS: Final = 1.0
"""How often that function is called, so that a step of the clock or the end of summer time needs no care."""


class RateLimiter:
    """A rate limit shared by any number of trio tasks, in bytes a second; 0 is no limit.

    ``waited`` is called with the seconds that each piece waited, cancelled waits included.
    """

    def __init__(self, rate: Rate = 0, *, waited: Callable[[float], None] = lambda _: None) -> None:
        self._bucket = TokenBucket(_now(rate))
        self._rate = AsyncValue(self._bucket.rate)
        self._source: Callable[[], int] | None = None if isinstance(rate, int) else rate
        self._asked_at = float("-inf")
        self._queue = trio.Lock()  # first in, first out
        self._waited = waited

    @property
    def rate(self) -> int:
        """The rate in force in bytes a second; 0 is no limit."""
        self._ask()
        return self._bucket.rate

    def change(self, rate: Rate) -> None:
        """Change the rate, for waiting tasks as well."""
        self._source = None if isinstance(rate, int) else rate
        self._set(_now(rate))

    def _set(self, rate: int) -> None:
        if rate != self._bucket.rate:
            self._bucket.change(rate, trio.current_time())
            self._rate.value = rate

    def _ask(self) -> None:
        """Apply the rate that is in force now, if it follows the time of day."""
        if self._source is None or trio.current_time() < self._asked_at + _ASK_SECONDS:
            return
        self._asked_at = trio.current_time()
        before, rate = self._bucket.rate, self._source()
        if rate != before:
            log.info("upload_rate_changed", bytes_per_second=rate, before=before)
            self._set(rate)

    def _ask_again_at(self) -> float:
        return self._asked_at + _ASK_SECONDS if self._source is not None else float("inf")

    async def take(self, wanted: int) -> int:
        """Wait for a turn; return how many of ``wanted`` bytes may be sent now, at least one.

        Without a limit there is no checkpoint. Cancelled: nothing was taken.
        """
        if not self.rate:
            return wanted
        began = trio.current_time()
        try:
            async with self._queue:
                while not self._bucket.is_free(trio.current_time()):
                    with trio.move_on_at(min(self._bucket.free_at, self._ask_again_at())):
                        await self._rate.wait_transition()
                    self._ask()
                piece = self._bucket.piece(wanted, 1 + self._queue.statistics().tasks_waiting)
                self._bucket.take(piece, trio.current_time())
                return piece
        finally:
            self._waited(trio.current_time() - began)


def _now(rate: Rate) -> int:
    return rate if isinstance(rate, int) else rate()
