"""Makes snapshots of the running daemon, without awaiting or changing anything.

A snapshot is made from memory, so that the page works while Redis and S3 are down. Counts of completed and failed
streams come from Redis: :meth:`DaemonSource.run` reads them in an intake task, which a shutdown cancels first. While
Redis is down, the last answer remains.

Sizes are limited (promise P7): ``MAX_STREAMS`` streams, ``MAX_FAILED`` failures, ``MAX_TEXT`` characters in a text.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final, Protocol

import structlog
import trio

from cef_trio import __version__
from cef_trio.admin.snapshot import (
    FailedStream,
    HealthFacts,
    Phase,
    ReadyFacts,
    ServiceOutage,
    Snapshot,
    StreamLine,
    StreamState,
    Totals,
    judge_health,
)
from cef_trio.checkpoint import FAILED, SENTENCES, FailureReason, Status, StreamMeta, StreamSet
from cef_trio.exceptions import CefMp4ProcessorError
from cef_trio.observability import Risk
from cef_trio.resilience import CircuitBreaker, Periodic
from cef_trio.upload import LiveStream, Services, StreamSupervisor, StreamUpload, bulk_load

log = structlog.get_logger(__name__)

MAX_STREAMS: Final = 200
MAX_FAILED: Final = 50
MAX_TEXT: Final = 500
REFRESH_SECONDS: Final = 5.0
"""Interval of reading ended streams from Redis."""
RATE_WINDOW: Final = timedelta(seconds=60)
_SENTENCE_OF: Final = {Status.failed(reason): SENTENCES[reason] for reason in FailureReason}


class SnapshotSource(Protocol):
    """Data of the admin server. No method awaits."""

    def snapshot(self) -> Snapshot:
        """Return the content of the status page."""
        ...

    def health(self) -> HealthFacts:
        """Return the input of ``/healthz``."""
        ...

    def ready(self) -> ReadyFacts:
        """Return the input of ``/readyz``."""
        ...


class PeriodicTask(Protocol):
    """Task that records its last run."""

    last_run: float
    """``trio.current_time()``."""


@dataclass(frozen=True, slots=True)
class IntakeTask:
    """An intake task and its period."""

    task: PeriodicTask
    period_seconds: float


@dataclass(frozen=True, slots=True)
class _Ended:
    """Last answer of Redis about ended streams."""

    completed: int
    failed: int
    latest: tuple[FailedStream, ...]


@dataclass(eq=False, slots=True)
class DaemonSource:
    """The running daemon. The daemon sets ``supervisor``, ``watcher`` and ``checker`` as it starts them."""

    services: Services
    folder: str
    is_leaving: Callable[[], bool]
    redact: Callable[[str], str] = str
    """Removes secrets from error messages, which may quote S3 or a proxy."""
    started_at: float = field(init=False)
    supervisor: StreamSupervisor | None = None
    risks: Callable[[], tuple[Risk, ...]] = tuple
    watcher: IntakeTask | None = None
    checker: IntakeTask | None = None
    _ended: _Ended | None = None
    _uploaded: dict[str, tuple[tuple[int, int], int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.started_at = self.services.utc_now().timestamp()

    # -- SnapshotSource ------------------------------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """Current phase."""
        if self.is_leaving():
            return Phase.DRAINING
        return Phase.STARTING if self.watcher is None else Phase.RUNNING

    def health(self) -> HealthFacts:
        """See :class:`SnapshotSource`. An idle checker that waits for Redis is excused until the end of the outage."""
        leaving, redis = self.is_leaving(), self.services.redis_breaker
        excused = -float("inf") if redis.outage is None else trio.current_time()
        return HealthFacts(
            watcher_silent_seconds=None if leaving else _silence(self.watcher),
            watcher_period_seconds=self.watcher.period_seconds if self.watcher else 0.0,
            checker_silent_seconds=None if leaving else _silence(self.checker, max(redis.up_since, excused)),
            checker_period_seconds=self.checker.period_seconds if self.checker else 0.0,
        )

    def ready(self) -> ReadyFacts:
        """See :class:`SnapshotSource`."""
        return ReadyFacts(
            phase=self.phase,
            redis_up=self.services.redis_breaker.outage is None,
            s3_up=self.services.s3_breaker.outage is None,
            at_risk=self.risks(),
            now=self.services.utc_now().timestamp(),
        )

    def snapshot(self) -> Snapshot:
        """See :class:`SnapshotSource`."""
        live = tuple(self.supervisor.live) if self.supervisor else ()
        lines = [self._line(one) for one in live]
        self._forget_others(live)
        shown = (
            lines if len(lines) <= MAX_STREAMS else heapq.nlargest(MAX_STREAMS, lines, key=lambda line: line.lag_bytes)
        )
        return Snapshot(
            phase=self.phase,
            version=__version__,
            instance=_short(self.services.lease.instance),
            folder=_short(self.folder),
            started_at=self.started_at,
            totals=Totals(
                working=int(self.services.stream_slots.borrowed_tokens),
                slots=int(self.services.stream_slots.total_tokens),
                live=len(lines),
                uploaded_bytes=sum(line.uploaded_bytes for line in lines),
                lag_bytes=sum(line.lag_bytes for line in lines),
                bytes_per_second=sum(line.bytes_per_second for line in lines),
                completed=self._ended.completed if self._ended else None,
                failed=self._ended.failed if self._ended else None,
                limit_bytes_per_second=self.services.rate_limiter.rate,
            ),
            streams=tuple(sorted(shown, key=lambda line: (line.file, line.stream_id or ""))),
            streams_left_out=len(lines) - len(shown),
            failed=self._ended.latest if self._ended else (),
            outages=tuple(filter(None, map(self._outage, self._breakers()))),
            at_risk=tuple(replace(risk, why=_short(risk.why)) for risk in self.risks()),
            unhealthy=tuple(fact.says for fact in judge_health(self.health()) if not fact.good),
        )

    # -- streams ------------------------------------------------------------------------------------------------------

    def _line(self, live: LiveStream) -> StreamLine:
        upload, size = live.processor.upload, live.file_state.value.stat.size_bytes
        lag = live.lag(trio.current_time())
        line = StreamLine(
            stream_id=live.processor.stream_id,
            file=_below(self.folder, live.path),
            state=StreamState.PREPARING,
            size_on_disk_bytes=size,
            uploaded_bytes=0,
            bytes_per_second=0.0,
            lag_since=None if lag.since is None else round(self.services.unix_time(lag.since), 1),
            unwritten_bytes=lag.unwritten_bytes,
        )
        held = any(one.outage is not None for one in self._breakers())
        if upload is None:
            return replace(line, state=StreamState.HELD) if held else line
        uploaded = self._uploaded_bytes(upload)
        state = state_of(upload.meta.status, working=live.processor.working, held=held)
        return replace(
            line,
            state=state,
            uploaded_bytes=uploaded,
            bytes_per_second=self._rate(upload),
            note=_short(self.redact(upload.meta.failure_reason or "")) if state is StreamState.RETRYING else None,
        )

    def _uploaded_bytes(self, upload: StreamUpload) -> int:
        # A recording may have 10,000 parts: the sum is cached until a part is sent, adopted or dropped.
        version = (upload.meta.total_bytes_sent, len(upload.parts))
        known = self._uploaded.get(upload.stream_id)
        if known is None or known[0] != version:
            known = version, sum(part.size_bytes for part in upload.parts.values())
            self._uploaded[upload.stream_id] = known
        return known[1]

    def _forget_others(self, live: tuple[LiveStream, ...]) -> None:
        ids = {one.processor.stream_id for one in live}
        for stream_id in [stream_id for stream_id in self._uploaded if stream_id not in ids]:
            del self._uploaded[stream_id]

    def _rate(self, upload: StreamUpload) -> float:
        since, recent = self.services.utc_now() - RATE_WINDOW, 0
        for part in reversed(upload.parts.values()):  # newest last, except for parts that were sent again
            if part.uploaded_at_utc <= since:
                break
            recent += part.size_bytes
        return recent / RATE_WINDOW.total_seconds()

    def _breakers(self) -> tuple[CircuitBreaker, CircuitBreaker]:
        return self.services.redis_breaker, self.services.s3_breaker

    def _outage(self, breaker: CircuitBreaker) -> ServiceOutage | None:
        if (outage := breaker.outage) is None:
            return None
        since = self.services.utc_now().timestamp() - (trio.current_time() - outage.began)
        return ServiceOutage(
            service=breaker.service,
            since=round(since, 1),
            error=_short(self.redact(outage.error)),
            probes=outage.probes,
        )

    # -- what only Redis knows ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Read ended streams from Redis until cancelled."""
        async for _ in Periodic(REFRESH_SECONDS):
            try:
                await self._refresh()
            except CefMp4ProcessorError as error:
                log.debug("status_not_refreshed", error=str(error))

    async def _refresh(self) -> None:
        store = self.services.store
        completed = await store.members(StreamSet.COMPLETED)
        metas = await bulk_load.load_metas(store, await store.members(StreamSet.FAILED))
        failed = [known.meta for known in metas.values() if known.meta.status in FAILED]
        latest = heapq.nlargest(MAX_FAILED, failed, key=lambda meta: (meta.last_activity_at_utc, meta.stream_id))
        self._ended = _Ended(len(completed), len(failed), tuple(self._failed(meta) for meta in latest))

    def _failed(self, meta: StreamMeta) -> FailedStream:
        sentence = _SENTENCE_OF[meta.status]
        detail = (meta.failure_reason or "").removeprefix(sentence).strip()  # usually begins with the sentence
        return FailedStream(
            stream_id=meta.stream_id,
            file=_below(self.folder, meta.current_path),
            sentence=sentence,
            detail=_short(self.redact(detail)) if detail else None,
            at=meta.last_activity_at_utc.timestamp(),
        )


def state_of(status: Status, *, working: bool, held: bool) -> StreamState:
    """Return the activity of a stream's task.

    ``working``: it holds a slot. ``held``: S3 or Redis is down. A verification continues during an outage, since it
    reads the file.
    """
    match status:
        case Status.RETRYING if not working:
            return StreamState.RETRYING
        case Status.PENDING_COMPLETION:
            return StreamState.VERIFYING
        case Status.S3_COMPLETED | Status.COMPLETED:
            return StreamState.HELD if held else StreamState.FINISHING
        case _ if working:
            return StreamState.HELD if held else StreamState.UPLOADING
        case _:
            return StreamState.WAITING


def _silence(one: IntakeTask | None, excused_until: float = -float("inf")) -> float | None:
    return None if one is None else max(0.0, trio.current_time() - max(one.task.last_run, excused_until))


def _below(folder: str, path: str) -> str:
    return _short(path.removeprefix(folder.rstrip(os.sep) + os.sep))


def _short(text: str | None) -> str:
    text = text or ""
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
