"""Lag, in its one meaning: bytes that were seen on disk and S3 has not acknowledged, and since when the oldest waits.

The age counts from the moment at which the daemon first saw the byte: after ten silent minutes and one new write it is
a second. Page, metrics and the daemon's report use :func:`lag_of`; commands read the report, since nothing else tells
when a byte was written. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_MAX_MARKS: Final = 128


@dataclass(frozen=True, slots=True)
class Lag:
    """What S3 does not have of a file, or of many."""

    size_bytes: int = 0
    since: float | None = None
    """When the oldest of these bytes was first seen, by the clock of whoever asked; ``None``: nothing waits."""
    unwritten_bytes: int = 0
    """Not among them: what the file's size covers and its writer, as far as is known, has not written yet."""

    def seconds(self, now: float) -> float:
        """The age of the oldest byte; 0 if nothing waits."""
        return 0.0 if self.since is None else max(0.0, now - self.since)


def lag_of(size_bytes: int, acknowledged_bytes: int, oldest: float | None) -> Lag:
    """The lag of a file of that size; ``oldest``: when the first byte without an acknowledgement was first seen."""
    waiting = max(0, size_bytes - acknowledged_bytes)
    return Lag(waiting, oldest)


def total(lags: Iterable[Lag]) -> Lag:
    """The lag of all of them together."""
    known = tuple(lags)
    return Lag(
        sum(lag.size_bytes for lag in known),
        min((lag.since for lag in known if lag.since is not None), default=None),
        sum(lag.unwritten_bytes for lag in known),
    )


class Growth:
    """Sizes of one file, by when they were first seen. Times are of any one clock, in seconds.

    Keeps at most 128 marks. When they are more, neighbours become one that says the earlier time, so a byte may be told
    to be older than it is, by the distance of two marks, and never younger.
    """

    def __init__(self, at: float, size_bytes: int) -> None:
        self._marks = [(at, size_bytes)] if size_bytes > 0 else []

    def saw(self, at: float, size_bytes: int) -> None:
        """The file has that size now. What a truncation took away is forgotten."""
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
        """The first ``size_bytes`` bytes are of no interest any more."""
        while self._marks and self._marks[0][1] <= size_bytes:
            del self._marks[0]

    def oldest(self) -> float | None:
        """When the first byte that is still of interest was seen; ``None`` if there is none."""
        return self._marks[0][0] if self._marks else None

    def _halve(self) -> None:
        # Called with an odd number. The last mark stays, so that growth right after it is told at its own time.
        pairs = zip(self._marks[:-1:2], self._marks[1:-1:2], strict=True)
        self._marks = [*((earlier[0], later[1]) for earlier, later in pairs), self._marks[-1]]
