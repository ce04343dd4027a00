"""Lag: bytes that were seen on disk and are not acknowledged by S3, and the age of the oldest. Pure.

The age counts from when the daemon first saw the byte: after ten silent minutes and one new write it is one second. The
status page, the metrics and the daemon's report use :func:`lag_of`; commands read the report, since nothing else
records when a byte was written. ``upload/live_stream.py`` computes the lag of a stream. The rate is of the last minute,
or of a stream's life if that is shorter, for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cef_trio.checkpoint import PartRecord

RATE_WINDOW: Final = timedelta(seconds=60)
_LEAST_WINDOW: Final = timedelta(seconds=1)
_MAX_MARKS: Final = 128


@dataclass(frozen=True, slots=True)
class Lag:
    """Bytes of one or more files that S3 has not acknowledged."""

    size_bytes: int = 0
    since: float | None = None
    """When the oldest of these bytes was first seen, by the clock of the caller; ``None``: nothing waits."""
    unwritten_bytes: int = 0
    """Bytes within the file's size that its writer has not written yet, as far as known; not in ``size_bytes``."""

    def seconds(self, now: float) -> float:
        """Return the age of the oldest byte; 0 if nothing waits."""
        return 0.0 if self.since is None else max(0.0, now - self.since)


def lag_of(size_bytes: int, acknowledged_bytes: int, oldest: float | None) -> Lag:
    """Return the lag of a file; ``oldest`` is when its first unacknowledged byte was first seen."""
    return Lag(max(0, size_bytes - acknowledged_bytes), oldest)


def total(lags: Iterable[Lag]) -> Lag:
    """Return the sum of all lags."""
    known = tuple(lags)
    return Lag(
        sum(lag.size_bytes for lag in known),
        min((lag.since for lag in known if lag.since is not None), default=None),
        sum(lag.unwritten_bytes for lag in known),
    )


def upload_rate(parts: Iterable[PartRecord], now: datetime, began: datetime) -> float:
    """Return the bytes per second that S3 acknowledged in ``RATE_WINDOW``, by the times in the parts' records.

    ``began`` is when the stream began: the rate of a younger stream is that of its whole life. A part's time is when it
    was acknowledged, so a stream younger than ``_LEAST_WINDOW`` has no meaningful rate yet, and counts as that old.
    """
    window = min(RATE_WINDOW, max(now - began, _LEAST_WINDOW))
    since = now - window
    return sum(part.size_bytes for part in parts if part.uploaded_at_utc >= since) / window.total_seconds()


def total_rate(streams: Iterable[float], sent_per_second: float) -> float:
    """Return the rate of all recordings: of the active streams, or what was sent in the last minute if that is more.

    A recording that is smaller than a part is sent and complete at once, so it is never an active stream with a rate.
    The rate of a young stream is of its own life, and parts may be copied within S3: then the streams' sum is more.
    """
    return max(sum(streams), sent_per_second)


class RecentBytes:
    """Bytes of the last ``RATE_WINDOW``, by seconds of one clock: as many numbers as it has seconds."""

    def __init__(self) -> None:
        self._by_second: dict[int, int] = {}

    def add(self, at: float, size_bytes: int) -> None:
        """Count bytes; no earlier than the last ones."""
        self._forget(at)
        self._by_second[int(at)] = self._by_second.get(int(at), 0) + size_bytes

    def rate(self, now: float) -> float:
        """Return the bytes per second."""
        self._forget(now)
        return sum(self._by_second.values()) / RATE_WINDOW.total_seconds()

    def _forget(self, now: float) -> None:
        for second in [one for one in self._by_second if one <= now - RATE_WINDOW.total_seconds()]:
            del self._by_second[second]


class FirstSeenTimes:
    """Sizes of one file and when each was first seen. Times are seconds of one clock.

    Keeps at most 128 marks; beyond that, two neighbours are merged with the earlier time. A byte may therefore appear
    older than it is, by the distance of two marks, but never younger.
    """

    def __init__(self, at: float, size_bytes: int) -> None:
        self._marks = [(at, size_bytes)] if size_bytes > 0 else []

    def record(self, at: float, size_bytes: int) -> None:
        """Record the current size; marks beyond a truncation are dropped."""
        known = self._marks[-1][1] if self._marks else 0
        if size_bytes < known:
            kept = [(seen, min(size, size_bytes)) for seen, size in self._marks]
            end = next(index for index, (_, size) in enumerate(kept) if size == size_bytes)
            self._marks = kept[: end + 1] if size_bytes > 0 else []
        elif size_bytes > known:
            self._marks.append((at, size_bytes))
            if len(self._marks) > _MAX_MARKS:
                self._halve()

    def acknowledged(self, size_bytes: int) -> None:
        """Drop the marks of the first ``size_bytes`` bytes."""
        while self._marks and self._marks[0][1] <= size_bytes:
            del self._marks[0]

    def oldest(self) -> float | None:
        """Return when the first remaining byte was seen; ``None`` if there is none."""
        return self._marks[0][0] if self._marks else None

    def _halve(self) -> None:
        # Called with an odd number of marks. The last one is kept, so that new growth keeps its own time.
        pairs = zip(self._marks[:-1:2], self._marks[1:-1:2], strict=True)
        self._marks = [*((earlier[0], later[1]) for earlier, later in pairs), self._marks[-1]]
