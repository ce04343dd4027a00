"""Content of the status page, health and readiness, made from the daemon's snapshot (``observability/snapshot.py``).

A snapshot is made from memory, so that the page works while Redis and S3 are down. Counts of completed and failed
streams come from Redis, as does the fleet: :meth:`DaemonSource.run` reads them in an intake task, which a shutdown
cancels first. While Redis is down, the last response remains, of the fleet for half a minute.

Not here: the lag of a stream (`upload/live_stream.py`, by the rules of `observability/lag.py`), the snapshot
(`upload/observer.py`), and the judgement of health and readiness (`status_page.py`).

Sizes are limited (promise P7): ``MAX_STREAMS`` streams, ``MAX_ENDED`` failures and completions, ``MAX_TEXT`` characters
in a text, one hour of samples (``observability/history.py``).
"""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from math import inf
from typing import Final, Protocol

import structlog
import trio
from trio_util import AsyncBool

from cef_trio import __version__
from cef_trio.admin.status_page import (
    CompletedStream,
    Detail,
    FailedStream,
    HealthFacts,
    HistoryPage,
    Outage,
    Phase,
    ReadyFacts,
    StatusPage,
    StreamRow,
    Totals,
    judge_health,
)
from cef_trio.checkpoint import FAILED, SENTENCES, FailureReason, Status, StreamMeta, advice_on, count_known
from cef_trio.checkpoint import History as EndedStreams
from cef_trio.exceptions import CefMp4ProcessorError
from cef_trio.observability import (
    HISTORY_PERIOD_SECONDS,
    OUTAGE_ADVICE,
    History,
    LogLine,
    PastOutage,
    ServiceOutage,
    Snapshot,
    StreamActivity,
    StreamSnapshot,
    StreamState,
    fleet_document,
    read_fleet,
    rounded,
)
from cef_trio.resilience import CircuitBreaker, Periodic
from cef_trio.upload import Observer, Services, detail_of_record

log = structlog.get_logger(__name__)

MAX_STREAMS: Final = 2000
MAX_ENDED: Final = 50
"""Of failed and of completed streams each."""
MAX_TEXT: Final = 500
REFRESH_SECONDS: Final = 5.0
"""Least interval of reading ended streams from Redis, which is only done while someone looks at the page."""
COMPLETED_SECONDS: Final = 60.0
"""How long the record of a completed stream is used before it is read again."""
FLEET_REFRESH_SECONDS: Final = 5.0
"""The same for the fleet."""
MAX_FLEET_AGE_SECONDS: Final = 30.0
_READ_SECONDS: Final = 5.0
_SENTENCE_OF: Final = {Status.failed(reason): SENTENCES[reason] for reason in FailureReason}


class PageSource(Protocol):
    """Data of the admin server. No method awaits."""

    def page(self) -> StatusPage:
        """Return the content of the status page."""
        ...

    def health(self) -> HealthFacts:
        """Return the input of ``/healthz``."""
        ...

    def ready(self) -> ReadyFacts:
        """Return the input of ``/readyz``."""
        ...

    def detail(self, stream_id: str) -> Detail:
        """Return what is known of one stream."""
        ...

    def history(self) -> HistoryPage:
        """Return the last hour."""
        ...

    def sparklines(self) -> Mapping[str, Sequence[int]]:
        """Return the rates of the last ten minutes, by the ids of the open streams that had any."""
        ...

    def fleet(self) -> str | None:
        """Return the fleet as JSON; ``None`` if it has not been read in the last ``MAX_FLEET_AGE_SECONDS``."""
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
    """Last response of Redis about ended streams."""

    completed: int
    failed: int
    failures: tuple[FailedStream, ...] = ()
    completions: tuple[CompletedStream, ...] = ()
    metas: Mapping[str, StreamMeta] = field(default_factory=dict)
    """Records of both."""
    read_at: float = -inf
    """When all completed streams were read, by ``trio.current_time()``."""


@dataclass(eq=False, slots=True)
class DaemonSource:
    """The running daemon. The daemon sets ``observer``, ``watcher`` and ``checker`` as it starts them."""

    services: Services
    folder: str
    is_leaving: Callable[[], bool]
    redact: Callable[[str], str] = str
    """Removes secrets from error messages, which may quote S3 or a proxy."""
    recent_lines: Callable[[str], tuple[LogLine, ...]] = lambda _stream_id: ()
    """Returns the last log lines of a stream, without secrets."""
    started_at: float = field(init=False)
    observer: Observer | None = None
    watcher: IntakeTask | None = None
    checker: IntakeTask | None = None
    waits_for: str = ""
    """What the start waits for, if not for Redis or S3. It is public."""
    _history: History = field(default_factory=History)
    _ended: _Ended | None = None
    _fleet: tuple[float, str] = (-float("inf"), "")
    """When it was read, by ``trio.current_time()``, as JSON."""
    _looked_at: AsyncBool = field(default_factory=lambda: AsyncBool(False))
    """Whether the page was asked for since ended streams were read."""
    _fleet_looked_at: AsyncBool = field(default_factory=lambda: AsyncBool(False))

    def __post_init__(self) -> None:
        self.started_at = self.services.utc_now().timestamp()

    # -- PageSource ----------------------------------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """Current phase."""
        if self.is_leaving():
            return Phase.DRAINING
        return Phase.STARTING if self.watcher is None else Phase.RUNNING

    def health(self) -> HealthFacts:
        """See :class:`PageSource`. An idle checker that waits for Redis is excused until the end of the outage.

        A watcher whose scan takes long is not silent while it reads.
        """
        leaving, redis = self.is_leaving(), self.services.redis_breaker
        excused = -inf if redis.outage is None else trio.current_time()
        scans = self.observer.risks.watcher if self.observer is not None else None
        read_at = scans.read_at if scans is not None else -inf
        return HealthFacts(
            watcher_silent_seconds=None if leaving else _silence(self.watcher, read_at),
            watcher_period_seconds=self.watcher.period_seconds if self.watcher else 0.0,
            checker_silent_seconds=None if leaving else _silence(self.checker, max(redis.up_since, excused)),
            checker_period_seconds=self.checker.period_seconds if self.checker else 0.0,
        )

    def ready(self) -> ReadyFacts:
        """See :class:`PageSource`."""
        return ReadyFacts(
            phase=self.phase,
            redis_up=self._is_up(self.services.redis_breaker),
            s3_up=self._is_up(self.services.s3_breaker),
            at_risk=self.observer.risks.judgement().risks if self.observer else (),
            now=self.services.utc_now().timestamp(),
            waits_for=self.waits_for,
        )

    def _is_up(self, breaker: CircuitBreaker) -> bool | None:
        """Return whether a service is up; ``None`` while the daemon starts and the service has not responded yet."""
        has_responded = breaker.last_success_time > -inf
        return None if breaker.outage is None and self.watcher is None and not has_responded else breaker.outage is None

    def fleet(self) -> str | None:
        """See :class:`PageSource`. Has it read again, but not for this response, which must not wait for Redis."""
        self._fleet_looked_at.value = True
        read_at, document = self._fleet
        return document if trio.current_time() - read_at <= MAX_FLEET_AGE_SECONDS else None

    def page(self) -> StatusPage:
        """See :class:`PageSource`. Has ended streams read again, but not for this response."""
        self._looked_at.value = True
        now = self.observer() if self.observer else Snapshot()
        shown = now.streams
        if len(shown) > MAX_STREAMS:
            shown = tuple(heapq.nlargest(MAX_STREAMS, shown, key=lambda one: one.lag.size_bytes))
        ended = self._ended
        return StatusPage(
            phase=self.phase,
            version=__version__,
            instance=_short(self.services.lease.instance),
            folder=_short(self.folder),
            started_at=self.started_at,
            totals=Totals(
                working=now.active_streams[StreamState.WORKING],
                slots=int(self.services.stream_slots.total_tokens),
                active_streams=len(now.streams),
                lag_bytes=now.lag.size_bytes,
                lag_since=_rounded(now.lag.since),
                bytes_per_second=now.bytes_per_second,
                completed=ended.completed if ended else None,
                failed=ended.failed if ended else None,
                upload_limit_bytes_per_second=now.upload_limit,
            ),
            streams=tuple(sorted(map(self._row, shown), key=lambda row: (row.file, row.stream_id or ""))),
            streams_left_out=len(now.streams) - len(shown),
            failed=ended.failures if ended else (),
            completed=ended.completions if ended else (),
            outages=tuple(self._outage(outage) for outage in now.outages.values() if outage is not None),
            past_outages=tuple(self._past_outage(outage) for outage in reversed(now.past_outages)),
            at_risk=tuple(replace(risk, why=_short(risk.why)) for risk in now.risks),
            unhealthy=tuple(fact.says for fact in judge_health(self.health()) if not fact.good),
        )

    def _outage(self, one: ServiceOutage) -> Outage:
        return Outage(
            service=one.service,
            since=round(one.since, 1),
            cause=_short(self.redact(one.cause or one.error)),
            probes=one.probes,
            error=_short(self.redact(one.error)),
            probed_at=_rounded(one.probed_at),
            advice=OUTAGE_ADVICE[one.refused],
        )

    def _past_outage(self, one: PastOutage) -> Outage:
        return Outage(
            service=one.service,
            since=round(one.since, 1),
            until=round(one.until, 1),
            cause=_short(self.redact(one.cause)),
            probes=one.probes,
        )

    def _row(self, stream: StreamSnapshot) -> StreamRow:
        retries = stream.activity is StreamActivity.RETRYING
        return StreamRow(
            stream_id=stream.stream_id,
            file=_below(self.folder, stream.path),
            state=stream.activity,
            size_on_disk_bytes=stream.size_on_disk_bytes,
            acknowledged_bytes=stream.acknowledged_bytes,
            bytes_per_second=stream.bytes_per_second,
            lag_bytes=stream.lag.size_bytes,
            lag_since=_rounded(stream.lag.since),
            note=_short(self.redact(stream.error or "")) if retries else None,
        )

    # -- one stream, and the last hour ---------------------------------------------------------------------------------

    def detail(self, stream_id: str) -> Detail:
        """See :class:`PageSource`."""
        open_now = self.observer.detail(stream_id) if self.observer is not None else None
        ended = self._ended.metas.get(stream_id) if self._ended is not None else None
        live = self._live_path(stream_id)
        path = live if live is not None else ended.current_path if ended is not None else None
        series, times = self._history.of(stream_id), self._history.times
        return Detail(
            stream_id=stream_id,
            file=None if path is None else _below(self.folder, path),
            known=open_now or (detail_of_record(ended) if ended is not None else None),
            history_at=_rounded(times[-1]) if series.lag_bytes else None,
            bytes_per_second=tuple(rounded(series.bytes_per_second)),
            lag_bytes=tuple(rounded(series.lag_bytes)),
            log=self.recent_lines(stream_id),
            why=_short(self.redact(ended.failure_reason)) if ended is not None and ended.failure_reason else None,
        )

    def _live_path(self, stream_id: str) -> str | None:
        live = self.observer.supervisor.live if self.observer is not None else ()
        return next((one.path for one in live if one.processor.stream_id == stream_id), None)

    def history(self) -> HistoryPage:
        """See :class:`PageSource`."""
        return HistoryPage(
            period_seconds=HISTORY_PERIOD_SECONDS,
            at=tuple(rounded(self._history.times)),
            bytes_per_second=tuple(rounded(self._history.all.bytes_per_second)),
            lag_bytes=tuple(rounded(self._history.all.lag_bytes)),
        )

    def sparklines(self) -> Mapping[str, Sequence[int]]:
        """See :class:`PageSource`."""
        live = self.observer.supervisor.live_ids if self.observer is not None else frozenset[str]()
        return self._history.sparklines(live)

    async def _record_history(self) -> None:
        async for _ in Periodic(HISTORY_PERIOD_SECONDS):
            if self.observer is not None:
                self._history.record(self.observer())

    # -- what only Redis knows ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Sample the history; read ended streams, and the fleet, from Redis while someone looks at them.

        Runs until cancelled.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._record_history)
            nursery.start_soon(self._read_while, self._looked_at, self._refresh, REFRESH_SECONDS)
            nursery.start_soon(self._read_while, self._fleet_looked_at, self._refresh_fleet, FLEET_REFRESH_SECONDS)

    async def _read_while(self, wanted: AsyncBool, read: Callable[[], Awaitable[None]], seconds: float) -> None:
        """Read once for all requests within that time."""
        while True:
            await wanted.wait_value(True)
            wanted.value = False
            with trio.move_on_after(_READ_SECONDS):
                try:
                    await read()
                except CefMp4ProcessorError as error:
                    log.debug("status_not_refreshed", error=str(error))
            await trio.sleep(seconds)

    async def _refresh_fleet(self) -> None:
        fleet = read_fleet(await self.services.store.reports())
        self._fleet = trio.current_time(), json.dumps(fleet_document(fleet), separators=(",", ":"))

    async def _refresh(self) -> None:
        store = self.services.store
        counts = count_known(await store.count(), await store.count_ended())
        failed = await store.latest(EndedStreams.FAILED, MAX_ENDED)
        completed = await store.latest(EndedStreams.COMPLETED, MAX_ENDED)
        # A completed stream stays as it is, but for its file's name: all are read again once a minute.
        read_at = self._ended.read_at if self._ended else -inf
        is_recent = trio.current_time() < read_at + COMPLETED_SECONDS
        before = self._ended.metas if self._ended and is_recent else {}
        same = [meta for one in completed if (meta := before.get(one)) is not None and meta.status is Status.COMPLETED]
        known = await store.load_metas([*failed, *set(completed).difference(meta.stream_id for meta in same)])
        metas = sorted(
            [*same, *(one.meta for one in known.values())],
            key=lambda meta: (_ended_at(meta), meta.stream_id),
            reverse=True,
        )
        self._ended = _Ended(
            completed=counts.get("completed", 0),
            failed=counts.get("failed", 0),
            failures=tuple(self._failed(meta) for meta in metas if meta.status in FAILED),
            completions=tuple(self._completed(meta) for meta in metas if meta.status is Status.COMPLETED),
            metas={meta.stream_id: meta for meta in metas},
            read_at=read_at if is_recent else trio.current_time(),
        )

    def _failed(self, meta: StreamMeta) -> FailedStream:
        sentence = _SENTENCE_OF[meta.status]
        detail = (meta.failure_reason or "").removeprefix(sentence).strip()  # usually begins with the sentence
        return FailedStream(
            stream_id=meta.stream_id,
            file=_below(self.folder, meta.current_path),
            sentence=sentence,
            detail=_short(self.redact(detail)) if detail else None,
            at=meta.last_activity_at_utc.timestamp(),
            advice=advice_on(meta.status),
        )

    def _completed(self, meta: StreamMeta) -> CompletedStream:
        return CompletedStream(
            stream_id=meta.stream_id,
            file=_below(self.folder, meta.current_path),
            size_bytes=meta.verified_size_bytes or 0,
            started_at=meta.started_at_utc.timestamp(),
            at=_ended_at(meta).timestamp(),
        )


def _ended_at(meta: StreamMeta) -> datetime:
    completed = meta.completed_at_utc if meta.status is Status.COMPLETED else None
    return completed or meta.last_activity_at_utc


def _silence(one: IntakeTask | None, excused_until: float = -float("inf")) -> float | None:
    return None if one is None else max(0.0, trio.current_time() - max(one.task.last_run, excused_until))


def _below(folder: str, path: str) -> str:
    return _short(path.removeprefix(folder.rstrip(os.sep) + os.sep))


def _short(text: str | None) -> str:
    text = text or ""
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def _rounded(since: float | None) -> float | None:
    """Return a time to a tenth of a second: the conversion from trio's clock is not exact."""
    return None if since is None else round(since, 1)
