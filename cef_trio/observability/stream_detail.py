"""What the status page shows of one stream. Pure. Sizes in bytes, times in Unix time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby


class PartState(StrEnum):
    """State of one part of a recording."""

    STORED = "stored"
    """Acknowledged by S3."""
    REWRITTEN = "rewritten"
    """Acknowledged, and sent more than once by this daemon, because its bytes had changed."""
    IN_FLIGHT = "in_flight"
    FAILED = "failed"
    """The last attempt to send it failed."""
    UNWRITTEN = "unwritten"
    """A hole of a preallocated file."""
    WAITING = "waiting"
    """On disk and not in S3; also a part that is not full yet."""


@dataclass(frozen=True, slots=True)
class PartRun:
    """Consecutive parts in one state."""

    state: PartState
    count: int


def runs_of(states: Iterable[PartState]) -> tuple[PartRun, ...]:
    """Return the runs of equal states: few, of up to 10,000 parts."""
    return tuple(PartRun(state, sum(1 for _ in same)) for state, same in groupby(states))


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamDetail:
    """One stream, from its record and from the work of this process."""

    stream_id: str
    status: str
    bucket: str
    key: str
    upload_id: str | None
    started_at: float
    part_size: int
    """Of the first part."""
    size_bytes: int | None
    """On disk, or as verified; ``None``: it never ended."""
    total_bytes_sent: int
    """All parts that S3 acknowledged; one that was sent twice counts twice."""
    parts_rewritten: int
    bytes_rewritten: int
    completed_at: float | None = None
    etag: str | None = None
    parts: tuple[PartRun, ...] = ()
    """Of an open stream."""
    verified_parts: int = 0
    """Parts from the first on that were compared with the file since it ended."""
    requests: Mapping[str, int] = field(default_factory=dict)
    """To S3 by operation, since this process began to work on it."""
    retries: Mapping[str, int] = field(default_factory=dict)
    """By service and operation."""
