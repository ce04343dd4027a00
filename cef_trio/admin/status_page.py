"""Content of the status page, ``/healthz`` and ``/readyz``, and the rules of health and readiness. Pure.

*Healthy*: the trio loop responds, the watcher scans and the idle checker runs. An outage of S3 or Redis is not
unhealthy, since a restart would not repair it. *Ready*: S3 and Redis are up, nothing is at risk
(``observability/at_risk.py``, from the facts of ``upload/risks.py``), and the daemon is neither starting nor shutting
down.

Times are Unix time, not ages, so that two pages are equal if nothing happened between them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from cef_trio.observability import (
    SENTENCES,
    Judgement,
    LogLine,
    Risk,
    State,
    StreamActivity,
    StreamDetail,
    describe_amount,
    judge,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class Phase(StrEnum):
    """Phase of the daemon."""

    STARTING = "starting"
    """Redis or S3 has not responded yet, or the folder was not scanned yet."""
    RUNNING = "running"
    DRAINING = "draining"
    """Shutting down: parts in flight are finished, no new ones are started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRow:
    """An active stream. Sizes in bytes."""

    stream_id: str | None
    """``None`` until it is recorded in Redis."""
    file: str
    """Path below the watch folder."""
    state: StreamActivity
    size_on_disk_bytes: int
    acknowledged_bytes: int
    bytes_per_second: float
    lag_bytes: int = 0
    lag_since: float | None = None
    """When the oldest unacknowledged byte was first seen; ``None`` if nothing waits."""
    note: str | None = None
    """Why it waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedStream:
    """A stream that failed permanently."""

    stream_id: str
    file: str
    sentence: str
    """Meaning of its status."""
    detail: str | None
    """The error message."""
    at: float
    advice: str | None = None
    """What to do before ``cef-trio retry``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletedStream:
    """A stream whose object is complete."""

    stream_id: str
    file: str
    size_bytes: int
    started_at: float
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """An outage that goes on, or is over."""

    service: str
    since: float
    cause: str
    """Error that began it."""
    probes: int
    until: float | None = None
    """``None``: it goes on."""
    error: str = ""
    """Of the last probe, or the cause."""
    probed_at: float | None = None
    advice: str = ""
    """What to do while it goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """One stream: :class:`~cef_trio.observability.StreamDetail`, and what else the page shows of it."""

    stream_id: str
    file: str | None
    """Path below the watch folder; ``None``: nothing is known of such a stream."""
    known: StreamDetail | None = None
    history_at: float | None = None
    """Time of the last sample."""
    bytes_per_second: tuple[int, ...] = ()
    """Samples of the last hour, oldest first."""
    lag_bytes: tuple[int, ...] = ()
    log: tuple[LogLine, ...] = ()
    why: str | None = None
    """Its last error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryPage:
    """Throughput and lag of the daemon in the last hour, oldest first."""

    period_seconds: float
    at: tuple[int, ...]
    bytes_per_second: tuple[int, ...]
    lag_bytes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Totals of the daemon. Sizes in bytes."""

    working: int
    """Streams that hold a slot."""
    slots: int
    active_streams: int
    """Streams with a task."""
    lag_bytes: int
    bytes_per_second: float
    completed: int | None
    """All completed streams in Redis; ``None`` until Redis has responded."""
    failed: int | None
    lag_since: float | None = None
    upload_limit_bytes_per_second: int = 0
    """Current ``MAX_UPLOAD_RATE``; 0 is no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusPage:
    """Content of the status page."""

    phase: Phase
    version: str
    instance: str
    folder: str
    started_at: float
    totals: Totals
    streams: tuple[StreamRow, ...]
    streams_left_out: int
    """Number of active streams that are not listed."""
    failed: tuple[FailedStream, ...]
    """The most recent failures."""
    outages: tuple[Outage, ...]
    """Those that go on."""
    unhealthy: tuple[str, ...]
    """Problems of the daemon itself."""
    at_risk: tuple[Risk, ...] = ()
    completed: tuple[CompletedStream, ...] = ()
    """The most recent ones, latest first."""
    past_outages: tuple[Outage, ...] = ()
    """The last ones of this process, latest first."""

    @property
    def judgement(self) -> Judgement:
        """Whether all is safe."""
        down = tuple(outage.service for outage in self.outages)
        starting, stopping = self.phase is Phase.STARTING, self.phase is Phase.DRAINING
        return judge(self.at_risk, down, starting=starting, stopping=stopping)

    @property
    def state(self) -> State:
        """Its word."""
        return self.judgement.state

    @property
    def bytes_at_risk(self) -> int:
        """Its number of bytes."""
        return self.judgement.size_bytes

    @property
    def recordings_at_risk(self) -> int:
        """Its number of recordings."""
        return self.judgement.recordings


def to_json(shown: DataclassInstance) -> str:
    """Encode a data class as one line of JSON for ``/events``."""
    return as_json(asdict(shown))


def as_json(value: Any) -> str:
    """Encode a value, which may contain data classes, as one line of JSON."""
    return json.dumps(value, separators=(",", ":"), default=asdict)


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthFacts:
    """Input of :func:`judge_health`. Seconds; ``None``: not started, or ended by the shutdown."""

    watcher_silent_seconds: float | None
    watcher_period_seconds: float
    checker_silent_seconds: float | None
    checker_period_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyFacts:
    """Input of :func:`judge_ready`."""

    phase: Phase
    redis_up: bool | None
    """``None``: not asked yet."""
    s3_up: bool | None
    at_risk: tuple[Risk, ...] = ()
    now: float = 0.0
    waits_for: str = ""
    """What the start waits for, if not for Redis or S3."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of ``/healthz`` or ``/readyz``."""

    good: bool
    says: str


ROUNDS_MISSED = 3
"""Number of missed periods after which a task counts as silent."""
LEAST_SILENCE_SECONDS = 30.0
"""Minimum time before a task counts as silent: a scan of a large folder takes time."""


def judge_health(facts: HealthFacts) -> tuple[Fact, ...]:
    """Return one fact per line; healthy if all are good. Running this shows that the loop responds."""
    return (
        Fact(True, "the event loop runs"),
        _task_fact("watcher", facts.watcher_silent_seconds, facts.watcher_period_seconds),
        _task_fact("idle checker", facts.checker_silent_seconds, facts.checker_period_seconds),
    )


def judge_ready(facts: ReadyFacts) -> tuple[Fact, ...]:
    """Return one fact per line; ready if all are good."""
    phase = {
        Phase.STARTING: Fact(False, f"the daemon is starting{': ' if facts.waits_for else ''}{facts.waits_for}"),
        Phase.RUNNING: Fact(True, "the daemon is running"),
        Phase.DRAINING: Fact(False, "the daemon is draining"),
    }[facts.phase]
    return (
        phase,
        *(
            Fact(up, f"{service} is {'reachable' if up else 'not reachable'}")
            for service, up in (("redis", facts.redis_up), ("s3", facts.s3_up))
            if up is not None
        ),
        *(Fact(False, _at_risk(risk, facts.now)) for risk in facts.at_risk),
    )


def _at_risk(risk: Risk, now: float) -> str:
    """Describe a risk without file names, since ``/readyz`` is public."""
    return f"{describe_amount(risk)} for {max(0.0, now - risk.since):.0f} s: {SENTENCES[risk.reason]}"


def _task_fact(name: str, silent_seconds: float | None, period_seconds: float) -> Fact:
    if silent_seconds is None:
        return Fact(True, f"the {name} is not started, or has ended for the shutdown")
    if silent_seconds > max(ROUNDS_MISSED * period_seconds, LEAST_SILENCE_SECONDS):
        return Fact(False, f"the {name} has been silent for {silent_seconds:.0f} s")
    return Fact(True, f"the {name} runs")
