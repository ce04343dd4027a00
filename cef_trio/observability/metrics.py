"""The daemon's metrics.

:class:`Metrics` has a registry of its own, so that several daemons in one process (in tests) do not add up. Counters
and histograms are updated where the event happens. Gauges are read at each scrape from a
:class:`~cef_trio.observability.snapshot.Snapshot`, so they cannot be stale; unknown values are absent.

Names follow https://prometheus.io/docs/practices/naming/. ``metric_families.py`` is the table from which
``docs/metrics.md`` is made. No label holds a stream's id, a file name or outside text (``metric_labels.py``).
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import trio
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cef_trio import __version__
from cef_trio.observability.at_risk import Risk, State
from cef_trio.observability.lag import RecentBytes
from cef_trio.observability.metric_families import BY_NAME, FAMILIES, Family, Kind
from cef_trio.observability.metric_labels import OUTCOMES, REASONS, FreedBy, WebhookOutcome, error_label
from cef_trio.observability.snapshot import RedisSurvey, Snapshot
from cef_trio.resilience import FailedAttempt, is_transient, stall
from cef_trio.safe_text import printable

TakeSnapshot = Callable[[], Snapshot]
PeriodicTask = Literal["watcher", "idle_checker"]


@dataclass(frozen=True, slots=True)
class DiskUse:
    """The space of a watched file system."""

    free_bytes: int
    size_bytes: int


class Metrics:
    """The daemon's metrics; ``registry`` is exposed. Use it, scrapes included, from the trio thread only."""

    def __init__(self) -> None:
        self.registry: CollectorRegistry = _WithoutCreationTimes()
        self.survey = RedisSurvey()
        """Last responses of Redis (``redis_survey.py``)."""
        self.redis_clock_offset_seconds: float | None = None
        """How far this host's clock is ahead of Redis'."""
        self._take_snapshot: TakeSnapshot | None = None
        self._missing_space: Callable[[], Mapping[str, int]] = dict
        self._last_runs: dict[str, Callable[[], float]] = {}
        self._numbers: dict[str, Callable[[], int]] = {}
        """Sources of gauges without labels, for what is configured."""
        self.disks: Mapping[str, DiskUse] = {}
        """By folder, as last measured (``upload/disk_survey.py``)."""
        self.last_part_at: float | None = None
        """When S3 last acknowledged a part, by ``trio.current_time()``."""
        self.last_completion_at: float | None = None
        self._recent = RecentBytes()
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
        self._freed = self._counter("freed_bytes_total")
        self._part_upload = self._histogram("part_upload_seconds")
        self._finalize = self._histogram("finalize_seconds")
        self._broken_recordings = self._counter("broken_recordings_total")
        self._recording_duration = self._histogram("recording_duration_seconds")
        # Start at 0, so that the first failure is an increase to Prometheus.
        for outcome in OUTCOMES:
            self._streams_ended.labels(outcome)
        for reason in REASONS:
            self._failed_streams.labels(reason)
        for cause in FreedBy:
            self._freed.labels(cause)
        for outcome in WebhookOutcome:
            self._webhook_attempts.labels(outcome)
        self.registry.register(_Read(self))
        ProcessCollector(registry=self.registry)

    # -- what happens --------------------------------------------------------------------------------------------------

    def part_uploaded(self, size_bytes: int, seconds: float) -> None:
        """Count a part that S3 acknowledged ``seconds`` after its first attempt."""
        stall.progressed()
        self.last_part_at = trio.current_time()
        self._recent.add(self.last_part_at, size_bytes)
        self._uploaded_parts.inc()
        self._uploaded_bytes.inc(size_bytes)
        self._part_upload.observe(seconds)

    def part_rewritten(self, size_bytes: int) -> None:
        """Count a part that was uploaded again because its bytes changed; it also counts as uploaded."""
        self._rewritten_parts.inc()
        self._rewritten_bytes.inc(size_bytes)

    def upload_waited(self, seconds: float) -> None:
        """Count the time that a block waited for ``MAX_UPLOAD_RATE``."""
        self._upload_waited.inc(seconds)

    def attempt_failed(self, failed: FailedAttempt) -> None:
        """Count a failed attempt; a :data:`~cef_trio.resilience.retry.RetryObserver`."""
        if failed.retried or is_transient(failed.error):
            stall.failed(failed.error)
        counter = self._retries if failed.retried else self._operation_failures
        counter.labels(failed.service, failed.operation, error_label(failed.error)).inc()

    def stream_ended(self, outcome: str) -> None:
        """Count a stream's task that ended; ``outcome`` is one of ``metric_labels.OUTCOMES``."""
        self._streams_ended.labels(outcome).inc()
        if outcome == "completed":
            self.last_completion_at = trio.current_time()

    def stream_failed(self, reason: str) -> None:
        """Count a failed stream; ``reason`` is one of ``metric_labels.REASONS``."""
        self._failed_streams.labels(reason).inc()

    def finalized(self, seconds: float) -> None:
        """Observe the time from the start of a verification to the metadata in S3."""
        self._finalize.observe(seconds)

    def recording_probed(self, duration_seconds: float) -> None:
        """Observe the duration of a completed recording."""
        self._recording_duration.observe(duration_seconds)

    def recording_broken(self) -> None:
        """Count a completed recording that cannot be played, or not to its end."""
        self._broken_recordings.inc()

    def webhook_attempted(self, outcome: WebhookOutcome) -> None:
        """Count an attempt to deliver a webhook."""
        self._webhook_attempts.labels(outcome).inc()

    def space_freed(self, size_bytes: int, cause: FreedBy) -> None:
        """Count the bytes on disk that a deletion or a move freed."""
        self._freed.labels(cause).inc(size_bytes)

    def sent_per_second(self) -> float:
        """Return what was sent in the last minute, of all recordings, in bytes a second."""
        return self._recent.rate(trio.current_time())

    # -- how things are ------------------------------------------------------------------------------------------------

    def snapshots_by(self, take_snapshot: TakeSnapshot) -> None:
        """Set the source of the gauges; without one the gauges of the daemon are absent."""
        self._take_snapshot = take_snapshot

    def last_run_by(self, task: PeriodicTask, last_run: Callable[[], float]) -> None:
        """Set the source of the last run of a periodic task, in Unix time."""
        self._last_runs[f"{task}_last_run_timestamp_seconds"] = last_run

    def pending_webhooks_by(self, pending: Callable[[], int]) -> None:
        """Set the source of the number of pending webhooks."""
        self._numbers["webhooks_pending"] = pending

    def missing_space_by(self, missing: Callable[[], Mapping[str, int]]) -> None:
        """Set the source of the bytes that are missing to ``MIN_FREE_SPACE``, by folder."""
        self._missing_space = missing

    def lost_log_lines_by(self, lost: Callable[[], int]) -> None:
        """Set the source of the number of lost log lines of this process."""
        self._lost_log_lines = lost

    def read_values(self) -> Iterator[tuple[str, tuple[str, ...], float]]:
        """Yield ``(name without prefix, label values, value)`` of what is read at a scrape: gauges, some counters."""
        yield "log_lines_lost_total", (), self._lost_log_lines()
        yield from self._gauges()

    def _gauges(self) -> Iterator[tuple[str, tuple[str, ...], float]]:
        yield "build_info", (__version__, platform.python_version(), trio.__version__), 1
        for stream_set, count in self.survey.known_streams.items():
            yield "known_streams", (stream_set,), count
        if self.survey.persistent is not None:
            yield "redis_persistent", (), self.survey.persistent
        if (verified := self.survey.verification) is not None:
            yield "verification_last_timestamp_seconds", (), verified.at_ms / 1000
            yield "verification_oldest_timestamp_seconds", (), verified.oldest_ms / 1000
            yield "verified_objects", (), verified.objects
            yield "verification_mismatches", (), verified.mismatches
        if self.redis_clock_offset_seconds is not None:
            yield "redis_clock_offset_seconds", (), self.redis_clock_offset_seconds
        for name, last_run in self._last_runs.items():
            yield name, (), last_run()
        for name, number in self._numbers.items():
            yield name, (), number()
        for folder, missing in self._missing_space().items():
            yield "missing_free_space_bytes", (folder,), missing
        for folder, disk in self.disks.items():
            yield "watch_disk_free_bytes", (folder,), disk.free_bytes
            yield "watch_disk_size_bytes", (folder,), disk.size_bytes
        if self._take_snapshot is None:
            return
        yield from self._of_snapshot(self._take_snapshot())

    def _of_snapshot(self, now: Snapshot) -> Iterator[tuple[str, tuple[str, ...], float]]:
        yield "ready", (), now.judgement.state is State.READY
        for name, at in (("part", now.last_part_at), ("completion", now.last_completion_at)):
            if at is not None:
                yield f"last_{name}_timestamp_seconds", (), at
        for service, probes in now.probes.items():
            yield "probes_total", (service,), probes.made
            yield "probe_failures_total", (service,), probes.failed
        yield "failed_recordings", (), now.failed_recordings
        for state, count in now.active_streams.items():
            yield "active_streams", (state.value,), count
        lag = now.lag
        yield "lag_bytes", (), lag.size_bytes
        yield "lag_seconds", (), lag.seconds(now.at)
        yield "unreadable_records", (), now.unreadable_records
        yield "newer_records", (), now.newer_records
        yield from _of_risks(now.risks)
        yield "optional_calls_failing", (), now.failing_calls
        for minimum, count in now.below_minimum.items():
            yield "files_below_minimum", (minimum,), count
        yield "hung_mounts", (), now.hung_mounts
        yield "links_not_followed", (), now.links_not_followed
        for service, outage in now.outages.items():
            yield "service_up", (service,), outage is None
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


def _of_risks(risks: Iterable[Risk]) -> Iterator[tuple[str, tuple[str, ...], float]]:
    for risk in risks:
        yield "bytes_at_risk", (risk.reason.value,), risk.size_bytes
        yield "recordings_at_risk", (risk.reason.value,), risk.recordings
        yield "at_risk_since_timestamp_seconds", (risk.reason.value,), risk.since


class _Read(Collector):
    """What is read at each scrape, in the order of the table."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        found = {family.short_name: self._empty(family) for family in FAMILIES if family.is_read}
        for name, labels, value in self._metrics.read_values():
            # A folder's name may be no UTF-8, which the text format demands.
            found[name].add_metric([printable(label) for label in labels], value)
        return [metric for metric in found.values() if metric.samples]

    def describe(self) -> Iterable[Metric]:
        """Return names only, so that registering reads nothing."""
        return [self._empty(family) for family in FAMILIES if family.is_read]

    @staticmethod
    def _empty(family: Family) -> GaugeMetricFamily | CounterMetricFamily:
        make = CounterMetricFamily if family.kind is Kind.COUNTER else GaugeMetricFamily
        return make(family.name, family.help, labels=family.labels)


class _WithoutCreationTimes(CollectorRegistry):
    """Registry without ``_created`` samples, which Prometheus' text format shows as gauges.

    The library can disable them only globally.
    """

    def collect(self) -> Iterator[Metric]:
        for metric in super().collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric
