"""Content of the status page, health and readiness, made from the daemon's snapshot (``observability/snapshot.py``).

A snapshot is made from memory, so that the page works while Redis and S3 are down. Counts of completed and failed
streams come from Redis, as does the fleet: :meth:`DaemonSource.run` reads them in an intake task, which a shutdown
cancels first. While Redis is down, the last response remains, of the fleet for half a minute.

Not here: the lag of a stream (`upload/live_stream.py`, by the rules of `observability/lag.py`), the snapshot
(`upload/observer.py`), and the judgement of health and readiness (`status_page.py`).

Sizes are limited (promise P7): ``MAX_STREAMS`` streams, ``MAX_FAILED`` failures, ``MAX_TEXT`` characters in a text.
"""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import structlog
import trio
from trio_util import AsyncBool

from cef_trio import __version__
from cef_trio.admin.status_page import (
    FailedStream,
    HealthFacts,
    Phase,
    ReadyFacts,
    StatusPage,
    StreamRow,
    Totals,
    judge_health,
)
from cef_trio.checkpoint import FAILED, SENTENCES, FailureReason, History, Status, StreamMeta
from cef_trio.exceptions import CefMp4ProcessorError
from cef_trio.observability import Snapshot, StreamActivity, StreamSnapshot, StreamState, fleet_document, read_fleet
from cef_trio.upload import Observer, Services

log = structlog.get_logger(__name__)

MAX_STREAMS: Final = 200
MAX_FAILED: Final = 50
MAX_TEXT: Final = 500
REFRESH_SECONDS: Final = 5.0
"""Least interval of reading ended streams from Redis, which is only done while someone looks at the page."""
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
    latest: tuple[FailedStream, ...]


@dataclass(eq=False, slots=True)
class DaemonSource:
    """The running daemon. The daemon sets ``observer``, ``watcher`` and ``checker`` as it starts them."""

    services: Services
    folder: str
    is_leaving: Callable[[], bool]
    redact: Callable[[str], str] = str
    """Removes secrets from error messages, which may quote S3 or a proxy."""
    started_at: float = field(init=False)
    observer: Observer | None = None
    watcher: IntakeTask | None = None
    checker: IntakeTask | None = None
    waits_for: str = ""
    """What the start waits for, if not for Redis or S3. It is public."""
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
        """See :class:`PageSource`. An idle checker that waits for Redis is excused until the end of the outage."""
        leaving, redis = self.is_leaving(), self.services.redis_breaker
        excused = -float("inf") if redis.outage is None else trio.current_time()
        return HealthFacts(
            watcher_silent_seconds=None if leaving else _silence(self.watcher),
            watcher_period_seconds=self.watcher.period_seconds if self.watcher else 0.0,
            checker_silent_seconds=None if leaving else _silence(self.checker, max(redis.up_since, excused)),
            checker_period_seconds=self.checker.period_seconds if self.checker else 0.0,
        )

    def ready(self) -> ReadyFacts:
        """See :class:`PageSource`."""
        return ReadyFacts(
            phase=self.phase,
            redis_up=self.services.redis_breaker.outage is None,
            s3_up=self.services.s3_breaker.outage is None,
            at_risk=self.observer.risks.judgement().risks if self.observer else (),
            now=self.services.utc_now().timestamp(),
            waits_for=self.waits_for,
        )

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
            failed=ended.latest if ended else (),
            outages=tuple(
                replace(outage, since=round(outage.since, 1), error=_short(self.redact(outage.error)))
                for outage in now.outages.values()
                if outage is not None
            ),
            at_risk=tuple(replace(risk, why=_short(risk.why)) for risk in now.risks),
            unhealthy=tuple(fact.says for fact in judge_health(self.health()) if not fact.good),
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

    # -- what only Redis knows ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Read ended streams, and the fleet, from Redis while someone looks at them, until cancelled."""
        async with trio.open_nursery() as nursery:
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
        counts = await store.count_ended()
        known = await store.load_metas(await store.latest(History.FAILED, MAX_FAILED))
        failed = [one.meta for one in known.values() if one.meta.status in FAILED]
        failed.sort(key=lambda meta: (meta.last_activity_at_utc, meta.stream_id), reverse=True)
        completed, failures = counts.get(History.COMPLETED, 0), counts.get(History.FAILED, 0)
        self._ended = _Ended(completed, failures, tuple(self._failed(meta) for meta in failed))

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
