"""What the daemon counts and measures, in the daemon's words; what Prometheus makes of it is this room's business.

:class:`Metrics` has a registry of its own, never the library's global one, so that two daemons in one process (the
tests' worlds) never add up. Counters and histograms are moved where the thing happens. Gauges are never set: they are
read when somebody scrapes, from a :class:`~cef_trio.observability.gauge_values.Snapshot`, and so cannot be stale. What
is not known is absent, and never a number that would be wrong.

Names follow https://prometheus.io/docs/practices/naming/; ``FAMILIES`` is the table of them all, from which
``docs/metrics.md`` is made. No label is a stream's id, a file or a stranger's text (``metric_labels.py``).
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import trio
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cef_trio import __version__
from cef_trio.observability.at_risk import Risk
from cef_trio.observability.gauge_values import RedisSurvey, Snapshot
from cef_trio.observability.metric_families import BY_NAME, FAMILIES, Family, Kind
from cef_trio.observability.metric_labels import OUTCOMES, REASONS, WebhookOutcome, error_label
from cef_trio.resilience import FailedAttempt, is_transient, stall

TakeSnapshot = Callable[[], Snapshot]
PeriodicTask = Literal["watcher", "idle_checker"]


def families() -> list[tuple[str, str, str]]:
    """``(name, type, help)`` of every metric, in the order of the documentation."""
    return [(family.name, family.kind.value, family.help) for family in FAMILIES]


class Metrics:
    """The daemon's metrics; ``registry`` is what is exposed. Used from the trio thread only, scrapes too."""

    def __init__(self) -> None:
        self.registry: CollectorRegistry = _WithoutCreationTimes()
        self.survey = RedisSurvey()
        """What Redis was last asked about (``redis_survey.py``)."""
        self._take_snapshot: TakeSnapshot | None = None
        self._last_runs: dict[str, Callable[[], float]] = {}
        self._pending_webhooks: Callable[[], int] | None = None
        self._at_risk: Callable[[], tuple[Risk, ...]] | None = None
        self._hung_mounts: Callable[[], int] | None = None
        self._failing_calls: Callable[[], int] | None = None
        self._lost_log_lines: Callable[[], int] = lambda: 0
        self._uploaded_bytes = self._counter("uploaded_bytes_total")
        self._uploaded_parts = self._counter("uploaded_parts_total")
        self._rewritten_parts = self._counter("rewritten_parts_total")
        self._rewritten_bytes = self._counter("rewritten_bytes_total")
        self._retries = self._counter("retries_total")
        self._operation_failures = self._counter("operation_failures_total")
        self._upload_waited = self._counter("rate_limit_wait_seconds_total")
        self._streams_ended = self._counter("streams_ended_total")
        self._failed_streams = self._counter("failed_streams_total")
        self._webhook_attempts = self._counter("webhook_attempts_total")
        self._part_upload = self._histogram("part_upload_seconds")
        self._finalize = self._histogram("finalize_seconds")
        self._recording_duration = self._histogram("recording_duration_seconds")
        # Known values begin at 0, or the first failure would not be an increase to Prometheus.
        for outcome in OUTCOMES:
            self._streams_ended.labels(outcome)
        for reason in REASONS:
            self._failed_streams.labels(reason)
        for outcome in WebhookOutcome:
            self._webhook_attempts.labels(outcome)
        self.registry.register(_Gauges(self))
        self.registry.register(_LostLogLines(self))

    # -- what happens --------------------------------------------------------------------------------------------------

    def part_uploaded(self, size_bytes: int, seconds: float) -> None:
        """S3 acknowledged a part, that long after it was first tried."""
        stall.progressed()
        self._uploaded_parts.inc()
        self._uploaded_bytes.inc(size_bytes)
        self._part_upload.observe(seconds)

    def part_rewritten(self, size_bytes: int) -> None:
        """A part that S3 had was replaced, since the writer changed its bytes; it also counts as uploaded."""
        self._rewritten_parts.inc()
        self._rewritten_bytes.inc(size_bytes)

    def upload_waited(self, seconds: float) -> None:
        """A piece of a part or object waited so long for its turn under ``MAX_UPLOAD_RATE``."""
        self._upload_waited.inc(seconds)

    def attempt_failed(self, failed: FailedAttempt) -> None:
        """A :data:`~cef_trio.resilience.retry.RetryObserver`."""
        if failed.retried or is_transient(failed.error):
            stall.failed(failed.error)
        tell = self.retried if failed.retried else self.operation_failed
        tell(failed.service, failed.operation, failed.error)

    def retried(self, service: str, operation: str, error: BaseException) -> None:
        """An attempt failed, and another follows."""
        self._retries.labels(service, operation, error_label(error)).inc()

    def operation_failed(self, service: str, operation: str, error: BaseException) -> None:
        """An operation failed, and was not tried again by the retry policy."""
        self._operation_failures.labels(service, operation, error_label(error)).inc()

    def stream_ended(self, outcome: str) -> None:
        """A stream's task ended; one of ``labels.OUTCOMES``."""
        self._streams_ended.labels(outcome).inc()

    def stream_failed(self, reason: str) -> None:
        """A stream was recorded as failed; one of ``labels.REASONS``."""
        self._failed_streams.labels(reason).inc()

    def finalized(self, seconds: float) -> None:
        """A recording is in S3 with its metadata, that long after its verification began."""
        self._finalize.observe(seconds)

    def recording_probed(self, duration_seconds: float) -> None:
        """ffprobe told how long a completed recording plays."""
        self._recording_duration.observe(duration_seconds)

    def webhook_attempted(self, outcome: WebhookOutcome) -> None:
        """It was tried to deliver a webhook, with that outcome."""
        self._webhook_attempts.labels(outcome).inc()

    # -- how things are ------------------------------------------------------------------------------------------------

    def snapshots_by(self, take_snapshot: TakeSnapshot) -> None:
        """Who tells, at each scrape, how things are. Before that is known, gauges of the daemon are absent."""
        self._take_snapshot = take_snapshot

    def last_run_by(self, who: PeriodicTask, last_run: Callable[[], float]) -> None:
        """Who tells, at each scrape, when the watcher or the idle checker last turned, in Unix seconds."""
        self._last_runs[f"{who}_last_run_timestamp_seconds"] = last_run

    def pending_webhooks_by(self, owed: Callable[[], int]) -> None:
        """Who tells, at each scrape, how many webhooks are owed."""
        self._pending_webhooks = owed

    def at_risk_by(self, at_risk: Callable[[], tuple[Risk, ...]]) -> None:
        """Who tells, at each scrape, what is not getting to S3, with moments in Unix time."""
        self._at_risk = at_risk

    def failing_calls_by(self, failing: Callable[[], int]) -> None:
        """Who tells, at each scrape, how many kinds of calls are done without."""
        self._failing_calls = failing

    def hung_mounts_by(self, hung: Callable[[], int]) -> None:
        """Who tells, at each scrape, how many mounts do not answer."""
        self._hung_mounts = hung

    def lost_log_lines_by(self, lost: Callable[[], int]) -> None:
        """Who tells, at each scrape, how many lines of the log were lost; the log is the whole process's."""
        self._lost_log_lines = lost

    @property
    def lost_log_lines(self) -> int:
        """How many lines of the log were lost."""
        return self._lost_log_lines()

    def gauges(self) -> Iterator[tuple[str, tuple[str, ...], float]]:
        """``(name without prefix, label values, value)`` of every gauge that is known now."""
        yield "build_info", (__version__, platform.python_version(), trio.__version__), 1
        for stream_set, count in self.survey.known_streams.items():
            yield "known_streams", (stream_set.value,), count
        if self.survey.persistent is not None:
            yield "redis_persistent", (), self.survey.persistent
        for name, last_run in self._last_runs.items():
            yield name, (), last_run()
        if self._pending_webhooks is not None:
            yield "webhooks_pending", (), self._pending_webhooks()
        for risk in self._at_risk() if self._at_risk is not None else ():
            yield "bytes_at_risk", (risk.reason.value,), risk.size_bytes
            yield "at_risk_since_timestamp_seconds", (risk.reason.value,), risk.since
        if self._failing_calls is not None:
            yield "optional_calls_failing", (), self._failing_calls()
        if self._hung_mounts is not None:
            yield "hung_mounts", (), self._hung_mounts()
        if self._take_snapshot is None:
            return
        now = self._take_snapshot()
        for state, count in now.active_streams.items():
            yield "active_streams", (state.value,), count
        yield "lag_bytes", (), now.lag_bytes
        yield "lag_seconds", (), now.lag_seconds
        yield "unreadable_records", (), now.unreadable_records
        for service, up in now.services_up.items():
            yield "service_up", (service,), up
        for limiter, use in now.limiters.items():
            yield "limiter_borrowed", (limiter,), use.borrowed
            yield "limiter_slots", (limiter,), use.total
        yield "upload_limit_bytes_per_second", (), now.upload_limit
        yield "shutdown_seconds", (), now.shutdown_seconds

    def _counter(self, name: str) -> Counter:
        family = BY_NAME[name]
        return Counter(family.name, family.help, family.labels, registry=self.registry)

    def _histogram(self, name: str) -> Histogram:
        family = BY_NAME[name]
        return Histogram(family.name, family.help, family.labels, buckets=family.buckets, registry=self.registry)


class _Gauges(Collector):
    """Asks at each scrape."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """The gauges that are known now, in the table's order."""
        found = [(family, self._empty(family)) for family in FAMILIES if family.kind is Kind.GAUGE]
        by_name = {family.short_name: metric for family, metric in found}
        for name, labels, value in self._metrics.gauges():
            by_name[name].add_metric(labels, value)
        return [metric for _, metric in found if metric.samples]

    def describe(self) -> Iterable[Metric]:
        """Names only, so that registering asks nobody."""
        return [self._empty(family) for family in FAMILIES if family.kind is Kind.GAUGE]

    @staticmethod
    def _empty(family: Family) -> GaugeMetricFamily:
        return GaugeMetricFamily(family.name, family.help, labels=family.labels)


class _LostLogLines(Collector):
    """Asks at each scrape."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """The one counter."""
        family = BY_NAME["log_lines_lost_total"]
        yield CounterMetricFamily(family.name, family.help, value=self._metrics.lost_log_lines)


class _WithoutCreationTimes(CollectorRegistry):
    """A registry whose counters have no ``_created`` twins: Prometheus' text format would show them as gauges.

    The library turns them off by a global switch only, which is not ours to turn.
    """

    def collect(self) -> Iterator[Metric]:
        """Every family, without its creation times."""
        for metric in super().collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric
