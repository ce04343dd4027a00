"""The model of ``cef-trio status``, computed from Redis and from the files that exist on this machine. Pure.

Totals are sizes of sets and sums of the daemons' reports, so that they cost the same for any number of streams. The
most urgent ``MAX_SHOWN`` open streams are read and shown one by one; if these are all, totals come from the records.

Throughput is the bytes that S3 acknowledged in the last minute, by the times in the parts' records, or by the daemons'
reports if that is more: they count recordings that are complete by now, which have no parts in Redis any more. Lag is
the bytes on disk that are not yet acknowledged: from the recording if this machine can see it, else from its daemon's
report. The age of the oldest byte comes from that report only.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from cef_trio.checkpoint import ENDED, Checkpoint, Status, StreamMeta, StreamSet, StreamSummary, VerificationTotals
from cef_trio.files import FileStat, may_be
from cef_trio.observability import Fleet, Lag, StreamState, lag_of, streams_by_state, total_rate, upload_rate

MAX_SHOWN: Final = 50
"""The most open streams that are read and shown one by one; ``cef-trio list`` shows all."""
MAX_COMPLETED: Final = 500
"""The most completed streams whose records are read, for their sizes."""
_COUNTED: Final = (*(stream_set.value for stream_set in StreamSet), "deleted")
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
    activity: str | None = None
    """What its daemon reports that it does (``StreamActivity``), in the status page's words, or ``None``."""

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
    """Everything that ``status`` shows of one owner."""

    at_utc: datetime
    counts: Mapping[str, int]
    """Streams by set; and how many retry, and how many ended because their recording was deleted, or were let go."""
    completed_bytes: int | None
    """``None``: there are too many completed streams to read."""
    superseded: int | None
    """How many completed objects a later one of the same recording has replaced; ``None`` likewise."""
    bytes_per_second: float
    lag_bytes: int | None
    """Of all open streams; ``None`` unless the lag of each is known."""
    lag_seconds: float
    """Age of the oldest byte that is known to wait."""
    daemons: Mapping[str, int]
    """Leases by the instance that holds them."""
    open_streams: tuple[OpenStream, ...]
    """The most urgent ones."""
    left_out: int = 0
    """The number of other open streams."""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """The keys of Redis that cannot be read, and why; of those that were read."""
    newer: Mapping[str, str] = field(default_factory=dict)
    """The records of a newer schema, and their schemas."""
    owner: str = ""
    fleet: Fleet = field(default_factory=Fleet)
    """The daemons of all owners."""
    verification: VerificationTotals | None = None
    """The result of ``cef-trio verify --all``; ``None``: it never ran."""

    @property
    def upload_limits(self) -> Mapping[str, int]:
        """``MAX_UPLOAD_RATE`` in force, in bytes a second, of each running daemon with a limit, by INSTANCE_ID."""
        return {one.instance_id: one.upload_limit for one in self.own.living if one.upload_limit}

    @property
    def own(self) -> Fleet:
        """The daemons of this owner."""
        return self.fleet.of_owner(self.owner)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was read of an owner's streams.

    ``open_ids`` and ``holders`` (lease values) are of all open streams; ``checkpoints`` and ``files`` (at their paths
    here, ``None`` or absent if there is none) of the chosen ones; ``completed`` is ``None`` if it is too many.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    """By :func:`~cef_trio.checkpoint.count_known`."""
    open_ids: Collection[str] = ()
    holders: Mapping[str, str] = field(default_factory=dict)
    checkpoints: Mapping[str, Checkpoint] = field(default_factory=dict)
    files: Mapping[str, FileStat | None] = field(default_factory=dict)
    completed: Collection[StreamSummary] | None = ()
    fleet: Fleet = field(default_factory=Fleet)
    owner: str = ""


def choose(found: Found, now: datetime) -> list[str]:
    """Return the open streams to show: all, or the most urgent ``MAX_SHOWN`` of those without a daemon or with lag."""
    ids = sorted(found.open_ids)
    if len(ids) <= MAX_SHOWN:
        return ids
    lags = found.fleet.of_owner(found.owner).lags(now.timestamp())
    urgent = [key for key in ids if key not in found.holders or key in lags]
    urgent.sort(key=lambda key: (key in found.holders, -lags[key].size_bytes if key in lags else 0))
    return urgent[:MAX_SHOWN]


def observe(found: Found, now: datetime) -> Overview:
    """Build the overview; the checkpoints are those of :func:`choose`."""
    own = found.fleet.of_owner(found.owner)
    reported = own.lags(now.timestamp())
    activities = own.activities()
    streams = [
        replace(
            _open_stream(checkpoint, found.holders.get(key), found.files.get(key), now, reported.get(key)),
            activity=activities.get(key) if key in found.holders else None,
        )
        for key, checkpoint in found.checkpoints.items()
        if checkpoint.meta.status not in ENDED
    ]
    left_out = len(found.open_ids) - len(found.checkpoints)
    totals = _of_all(streams, own) if left_out <= 0 else _of_reports(own, now)
    return Overview(
        at_utc=now,
        counts={**dict.fromkeys(_COUNTED, 0), **found.counts, "retrying": totals.retrying},
        completed_bytes=_completed_bytes(found.completed),
        superseded=_superseded(found.completed),
        bytes_per_second=totals.bytes_per_second,
        lag_bytes=totals.lag_bytes,
        lag_seconds=totals.lag_seconds,
        daemons=Counter(instance_of(holder) for holder in found.holders.values()),
        open_streams=tuple(sorted(streams, key=lambda stream: (stream.meta.started_at_utc, stream.meta.stream_id))),
        left_out=max(0, left_out),
        owner=found.owner,
        fleet=found.fleet,
    )


@dataclass(frozen=True, slots=True)
class _Totals:
    bytes_per_second: float
    lag_bytes: int | None
    lag_seconds: float
    retrying: int


def _of_all(streams: Sequence[OpenStream], own: Fleet) -> _Totals:
    """Return the totals of all open streams."""
    lags = [stream.lag_bytes for stream in streams]
    return _Totals(
        bytes_per_second=total_rate(
            (stream.bytes_per_second for stream in streams), sum(one.sent_per_second or 0 for one in own.living)
        ),
        lag_bytes=None if None in lags else sum(lag for lag in lags if lag is not None),
        lag_seconds=max((stream.lag_seconds or 0.0 for stream in streams), default=0.0),
        retrying=sum(stream.meta.status is Status.RETRYING for stream in streams),
    )


def _of_reports(own: Fleet, now: datetime) -> _Totals:
    """Return the totals that the running daemons report."""
    lag = own.lag(now.timestamp())
    return _Totals(
        bytes_per_second=sum(one.bytes_per_second for one in own.living),
        lag_bytes=lag.size_bytes if own.living else None,
        lag_seconds=lag.seconds(now.timestamp()),
        retrying=streams_by_state(own.living).get(StreamState.RETRYING, 0),
    )


def _superseded(completed: Iterable[StreamSummary] | None) -> int | None:
    if completed is None:
        return None
    metas = [one.meta for one in completed]
    return len({meta.stream_id for meta in metas} & {meta.supersedes_stream_id for meta in metas})


def _completed_bytes(completed: Iterable[StreamSummary] | None) -> int | None:
    return None if completed is None else sum(one.meta.verified_size_bytes or 0 for one in completed)


def instance_of(holder: str) -> str:
    """Return the daemon's name in a lease's value."""
    return _HOST.sub("", holder.rpartition("/")[0] or holder)


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
        bytes_per_second=upload_rate(checkpoint.parts.values(), now, meta.started_at_utc),
        at=now.timestamp(),
        reported_lag=lag,
    )
