"""Throughput and lag of the last hour, of the daemon and of each open stream, for the status page. Pure.

Everything is bounded (promise P7): ``SAMPLES`` values, ``PERIOD_SECONDS`` apart, for at most ``MAX_STREAMS`` open
streams: 3 KiB each. The values of a stream that has ended are dropped.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from cef_trio.observability.snapshot import Snapshot

PERIOD_SECONDS: Final = 10.0
SAMPLES: Final = 360
"""One hour."""
SPARKLINE_SAMPLES: Final = 60
"""Ten minutes."""
MAX_STREAMS: Final = 2000


@dataclass(frozen=True, slots=True)
class Series:
    """Rate and lag, oldest first. Single precision: seven digits."""

    bytes_per_second: array[float] = field(default_factory=lambda: array("f"))
    lag_bytes: array[float] = field(default_factory=lambda: array("f"))

    def add(self, bytes_per_second: float, lag_bytes: float) -> None:
        """Add a sample; drop the oldest if there are more than ``SAMPLES``."""
        for series, value in ((self.bytes_per_second, bytes_per_second), (self.lag_bytes, lag_bytes)):
            series.append(value)
            del series[:-SAMPLES]


class History:
    """Samples of the last hour."""

    def __init__(self) -> None:
        self.times: array[float] = array("d")
        """Unix time of each sample."""
        self.all = Series()
        self._streams: dict[str, Series] = {}

    def record(self, snapshot: Snapshot) -> None:
        """Add a sample of the daemon and of each open stream."""
        self.times.append(snapshot.at)
        del self.times[:-SAMPLES]
        self.all.add(snapshot.bytes_per_second, snapshot.lag.size_bytes)
        open_streams = {one.stream_id: one for one in snapshot.streams if one.stream_id is not None}
        before, self._streams = self._streams, {}
        known = sorted(open_streams, key=lambda stream_id: stream_id not in before)  # those with a history first
        for stream_id in known[:MAX_STREAMS]:
            one = open_streams[stream_id]
            series = self._streams[stream_id] = before.get(stream_id) or Series()
            series.add(one.bytes_per_second, one.lag.size_bytes)

    def of(self, stream_id: str) -> Series:
        """Return the samples of an open stream; their last one is the last of ``times``."""
        return self._streams.get(stream_id) or Series()

    def sparklines(self, stream_ids: Iterable[str]) -> dict[str, list[int]]:
        """Return the rates of the last ten minutes, of the streams that had any."""
        rates = ((one, self.of(one).bytes_per_second[-SPARKLINE_SAMPLES:]) for one in stream_ids)
        return {stream_id: rounded(series) for stream_id, series in rates if any(series)}


def rounded(series: Iterable[float]) -> list[int]:
    """Return whole numbers, which are shorter in JSON."""
    return [round(value) for value in series]
