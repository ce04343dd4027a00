"""The limit of ``MAX_UPLOAD_RATE`` for the bodies of all parts and objects; requests without a body are not limited.

All bodies share one queue. The first task waits until the bucket (:mod:`cef_trio.s3.token_bucket`) allows a piece,
takes it and queues again, so all bodies get the same rate. A changed rate and a cancellation take effect at once.

Waiting here never exceeds a time-out: httpx limits each write to the socket, and the wait comes before it. Only the
bytes of bodies count, not TLS and headers.
"""

from __future__ import annotations

from collections.abc import Callable

import trio
from trio_util import AsyncValue

from cef_trio.s3.token_bucket import TokenBucket


class RateLimiter:
    """A rate limit shared by any number of trio tasks, in bytes a second; 0 is no limit.

    ``waited`` is called with the seconds that each piece waited, cancelled waits included.
    """

    def __init__(self, rate: int = 0, *, waited: Callable[[float], None] = lambda _: None) -> None:
        self._bucket = TokenBucket(rate)
        self._rate = AsyncValue(rate)
        self._queue = trio.Lock()  # first in, first out
        self._waited = waited

    @property
    def rate(self) -> int:
        """Bytes a second; 0 is no limit."""
        return self._bucket.rate

    def change(self, rate: int) -> None:
        """Change the rate, for waiting tasks as well."""
        if rate != self._bucket.rate:
            self._bucket.change(rate, trio.current_time())
            self._rate.value = rate

    async def take(self, wanted: int) -> int:
        """Wait for a turn; return how many of ``wanted`` bytes may be sent now, at least one.

        Without a limit there is no checkpoint. Cancelled: nothing was taken.
        """
        if not self._bucket.rate:
            return wanted
        began = trio.current_time()
        try:
            async with self._queue:
                while not self._bucket.is_free(trio.current_time()):
                    with trio.move_on_at(self._bucket.free_at):
                        await self._rate.wait_transition()
                piece = self._bucket.piece(wanted, 1 + self._queue.statistics().tasks_waiting)
                self._bucket.take(piece, trio.current_time())
                return piece
        finally:
            self._waited(trio.current_time() - began)
