"""Take snapshots of a running daemon from memory, without awaiting or changing anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import trio

from cef_trio.checkpoint import Status, StreamMeta
from cef_trio.observability import (
    Lag,
    LimiterUse,
    PastOutage,
    ProbeCounts,
    ServiceOutage,
    Snapshot,
    StreamDetail,
    StreamSnapshot,
    StreamState,
    activity_of,
    runs_of,
    upload_rate,
)
from cef_trio.resilience import CircuitBreaker
from cef_trio.upload.live_stream import LiveStream
from cef_trio.upload.risks import RiskObserver
from cef_trio.upload.services import Services
from cef_trio.upload.supervisor import StreamSupervisor


@dataclass(frozen=True, slots=True)
class Observer:
    """Takes snapshots of a running daemon. Call it from the trio thread."""

    services: Services
    supervisor: StreamSupervisor
    risks: RiskObserver
    leaving_since: Callable[[], float | None] = lambda: None
    """When the shutdown began, by ``trio.current_time()``; ``None`` before."""

    def __call__(self) -> Snapshot:
        """Return the current snapshot."""
        services, supervisor, now = self.services, self.supervisor, trio.current_time()
        pending = supervisor.files.pending_lookups
        first_seen = min((one.since for one in pending), default=None)  # the age counts from then, also in a stream
        leaving_since = self.leaving_since()
        outages = {one.service: self._outage(one) for one in (services.s3_breaker, services.redis_breaker)}
        held = any(outages.values())
        return Snapshot(
            at=services.unix_time(now),
            streams=tuple(self._stream(one, now, held=held) for one in supervisor.live),
            not_looked_up=self._unix(Lag(sum(one.size_bytes for one in pending), first_seen)),
            below_minimum={"size": supervisor.files.too_small, "age": supervisor.files.too_young},
            outages=outages,
            past_outages=self._past_outages(),
            judgement=self.risks.judgement(),
            probes={
                one.service: ProbeCounts(one.probes, one.probe_failures)
                for one in (services.s3_breaker, services.redis_breaker)
            },
            last_part_at=self._unix_time(services.metrics.last_part_at),
            last_completion_at=self._unix_time(services.metrics.last_completion_at),
            sent_per_second=services.metrics.sent_per_second(),
            failed_recordings=len(supervisor.failed_files),
            limiters={"streams": _use(services.stream_slots), "parts": _use(services.part_slots)},
            upload_limit=services.rate_limiter.rate,
            unreadable_records=len(services.store.unreadable.known),
            newer_records=len(services.store.unreadable.newer),
            failing_calls=len(services.best_effort.failing),
            hung_mounts=len(services.mounts.hung.value),
            links_not_followed=supervisor.links_not_followed,
            shutdown_seconds=now - leaving_since if leaving_since is not None else 0.0,
        )

    def _stream(self, live: LiveStream, now: float, *, held: bool) -> StreamSnapshot:
        processor, upload = live.processor, live.processor.upload
        return StreamSnapshot(
            stream_id=processor.stream_id,
            path=live.path,
            state=_state(live),
            activity=activity_of(upload.meta.status if upload else None, working=processor.working, held=held),
            size_on_disk_bytes=live.file_state.value.stat.size_bytes,
            acknowledged_bytes=upload.acknowledged_bytes if upload else 0,
            lag=self._unix(live.lag(now)),
            bytes_per_second=(
                upload_rate(upload.parts.values(), self.services.utc_now(), upload.meta.started_at_utc)
                if upload
                else 0.0
            ),
            error=upload.meta.failure_reason if upload else None,
        )

    def _outage(self, breaker: CircuitBreaker) -> ServiceOutage | None:
        outage = breaker.outage
        if outage is None:
            return None
        probed_at = outage.probed_at
        return ServiceOutage(
            service=breaker.service,
            since=self.services.unix_time(outage.since),
            error=outage.error,
            probes=outage.probes,
            cause=outage.cause,
            probed_at=None if probed_at is None else self.services.unix_time(probed_at),
            refused=outage.refused,
        )

    def _past_outages(self) -> tuple[PastOutage, ...]:
        unix_time = self.services.unix_time
        ended = [
            PastOutage(
                service=breaker.service,
                since=unix_time(one.began),
                until=unix_time(one.ended),
                cause=one.cause,
                probes=one.probes,
            )
            for breaker in (self.services.s3_breaker, self.services.redis_breaker)
            for one in breaker.ended
        ]
        return tuple(sorted(ended, key=lambda one: one.since))

    def detail(self, stream_id: str) -> StreamDetail | None:
        """Return what is known of an open stream; ``None`` if there is none of that id."""
        live = next((one for one in self.supervisor.live if one.processor.stream_id == stream_id), None)
        upload = live.processor.upload if live is not None else None
        if live is None or upload is None:
            return None
        progress, size_bytes = live.processor.progress, live.file_state.value.stat.size_bytes
        states = runs_of(upload.part_states(size_bytes))
        if upload.meta.object_etag is not None:
            verified = sum(run.count for run in states)
        else:
            verified = upload.verified_parts if upload.meta.status is Status.PENDING_COMPLETION else 0
        return replace(
            detail_of_record(upload.meta),
            size_bytes=size_bytes,
            parts=states,
            verified_parts=verified,
            requests=dict(progress.requests),
            retries=dict(progress.retries),
        )

    def _unix_time(self, at: float | None) -> float | None:
        return None if at is None else self.services.unix_time(at)

    def _unix(self, lag: Lag) -> Lag:
        return lag if lag.since is None else replace(lag, since=self.services.unix_time(lag.since))


def _state(stream: LiveStream) -> StreamState:
    if stream.processor.working:
        return StreamState.WORKING
    return StreamState.RETRYING if stream.processor.retrying else StreamState.WAITING


def _use(limiter: trio.CapacityLimiter) -> LimiterUse:
    return LimiterUse(borrowed=limiter.borrowed_tokens, total=limiter.total_tokens)


def detail_of_record(meta: StreamMeta) -> StreamDetail:
    """Return what a record tells of a stream, also of one that has ended."""
    return StreamDetail(
        stream_id=meta.stream_id,
        status=meta.status.value,
        bucket=meta.s3_bucket,
        key=meta.s3_key_prefix,
        upload_id=meta.s3_upload_id,
        started_at=meta.started_at_utc.timestamp(),
        part_size=meta.part_size,
        size_bytes=meta.verified_size_bytes,
        total_bytes_sent=meta.total_bytes_sent,
        parts_rewritten=meta.parts_rewritten,
        bytes_rewritten=meta.bytes_rewritten,
        completed_at=meta.completed_at_utc.timestamp() if meta.completed_at_utc is not None else None,
        etag=meta.object_etag,
    )
