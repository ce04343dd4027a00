"""When a system that waits for an owner's name may claim it: never while its holder may still live. Pure.

A claim that vanishes before its end was lost by Redis (an eviction, a failover that loses writes, FLUSHALL), unless its
holder gave it up. A living holder renews every third of the TTL, and takes a lost claim again at its next renewal; so
the waiting system does not claim the name before the end of the claim that it saw last. After a time without responses
from Redis, in which the holder could not renew either, it waits for longer than a renewal takes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from math import inf
from typing import Final

RENEWALS: Final = 3
"""Renewals of a claim within its TTL."""
_PATIENCE: Final = 0.5
"""After an outage, by this share of the TTL: longer than a period of renewal and a slow response."""


@dataclass(frozen=True, slots=True)
class Claimant:
    """A running system that has a name."""

    system: str
    """Its boot id."""
    host: str
    since: str
    """When it claimed the name, as ISO 8601 in UTC."""
    ends_in_seconds: float = field(default=0.0, compare=False)
    """Until its claim ends, if it is not renewed."""


class Vacancy(Enum):
    """Why no other system has a name."""

    GIVEN_UP = "given up"
    """The last system that had it released it, less than its TTL ago."""
    ABSENT = "absent"
    """There is no claim: there was none, it ended, or Redis lost it."""


@dataclass(frozen=True, slots=True)
class ClaimWait:
    """What a system that wants the name has seen so far. Times in seconds, by one monotonic clock."""

    holder: Claimant | None = None
    """The other system that had the name at the last look."""
    claimable_at: float = -inf
    """Until then, a missing claim counts as lost; ``-inf``: no other system was seen to have it."""

    def after(self, found: Claimant | Vacancy, now: float) -> ClaimWait:
        """Return the state after a look at the claim."""
        if isinstance(found, Claimant):
            return ClaimWait(found, now + found.ends_in_seconds)
        return ClaimWait(self.holder) if found is Vacancy.GIVEN_UP else self

    def after_no_response(self, now: float, ttl_seconds: float) -> ClaimWait:
        """Return the state after a look that failed."""
        if self.holder is None:
            return self
        return replace(self, claimable_at=max(self.claimable_at, now + _PATIENCE * ttl_seconds))

    def may_claim(self, found: Claimant | Vacancy, now: float) -> bool:
        """Return whether the name may be claimed now, after this look."""
        return isinstance(found, Vacancy) and now >= self.claimable_at
