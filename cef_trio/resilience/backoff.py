"""Exponential back-off: how long to wait after the first, second, … failure. Pure.

See https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/ for the kinds of jitter.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

MAX_RETRY_AFTER_SECONDS: Final = 300.0
"""Upper limit for ``Retry-After``."""
_MAX_DOUBLINGS: Final = 63
"""A float overflows long before the failures of a year are counted."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Number of attempts and the delays between them, in seconds. ``attempts`` includes the first one.

    For calls to S3 and Redis and for streams, settings replace these defaults (``RETRY_*``, `daemon/wiring.py`).
    """

    attempts: int = 5
    initial_seconds: float = 0.2
    max_seconds: float = 10.0

    def ceiling_seconds(self, attempt: int) -> float:
        """Return the longest delay after ``attempt`` (1, 2, …): doubled each time, up to ``max_seconds``."""
        return float(min(self.max_seconds, self.initial_seconds * 2 ** min(attempt - 1, _MAX_DOUBLINGS)))

    def full_jitter_seconds(self, attempt: int, random: Random) -> float:
        """Return a random delay up to the longest: spreads many callers that fail at the same time."""
        return random.uniform(0, self.ceiling_seconds(attempt))

    def equal_jitter_seconds(self, attempt: int, random: Random) -> float:
        """Return a random delay of at least half the longest: for a single caller, as a probe."""
        ceiling = self.ceiling_seconds(attempt)
        return ceiling / 2 + random.uniform(0, ceiling / 2)


def at_least_retry_after(seconds: float, retry_after_seconds: float | None) -> float:
    """Return a delay that is at least ``Retry-After``, which counts up to ``MAX_RETRY_AFTER_SECONDS``."""
    return seconds if retry_after_seconds is None else max(seconds, min(retry_after_seconds, MAX_RETRY_AFTER_SECONDS))
