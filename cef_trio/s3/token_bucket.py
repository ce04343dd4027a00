"""The token bucket of ``MAX_UPLOAD_RATE``. Pure; ``rate_limiter.py`` waits.

In any ``T`` seconds at most ``rate * (T + SLACK_SECONDS)`` bytes plus one piece are sent.

**Why pieces.** S3 closes a connection (``RequestTimeout``) that sends nothing for some 20 seconds, and a part waits
while the others have their turns. At 64 KiB/s a block of 512 KiB takes eight seconds, so with four parts each would
pause for half a minute. A piece is therefore one part's share of :data:`TURN_SECONDS`, at most a block and at least
:data:`LEAST_PIECE`: each of ``n`` bodies gets a piece every ``TURN_SECONDS``, or, with pieces of the least size, every
``n * LEAST_PIECE / rate`` seconds. The settings refuse rates below ``LEAST_RATE_OF_A_PART`` for each part.
"""

from __future__ import annotations

from typing import Final

TURN_SECONDS: Final = 1.0
"""The duration of a round with one piece for each body: far below S3's 20 seconds, with few wake-ups."""
LEAST_PIECE: Final = 1024
"""The least size of a piece in bytes; smaller ones would be mostly packet headers."""
SLACK_SECONDS: Final = 0.1
"""How much unused time may be caught up: a task that wakes up late must not lower the rate."""


class TokenBucket:
    """When bytes may be sent. ``now`` is in seconds of a monotonic clock, ``rate`` in bytes a second; 0 is no limit.

    The state is one time, ``free_at``, from which the next piece may be sent; each piece moves it by its duration at
    the rate. Unused time beyond ``SLACK_SECONDS`` is lost, so there is no burst after an idle hour.
    """

    def __init__(self, rate: int = 0) -> None:
        self.rate = rate
        self.free_at = float("-inf")

    def is_free(self, now: float) -> bool:
        """Whether a piece of any size may be sent now."""
        return not self.rate or now >= self.free_at

    def piece(self, wanted: int, bodies: int) -> int:
        """Return how many of ``wanted`` bytes to send at once while ``bodies`` bodies take turns."""
        if not self.rate:
            return wanted
        return min(wanted, max(LEAST_PIECE, int(self.rate * TURN_SECONDS / max(1, bodies))))

    def take(self, size_bytes: int, now: float) -> None:
        """Account for bytes that are sent now; call only when :meth:`is_free`."""
        if self.rate:
            self.free_at = max(self.free_at, now - SLACK_SECONDS) + size_bytes / self.rate

    def change(self, rate: int, now: float) -> None:
        """Change the rate. Bytes sent already are accounted for at the new rate, for ``TURN_SECONDS`` at most.

        Without that limit, a much lower rate would pause all connections until S3 closes them.
        """
        owed_bytes = max(0.0, self.free_at - now) * self.rate if self.rate else 0.0
        self.rate = rate
        self.free_at = now + min(owed_bytes / rate, TURN_SECONDS) if rate else float("-inf")
