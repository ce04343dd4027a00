"""The arithmetic of ``MAX_UPLOAD_RATE``: a moment in, a moment out. Pure; ``rate_limiter.py`` does the waiting.

In every stretch of ``T`` seconds at most ``rate * (T + SLACK_SECONDS)`` bytes and one piece go out.

**Why pieces.** S3 gives a connection up (``RequestTimeout``) that brings it no byte for some 20 seconds, and a part
waits while the others have their turns. A block of 512 KiB at 64 KiB/s would be eight seconds of everybody's time: four
parts would each be silent for half a minute. So a piece is what one part's share is in :data:`TURN_SECONDS`, never more
than a block and never less than :data:`LEAST_PIECE`: each of ``n`` bodies gets a piece every ``TURN_SECONDS``, or, once
pieces cannot be smaller, every ``n * LEAST_PIECE / rate`` seconds. ``model.py`` refuses rates that leave a part less
than ``LEAST_RATE_OF_A_PART``.
"""

from __future__ import annotations

from typing import Final

TURN_SECONDS: Final = 1.0
"""How long a round of pieces takes, one for each body: far below S3's 20 seconds, long enough for few wake-ups."""
LEAST_PIECE: Final = 1024
"""Bytes. Smaller ones would be more packet than payload."""
SLACK_SECONDS: Final = 0.1
"""How much time that was not used is made up for: a task that is woken late must not make the rate lower."""


class TokenBucket:
    """When bytes may go. ``now`` is seconds of any clock that only grows, ``rate`` bytes a second; 0 is no limit.

    It keeps one moment, ``free_at``, from which the next piece may go; each piece moves it on by the time that it
    costs. What was not used is lost but for ``SLACK_SECONDS``: after an idle hour there is no burst.
    """

    def __init__(self, rate: int = 0) -> None:
        self.rate = rate
        self.free_at = float("-inf")

    def is_free(self, now: float) -> bool:
        """Whether a piece may go now, whatever its size."""
        return not self.rate or now >= self.free_at

    def piece(self, wanted: int, bodies: int) -> int:
        """How many of ``wanted`` bytes go at once, where ``bodies`` bodies take turns."""
        if not self.rate:
            return wanted
        return min(wanted, max(LEAST_PIECE, int(self.rate * TURN_SECONDS / max(1, bodies))))

    def take(self, size_bytes: int, now: float) -> None:
        """Let bytes go; only when :meth:`is_free`."""
        if self.rate:
            self.free_at = max(self.free_at, now - SLACK_SECONDS) + size_bytes / self.rate

    def change(self, rate: int, now: float) -> None:
        """Go on with another rate. What was already let go is paid for at the new one.

        But for ``TURN_SECONDS`` at most: after a piece at a high rate, a low one would let all connections go silent
        until S3 gives them up.
        """
        owed_bytes = max(0.0, self.free_at - now) * self.rate if self.rate else 0.0
        self.rate = rate
        self.free_at = now + min(owed_bytes / rate, TURN_SECONDS) if rate else float("-inf")
