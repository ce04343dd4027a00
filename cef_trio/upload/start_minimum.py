"""When a new recording may be begun: ``WATCH_MIN_AGE_SECONDS`` and ``WATCH_MIN_SIZE_BYTES``. Pure.

Only recordings without a stream are concerned. One that was begun goes on, whatever its size.

A file is as old as the daemon has seen it, or as long as nothing of it changed, whichever is longer: no file can have a
status change (``ctime``) from before it was made, and unlike its other times no program can set that.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from cef_trio.files import SECOND_NS, FileStat


@dataclass(frozen=True, slots=True, kw_only=True)
class StartMinimum:
    """The least age and size of a recording that is begun; 0 is no minimum."""

    age_seconds: float = 0.0
    size_bytes: int = 0

    def is_small(self, stat: FileStat) -> bool:
        """Return whether a file is smaller than the minimum."""
        return stat.size_bytes < self.size_bytes

    def wait_seconds(self, stat: FileStat, *, seen_for_seconds: float, now_ns: int) -> float:
        """Return in how many seconds a file may be begun: 0 for now, infinite for one that has to grow first.

        ``now_ns`` is Unix time in nanoseconds, as ``stat`` has it.
        """
        if self.is_small(stat):
            return inf
        unchanged_for = (now_ns - stat.ctime_ns) / SECOND_NS if stat.ctime_ns > 0 else 0.0
        return max(self.age_seconds - max(seen_for_seconds, unchanged_for), 0.0)
