"""When objects were last verified by ``cef-trio verify --all``, and which are not as recorded. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_MOST_NAMED: Final = 20


@dataclass(frozen=True, slots=True)
class Verified:
    """The last verification of an object."""

    at_ms: int
    """Unix time."""
    mismatch: str = ""
    """What differs; empty: nothing."""


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
        if not known:
            return None
        times = [one.at_ms for one in known.values()]
        wrong = sorted(stream_id for stream_id, one in known.items() if one.mismatch)
        return cls(max(times), len(known), min(times), len(wrong), tuple(wrong[:_MOST_NAMED]))
