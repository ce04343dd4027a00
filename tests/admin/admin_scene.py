"""The real admin server with a snapshot source that a test sets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import trio
from prometheus_client import CollectorRegistry, Counter

from cef_trio.admin.server import serve_admin
from cef_trio.admin.status_page import (
    Detail,
    HealthFacts,
    HistoryPage,
    Phase,
    ReadyFacts,
    StatusPage,
    StreamRow,
    Totals,
)
from cef_trio.observability.snapshot import StreamActivity

GOOD_HEALTH = HealthFacts(
    watcher_silent_seconds=1.0, watcher_period_seconds=60.0, checker_silent_seconds=1.0, checker_period_seconds=30.0
)


def stream(stream_id: str, file: str, acknowledged_bytes: int = 40, size_bytes: int = 100) -> StreamRow:
    return StreamRow(
        stream_id=stream_id,
        file=file,
        state=StreamActivity.UPLOADING,
        size_on_disk_bytes=size_bytes,
        acknowledged_bytes=acknowledged_bytes,
        bytes_per_second=2048.0,
        lag_bytes=size_bytes - acknowledged_bytes,
    )


def snapshot_of(*streams: StreamRow) -> StatusPage:
    totals = Totals(
        working=1,
        slots=5,
        active_streams=len(streams),
        lag_bytes=0,
        bytes_per_second=2048.0,
        completed=7,
        failed=0,
    )
    return StatusPage(
        phase=Phase.RUNNING,
        version="1.2.3",
        instance="here",
        folder="/var/recordings",
        started_at=1_700_000_000.0,
        totals=totals,
        streams=streams,
        streams_left_out=0,
        failed=(),
        outages=(),
        unhealthy=(),
    )


@dataclass
class SetSource:
    """Says what the test last set."""

    now: StatusPage = field(default_factory=lambda: snapshot_of(stream("id-1", "a.mp4")))
    facts: HealthFacts = GOOD_HEALTH
    redis_up: bool = True
    known_fleet: str | None = None
    details: dict[str, Detail] = field(default_factory=dict)
    past: HistoryPage = field(
        default_factory=lambda: HistoryPage(period_seconds=10, at=(), bytes_per_second=(), lag_bytes=())
    )
    sparks: dict[str, list[int]] = field(default_factory=dict)

    def page(self) -> StatusPage:
        return self.now

    def health(self) -> HealthFacts:
        return self.facts

    def ready(self) -> ReadyFacts:
        return ReadyFacts(phase=self.now.phase, redis_up=self.redis_up, s3_up=True)

    def detail(self, stream_id: str) -> Detail:
        return self.details.get(stream_id, Detail(stream_id=stream_id, file=None))

    def history(self) -> HistoryPage:
        return self.past

    def sparklines(self) -> dict[str, list[int]]:
        return self.sparks

    def fleet(self) -> str | None:
        return self.known_fleet

    def change(self, **fields: object) -> None:
        self.now = replace(self.now, **fields)  # type: ignore[arg-type]


def registry() -> CollectorRegistry:
    made = CollectorRegistry()
    Counter("cef_trio_parts_uploaded", "Parts.", registry=made).inc(3)
    return made


@asynccontextmanager
async def serving(source: SetSource, port: int = 0) -> AsyncIterator[int]:
    """The server, on a free port if none is given; it is cancelled at the block's end."""
    async with trio.open_nursery() as nursery:
        yield await nursery.start(serve_admin, source, registry(), "127.0.0.1", port)
        nursery.cancel_scope.cancel()
