"""Take a snapshot of all streams for the metrics, at each scrape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import trio

from cef_trio.observability import Lag, LimiterUse, Snapshot, StreamState, total
from cef_trio.upload.services import Services
from cef_trio.upload.supervisor import LiveStream, StreamSupervisor


class Observer:
    """Takes snapshots of a running daemon. Call it from the trio thread."""

    def __init__(self, services: Services, supervisor: StreamSupervisor) -> None:
        self.leaving_since: Callable[[], float | None] = lambda: None
        """When the shutdown began, by ``trio.current_time()``; ``None`` before."""
        self._services = services
        self._supervisor = supervisor

    def __call__(self) -> Snapshot:
        """Return the current snapshot."""
        services, live, now = self._services, tuple(self._supervisor.live), trio.current_time()
        states = Counter(_state(stream) for stream in live)
        leaving_since = self.leaving_since()
        unasked = Lag(self._supervisor.pending_lookup_bytes, self._supervisor.pending_lookup_since)
        lag = total([unasked, *(stream.lag(now) for stream in live)])
        return Snapshot(
            active_streams={state: states[state] for state in StreamState},
            lag_bytes=lag.size_bytes,
            lag_seconds=lag.seconds(now),
            services_up={
                breaker.service: breaker.up.value for breaker in (services.s3_breaker, services.redis_breaker)
            },
            limiters={"streams": _use(services.stream_slots), "parts": _use(services.part_slots)},
            unreadable_records=len(services.store.unreadable.known),
            upload_limit=services.rate_limiter.rate,
            shutdown_seconds=now - leaving_since if leaving_since is not None else 0.0,
        )


def _state(stream: LiveStream) -> StreamState:
    if stream.processor.working:
        return StreamState.WORKING
    return StreamState.RETRYING if stream.processor.retrying else StreamState.WAITING


def _use(limiter: trio.CapacityLimiter) -> LimiterUse:
    return LimiterUse(borrowed=limiter.borrowed_tokens, total=limiter.total_tokens)
