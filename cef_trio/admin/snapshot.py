"""What the status page, ``/healthz`` and ``/readyz`` show, as values; and the judgements of health and readiness. Pure.

*Healthy* means that the daemon itself turns: its loop answers, its watcher scans, its idle checker makes rounds. An
outage of S3 or Redis is not unhealthy: a restart would not mend it, and the daemon waits for its end by design.
*Ready* means that work goes on: both services are believed to be up, nothing that should be in S3 is kept from it
(``observability/at_risk.py``), and the daemon neither starts nor leaves.

Nothing here counts up by itself (instants, not ages), so that two snapshots are equal if nothing happened between them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum

from cef_trio.observability import SENTENCES, Risk, describe_amount


class Phase(StrEnum):
    """How far the daemon is."""

    STARTING = "starting"
    """Redis and S3 have not answered yet, or the folder was not scanned yet."""
    RUNNING = "running"
    DRAINING = "draining"
    """It was told to leave: parts in flight are finished, nothing is begun."""


class StreamState(StrEnum):
    """What a stream's task does now."""

    PREPARING = "preparing"
    """It is being begun or resumed."""
    UPLOADING = "uploading"
    WAITING = "waiting"
    """For its file to grow, or for a slot."""
    VERIFYING = "verifying"
    """The recording ended: every byte is compared, and the object completed."""
    FINISHING = "finishing"
    """The object exists; its metadata is being written."""
    RETRYING = "retrying"
    """It waits after an error that may pass."""
    HELD = "held"
    """It would work, and waits for the end of an outage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLine:
    """One stream whose task runs. Sizes in bytes."""

    stream_id: str | None
    """``None`` until it is recorded in Redis."""
    file: str
    """Below the watch folder."""
    state: StreamState
    size_on_disk_bytes: int
    uploaded_bytes: int
    """Acknowledged by S3; a part counts once."""
    bytes_per_second: float
    """What S3 acknowledged in the last minute."""
    lag_since: float | None
    """POSIX time at which the oldest byte that S3 does not have was first seen; ``None`` if nothing waits."""
    note: str | None = None
    """Why it waits, in words."""
    unwritten_bytes: int = 0
    """What the size covers and is known not to be written yet."""

    @property
    def lag_bytes(self) -> int:
        """On disk and not yet acknowledged."""
        return max(0, self.size_on_disk_bytes - self.unwritten_bytes - self.uploaded_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedStream:
    """A stream that ended for good without an object."""

    stream_id: str
    file: str
    sentence: str
    """What its status means."""
    detail: str | None
    """The very error."""
    at: float
    """POSIX time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOutage:
    """S3 or Redis is down, and what the daemon does about it."""

    service: str
    since: float
    """POSIX time."""
    error: str
    probes: int
    """How often it was asked since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Of the whole daemon. Sizes in bytes."""

    working: int
    """Streams that hold a slot."""
    slots: int
    live: int
    uploaded_bytes: int
    """Of live streams."""
    lag_bytes: int
    bytes_per_second: float
    completed: int | None
    """In Redis, whoever completed them; ``None`` if Redis was not asked yet."""
    failed: int | None
    limit_bytes_per_second: int = 0
    """``MAX_UPLOAD_RATE`` as it holds now; 0 is no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything the page shows."""

    phase: Phase
    version: str
    instance: str
    folder: str
    started_at: float
    """POSIX time."""
    totals: Totals
    streams: tuple[StreamLine, ...]
    streams_left_out: int
    """Live streams beyond those that are listed."""
    failed: tuple[FailedStream, ...]
    """The latest ones."""
    outages: tuple[ServiceOutage, ...]
    unhealthy: tuple[str, ...]
    """What is wrong with the daemon itself, in sentences."""
    at_risk: tuple[Risk, ...] = ()
    """What should be in S3 and is not getting there; moments are POSIX time."""


def to_json(snapshot: Snapshot) -> str:
    """One line of JSON, as ``/events`` sends it."""
    document = asdict(snapshot)
    for line, stream in zip(document["streams"], snapshot.streams, strict=True):
        line["lag_bytes"] = stream.lag_bytes
    return json.dumps(document, separators=(",", ":"))


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthFacts:
    """What health is judged by. Seconds; ``None``: not started yet, or already ended by a shutdown."""

    watcher_silent_seconds: float | None
    watcher_period_seconds: float
    checker_silent_seconds: float | None
    checker_period_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyFacts:
    """What readiness is judged by."""

    phase: Phase
    redis_up: bool
    s3_up: bool
    at_risk: tuple[Risk, ...] = ()
    """What should be in S3 and is not getting there."""
    now: float = 0.0
    """POSIX time."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of ``/healthz`` or ``/readyz``."""

    good: bool
    says: str


ROUNDS_MISSED = 3
"""After so many periods without a turn, a task counts as silent."""
LEAST_SILENCE_SECONDS = 30.0
"""However short the period, a task may be silent for so long: a scan of a large folder takes its time."""


def judge_health(facts: HealthFacts) -> tuple[Fact, ...]:
    """One fact a line; healthy if all are good. That it is asked at all shows that the loop turns."""
    return (
        Fact(True, "the loop turns"),
        _task_fact("watcher", facts.watcher_silent_seconds, facts.watcher_period_seconds),
        _task_fact("idle checker", facts.checker_silent_seconds, facts.checker_period_seconds),
    )


def judge_ready(facts: ReadyFacts) -> tuple[Fact, ...]:
    """One fact a line; ready if all are good."""
    phase = {
        Phase.STARTING: Fact(False, "the daemon is starting"),
        Phase.RUNNING: Fact(True, "the daemon is running"),
        Phase.DRAINING: Fact(False, "the daemon is draining"),
    }[facts.phase]
    return (
        phase,
        Fact(facts.redis_up, f"redis is {'reachable' if facts.redis_up else 'not reachable'}"),
        Fact(facts.s3_up, f"s3 is {'reachable' if facts.s3_up else 'not reachable'}"),
        *(Fact(False, _at_risk(risk, facts.now)) for risk in facts.at_risk),
    )


def _at_risk(risk: Risk, now: float) -> str:
    """Without a file's name, which ``/readyz`` tells nobody."""
    return f"{describe_amount(risk)} for {max(0.0, now - risk.since):.0f} s: {SENTENCES[risk.reason]}"


def _task_fact(name: str, silent_seconds: float | None, period_seconds: float) -> Fact:
    if silent_seconds is None:
        return Fact(True, f"the {name} does not run now")
    if silent_seconds > max(ROUNDS_MISSED * period_seconds, LEAST_SILENCE_SECONDS):
        return Fact(False, f"the {name} has been silent for {silent_seconds:.0f} s")
    return Fact(True, f"the {name} lives")
