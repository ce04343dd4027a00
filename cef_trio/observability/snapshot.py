"""State of a daemon at one moment. Metrics, status page and the daemon's report in Redis are made from it. Pure.

``upload/observer.py`` takes it. Sizes in bytes, durations in seconds, times in Unix time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from cef_trio.checkpoint import Status, VerificationTotals
from cef_trio.observability.at_risk import NOT_JUDGED, Judgement, Risk
from cef_trio.observability.lag import Lag, total, total_rate
from cef_trio.observability.metric_labels import StreamState


class StreamActivity(StrEnum):
    """Current activity of a stream's task, as the status page shows it."""

    PREPARING = "preparing"
    """Starting or resuming."""
    UPLOADING = "uploading"
    WAITING = "waiting"
    """Waiting for its file to grow, or for a slot."""
    VERIFYING = "verifying"
    """The recording has ended: all bytes are compared and the object is completed."""
    FINISHING = "finishing"
    """The object exists; its metadata is being written."""
    RETRYING = "retrying"
    """Waiting after a transient error."""
    HELD = "held"
    """Waiting for the end of an outage."""


def activity_of(status: Status | None, *, working: bool, held: bool) -> StreamActivity:
    """Return the activity of a stream's task.

    ``status``: ``None`` until it is known. ``working``: the task holds a slot. ``held``: S3 or Redis is down. A
    verification continues during an outage, since it reads the file.
    """
    match status:
        case None:
            return StreamActivity.HELD if held else StreamActivity.PREPARING
        case Status.RETRYING if not working:
            return StreamActivity.RETRYING
        case Status.PENDING_COMPLETION:
            return StreamActivity.VERIFYING
        case Status.S3_COMPLETED | Status.COMPLETED:
            return StreamActivity.HELD if held else StreamActivity.FINISHING
        case _ if working:
            return StreamActivity.HELD if held else StreamActivity.UPLOADING
        case _:
            return StreamActivity.WAITING


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSnapshot:
    """A stream with a running task."""

    stream_id: str | None
    """``None`` until it is recorded in Redis."""
    path: str
    state: StreamState
    activity: StreamActivity
    size_on_disk_bytes: int
    acknowledged_bytes: int = 0
    """Acknowledged by S3; each part counts once."""
    lag: Lag = field(default_factory=Lag)
    bytes_per_second: float = 0.0
    error: str | None = None
    """The recorded error of a stream that retries; not redacted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOutage:
    """An outage of S3 or Redis."""

    service: str
    since: float
    error: str
    """Of the last attempt; not redacted."""
    probes: int
    """Number of probes since."""
    cause: str = ""
    """Error that began it; not redacted."""
    probed_at: float | None = None
    """Time of the last probe."""
    refused: bool = False
    """Whether the service responds but rejects everything."""


OUTAGE_ADVICE: Final[Mapping[bool, str]] = MappingProxyType(
    {
        False: (
            "check the server, its address and the network; `cef-trio doctor` tries each step. "
            "The recordings wait on their disk: make sure that it does not fill up"
        ),
        True: (
            "correct what the error names: credentials, a permission, a quota, a missing bucket, Redis' disk or "
            "memory. No recording fails because of it"
        ),
    }
)
"""What to do, by ``ServiceOutage.refused``: on the status page, and in ``docs/operations.md``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PastOutage:
    """An outage that is over."""

    service: str
    since: float
    until: float
    cause: str
    """Error that began it; not redacted."""
    probes: int


@dataclass(frozen=True, slots=True)
class ProbeCounts:
    """Probes of a service since the start."""

    made: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LimiterUse:
    """Use of a capacity limiter."""

    borrowed: float = 0
    total: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """State of a daemon at one moment."""

    at: float = 0.0
    streams: tuple[StreamSnapshot, ...] = ()
    not_looked_up: Lag = field(default_factory=Lag)
    """Of files that were not looked up in Redis and S3, or compared with their records, yet; they have no stream."""
    below_minimum: Mapping[str, int] = field(default_factory=lambda: {"size": 0, "age": 0})
    """Numbers of files that are not begun, by what they have not reached: ``size`` or ``age``. They are no lag."""
    outages: Mapping[str, ServiceOutage | None] = field(default_factory=dict)
    """By service; ``None``: it is up."""
    past_outages: tuple[PastOutage, ...] = ()
    """The last ones of this process, oldest first."""
    judgement: Judgement = NOT_JUDGED
    probes: Mapping[str, ProbeCounts] = field(default_factory=dict)
    """By service."""
    last_part_at: float | None = None
    """When S3 last acknowledged a part of this process; ``None``: none yet."""
    last_completion_at: float | None = None
    sent_per_second: float = 0.0
    """Bytes that were sent in the last minute, also of recordings that are complete by now."""
    failed_recordings: int = 0
    """Recordings in the folder whose streams failed for good."""
    limiters: Mapping[str, LimiterUse] = field(default_factory=dict)
    """``streams`` and ``parts``."""
    upload_limit: int = 0
    """Bytes a second; 0 is no limit."""
    unreadable_records: int = 0
    newer_records: int = 0
    """Records of a newer schema."""
    failing_calls: int = 0
    """Number of kinds of optional S3 calls that fail at present."""
    hung_mounts: int = 0
    links_not_followed: int = 0
    """Symbolic links in the watch folder."""
    shutdown_seconds: float = 0.0
    """0 before a shutdown."""

    @property
    def risks(self) -> tuple[Risk, ...]:
        """What is at risk."""
        return self.judgement.risks

    @property
    def lag(self) -> Lag:
        """Lag of all streams and of the files without one."""
        return total([self.not_looked_up, *(one.lag for one in self.streams)])

    @property
    def bytes_per_second(self) -> float:
        """Upload rate of the daemon, of which :func:`total_rate` is the rule."""
        return total_rate((one.bytes_per_second for one in self.streams), self.sent_per_second)

    @property
    def active_streams(self) -> Mapping[StreamState, int]:
        """Number of streams in each state."""
        counts = Counter(one.state for one in self.streams)
        return {state: counts[state] for state in StreamState}


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisSurvey:
    """Last responses of Redis; empty where a query failed."""

    known_streams: Mapping[str, int] = field(default_factory=dict)
    """By :func:`~cef_trio.checkpoint.count_known`."""
    persistent: bool | None = None
    verification: VerificationTotals | None = None
    """The result of ``cef-trio verify --all``; ``None``: it never ran."""
