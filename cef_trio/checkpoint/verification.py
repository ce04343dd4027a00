"""When objects were last verified by ``cef-trio verify --all``, and which are not as recorded. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

FIRST_TURN: Final = 0
"""The turn of an object that the next run is to begin with."""
_NEVER: Final = 1
"""The turn of those that were never read."""
_MOST_NAMED: Final = 20


@dataclass(frozen=True, slots=True)
class Verified:
    """The last verification of an object."""

    at_ms: int
    """Unix time; 0: it was never read to its end."""
    mismatch: str = ""
    """What differs; empty: nothing."""
    turn_ms: int | None = None
    """Its place in turn, if the time of a run since then did not suffice to read it to its end: ``FIRST_TURN``, or when
    that was. ``None``: ``at_ms`` is its place."""


def turn_of(verified: Verified | None) -> int:
    """Return the place of an object in turn, the least one first; ``None``: it was never read."""
    if verified is None:
        return _NEVER
    return verified.at_ms if verified.turn_ms is None else verified.turn_ms


@dataclass(frozen=True, slots=True)
class VerificationTotals:
    """The totals of an owner's verifications."""

    at_ms: int
    """Unix time of the last one."""
    objects: int
    """Objects that were verified at least once."""
    oldest_ms: int
    """Unix time of the verification that is the longest ago."""
    mismatches: int
    """Objects that were not as recorded when they were last read."""
    mismatched: tuple[str, ...] = ()
    """The ids of their streams; at most 20."""

    @classmethod
    def of(cls, known: Mapping[str, Verified]) -> VerificationTotals | None:
        """Return the totals; ``None`` if nothing was verified."""
        times = [one.at_ms for one in known.values() if one.at_ms]
        if not times:
            return None
        wrong = sorted(stream_id for stream_id, one in known.items() if one.mismatch)
        return cls(max(times), len(times), min(times), len(wrong), tuple(wrong[:_MOST_NAMED]))
