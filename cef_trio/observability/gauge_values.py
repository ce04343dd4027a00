"""Values of the gauges at a scrape. Pure; ``None`` means unknown, which is not exposed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cef_trio.checkpoint import StreamSet
from cef_trio.observability.metric_labels import StreamState


@dataclass(frozen=True, slots=True, kw_only=True)
class LimiterUse:
    """Use of a capacity limiter."""

    borrowed: float
    total: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The gauges. Sizes in bytes, durations in seconds, timestamps in seconds since the epoch."""

    active_streams: Mapping[StreamState, int]
    lag_bytes: int
    lag_seconds: float
    services_up: Mapping[str, bool]
    limiters: Mapping[str, LimiterUse]
    unreadable_records: int = 0
    shutdown_seconds: float = 0.0
    upload_limit: int = 0
    """Bytes a second; 0 is no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisSurvey:
    """Last answers of Redis; a question that failed is empty."""

    known_streams: Mapping[StreamSet, int] = field(default_factory=dict)
    persistent: bool | None = None
