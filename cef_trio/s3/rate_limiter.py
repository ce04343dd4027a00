"""``MAX_UPLOAD_RATE``: how fast the whole daemon sends the bodies of parts and objects; calls without a body go free.

One queue for all bodies that are being sent: whoever is first waits until the bucket (:mod:`cef_trio.s3.token_bucket`)
lets a piece go, takes it, and queues again for the next. So all bodies share the rate equally. The queue wakes at once
when the rate is changed, and a cancelled task leaves it at once; nobody looks at a clock twice.

Time that is waited here is nobody's time-out: httpx bounds each *write* to the socket, and this comes before it. What
is counted is what the bodies hold; TLS and headers come on top.
"""

from __future__ import annotations

from collections.abc import Callable

import trio
from trio_util import AsyncValue

from cef_trio.s3.token_bucket import TokenBucket


def _nobody(_: float) -> None:
    """Nobody counts."""


class RateLimiter:
    """Lets bodies go by turns. For trio's thread; any number of tasks.

    Args:
        rate: bytes a second; 0 is no limit.
        waited: told how many seconds each piece waited, those of a cancelled wait too.
    """

    def __init__(self, rate: int = 0, *, waited: Callable[[float], None] = _nobody) -> None:
        self._bucket = TokenBucket(rate)
        self._rate = AsyncValue(rate)
        self._turn = trio.Lock()  # first come, first served
        self._waited = waited

    @property
    def rate(self) -> int:
        """Bytes a second; 0 is no limit."""
        return self._bucket.rate

    def change(self, rate: int) -> None:
        """Set another rate, from now on, for those who wait too."""
        if rate != self._bucket.rate:
            self._bucket.change(rate, trio.current_time())
            self._rate.value = rate

    async def take(self, wanted: int) -> int:
        """Wait for a turn; returns how many of ``wanted`` bytes may go now, at least one.

        Without a limit there is no checkpoint. Cancelled: nothing was taken.
        """
        if not self._bucket.rate:
            return wanted
        began = trio.current_time()
        try:
            async with self._turn:
                while not self._bucket.is_free(trio.current_time()):
                    with trio.move_on_at(self._bucket.free_at):
                        await self._rate.wait_transition()
                piece = self._bucket.piece(wanted, 1 + self._turn.statistics().tasks_waiting)
                self._bucket.take(piece, trio.current_time())
                return piece
        finally:
            self._waited(trio.current_time() - began)
