"""The model of ``cef-trio status``, computed from Redis and from the files that exist on this machine. Pure.

Throughput is the bytes that S3 acknowledged in the last minute, by the times in the parts' records. Lag is the bytes on
disk that are not yet acknowledged: from the recording if this machine can see it, else from its daemon's report. The
age of the oldest byte comes from that report only.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from cef_trio.checkpoint import ENDED, FAILED, Checkpoint, Status, StreamMeta, StreamSet, StreamSummary
from cef_trio.files import FileStat, may_be
from cef_trio.observability import RATE_WINDOW, DaemonReport, Lag, lag_of, lags_of, upload_rate

_HOST: Final = re.compile(r"@[0-9a-f]{12}\Z")
"""The boot id in a lease's value (``Lease.host``), which is not shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStream:
    """One stream that has not ended. Sizes in bytes, times in seconds."""

    meta: StreamMeta
    stream_set: StreamSet
    acknowledged_bytes: int
    size_on_disk_bytes: int | None
    """``None`` if its file cannot be seen from here, or is another file."""
    holder: str | None
    """The instance that works on it, or ``None``."""
    idle_seconds: float
    bytes_per_second: float
    at: float = 0.0
    """The moment, in Unix time."""
    reported_lag: Lag | None = None
    """The lag that its daemon reported, or ``None``."""

    @property
    def lag_bytes(self) -> int | None:
        """Bytes on disk that are not yet acknowledged, without the holes that its daemon reported."""
        if self.size_on_disk_bytes is None:
            return None if self.reported_lag is None else self.reported_lag.size_bytes
        unwritten = 0 if self.reported_lag is None else self.reported_lag.unwritten_bytes
        return lag_of(self.size_on_disk_bytes - unwritten, self.acknowledged_bytes, None).size_bytes

    @property
    def lag_seconds(self) -> float | None:
        """The age of the oldest unacknowledged byte, as reported; 0 if there is none, ``None`` if unknown."""
        if self.lag_bytes == 0:
            return 0.0
        return None if self.reported_lag is None else self.reported_lag.seconds(self.at)

    @property
    def progress(self) -> float | None:
        """The acknowledged share of the file, 0 to 1; ``None`` if unknown here."""
        if self.meta.object_etag is not None:
            return 1.0
        if not self.size_on_disk_bytes:
            return None
        return min(1.0, self.acknowledged_bytes / self.size_on_disk_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """Everything that ``status`` shows."""

    at_utc: datetime
    counts: Mapping[str, int]
    """Streams by state: the four sets, and of the failed ones those whose recording was deleted."""
    completed_bytes: int
    bytes_per_second: float
    lag_bytes: int | None
    """Of all open streams; ``None`` unless every open stream's file can be seen."""
    daemons: Mapping[str, int]
    """Leases by the instance that holds them."""
    open_streams: tuple[OpenStream, ...]
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """The keys of Redis that cannot be read, and why."""
    newer: Mapping[str, str] = field(default_factory=dict)
    """The records of a newer schema, and their schemas."""
    reports: tuple[DaemonReport, ...] = ()


def observe(
    known: Iterable[StreamSummary],
    checkpoints: Mapping[str, Checkpoint],
    holders: Mapping[str, str],
    files: Mapping[str, FileStat | None],
    now: datetime,
    *,
    reports: Iterable[DaemonReport] = (),
) -> Overview:
    """Build the overview.

    Args:
        known: all streams in Redis.
        checkpoints: of these, with parts, those that are open or were active within ``RATE_WINDOW``.
        holders: lease values by stream id.
        files: by stream id, the file at an open stream's path here; ``None`` or absent if there is none.
    """
    known, reports = tuple(known), tuple(reports)
    reported = lags_of(reports, now.timestamp())
    streams = [
        _open_stream(checkpoint, holders.get(stream_id), files.get(stream_id), now, reported.get(stream_id))
        for stream_id, checkpoint in checkpoints.items()
        if checkpoint.meta.status not in ENDED
    ]
    lags = [stream.lag_bytes for stream in streams]
    return Overview(
        at_utc=now,
        counts=_counts(known),
        completed_bytes=sum(
            one.meta.verified_size_bytes or 0 for one in known if one.stream_set is StreamSet.COMPLETED
        ),
        bytes_per_second=sum(upload_rate(checkpoint.parts.values(), now) for checkpoint in checkpoints.values()),
        lag_bytes=None if None in lags else sum(lag for lag in lags if lag is not None),
        daemons=Counter(instance_of(holder) for holder in holders.values()),
        reports=reports,
        open_streams=tuple(sorted(streams, key=lambda stream: (stream.meta.started_at_utc, stream.meta.stream_id))),
    )


def is_recent(known: StreamSummary, now: datetime) -> bool:
    """Return whether a stream's parts are needed: it is open, or may have parts within ``RATE_WINDOW``."""
    return known.meta.status not in ENDED or now - known.meta.last_activity_at_utc <= RATE_WINDOW


def instance_of(holder: str) -> str:
    """Return the daemon's name in a lease's value."""
    return _HOST.sub("", holder.rpartition("/")[0] or holder)


def _counts(known: Iterable[StreamSummary]) -> dict[str, int]:
    counts = {**dict.fromkeys((stream_set.value for stream_set in StreamSet), 0), "deleted": 0, "retrying": 0}
    for one in known:
        deleted = one.stream_set is StreamSet.FAILED and one.meta.status not in FAILED
        counts["deleted" if deleted else one.stream_set.value] += 1
        counts["retrying"] += one.meta.status is Status.RETRYING
    return counts


def _open_stream(
    checkpoint: Checkpoint, holder: str | None, stat: FileStat | None, now: datetime, lag: Lag | None
) -> OpenStream:
    meta = checkpoint.meta
    # This may be another machine, with another file at that path.
    is_it = stat is not None and may_be(meta.identity, stat)
    return OpenStream(
        meta=meta,
        stream_set=checkpoint.stream_set,
        acknowledged_bytes=sum(part.size_bytes for part in checkpoint.parts.values()),
        size_on_disk_bytes=stat.size_bytes if stat is not None and is_it else None,
        holder=None if holder is None else instance_of(holder),
        idle_seconds=max(0.0, (now - meta.last_activity_at_utc).total_seconds()),
        bytes_per_second=upload_rate(checkpoint.parts.values(), now),
        at=now.timestamp(),
        reported_lag=lag,
    )
