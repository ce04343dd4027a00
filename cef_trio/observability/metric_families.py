"""The table of all metrics: name, type, help, labels; what is exposed and what is documented come from it. Pure."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cef_trio.checkpoint import StreamSet
from cef_trio.observability.at_risk import Reason
from cef_trio.observability.metric_labels import OUTCOMES, REASONS, FreedBy, StreamState, WebhookOutcome

PREFIX: Final = "cef_trio_"


class Kind(StrEnum):
    """Prometheus' type of a metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. ``buckets``: a histogram's upper bounds, in its unit."""

    short_name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def is_read(self) -> bool:
        """Whether its value is read at each scrape, and not kept."""
        return self.kind is Kind.GAUGE or self.short_name in _READ_COUNTERS

    @property
    def name(self) -> str:
        """The whole name."""
        return PREFIX + self.short_name


_READ_COUNTERS: Final = frozenset({"log_lines_lost_total", "probes_total", "probe_failures_total"})
_CALL: Final = ("service", "operation", "error")

FAMILIES: Final = (
    Family("uploaded_bytes_total", Kind.COUNTER, "Bytes of parts that S3 acknowledged, including rewritten ones."),
    Family("uploaded_parts_total", Kind.COUNTER, "Parts that S3 acknowledged, including rewritten ones."),
    Family(
        "rewritten_parts_total",
        Kind.COUNTER,
        "Parts that were uploaded again because their bytes changed in the recording.",
    ),
    Family("rewritten_bytes_total", Kind.COUNTER, "Bytes of parts that were uploaded again because they changed."),
    Family("retries_total", Kind.COUNTER, "Failed attempts of calls to S3 and Redis that were repeated.", _CALL),
    Family(
        "operation_failures_total",
        Kind.COUNTER,
        "Calls to S3 and Redis that failed: refused, or out of attempts. Their streams may still be retried.",
        _CALL,
    ),
    Family(
        "rate_limit_wait_seconds_total",
        Kind.COUNTER,
        "Seconds that parts and objects waited because of MAX_UPLOAD_RATE, summed over all in flight.",
    ),
    Family("streams_ended_total", Kind.COUNTER, "Ended tasks of streams, by outcome.", ("outcome",)),
    Family("failed_streams_total", Kind.COUNTER, "Streams recorded as failed, by reason.", ("reason",)),
    Family(
        "active_streams",
        Kind.GAUGE,
        "Streams with a task: working (reading or sending), retrying (waiting after an error) or waiting.",
        ("state",),
    ),
    Family(
        "known_streams",
        Kind.GAUGE,
        "Streams of this owner in Redis, by set; absent while Redis does not respond. `failed` are those that were "
        "neither retried nor let go; `deleted` those that were let go, or whose recording was deleted before its end.",
        ("set",),
    ),
    Family(
        "lag_bytes",
        Kind.GAUGE,
        "Bytes of recordings on disk that S3 has not acknowledged, including files not looked up yet.",
    ),
    Family(
        "lag_seconds",
        Kind.GAUGE,
        "Age of the oldest byte in lag_bytes, since this process first saw it. "
        "A slow recording whose part is not full yet counts too.",
    ),
    Family(
        "broken_recordings_total",
        Kind.COUNTER,
        "Completed recordings that cannot be played, or not to their end, as far as ffprobe and their boxes show.",
    ),
    Family(
        "webhook_attempts_total",
        Kind.COUNTER,
        "Attempts to deliver webhooks, by outcome.",
        ("outcome",),
    ),
    Family(
        "webhooks_pending",
        Kind.GAUGE,
        "Webhooks of this daemon's completed recordings that are not delivered yet; absent without a webhook.",
    ),
    Family(
        "freed_bytes_total",
        Kind.COUNTER,
        "Bytes on disk of recordings that were deleted, or moved to another disk, after their upload, by cause.",
        ("cause",),
    ),
    Family(
        "missing_free_space_bytes",
        Kind.GAUGE,
        "Bytes of free space that the file system of a watched folder, or one below with completed recordings, lacks "
        "to MIN_FREE_SPACE; 0 is enough. Absent without that setting, and where it is more than can be free.",
        ("folder",),
    ),
    Family(
        "bytes_at_risk",
        Kind.GAUGE,
        "Bytes that should be in S3 and have not got there for more than a minute, by cause; 0 if their number is "
        "unknown. Absent while nothing is at risk for that cause.",
        ("risk",),
    ),
    Family(
        "at_risk_since_timestamp_seconds",
        Kind.GAUGE,
        "Unix time since when bytes do not get to S3, by cause. Absent while nothing is at risk for that cause.",
        ("risk",),
    ),
    Family(
        "recordings_at_risk",
        Kind.GAUGE,
        "Recordings whose bytes are in bytes_at_risk, by cause. Absent while nothing is at risk for that cause.",
        ("risk",),
    ),
    Family(
        "ready",
        Kind.GAUGE,
        "Whether nothing is at risk, S3 and Redis are up, and the daemon is neither starting nor stopping, as /readyz.",
    ),
    Family(
        "failed_recordings",
        Kind.GAUGE,
        "Recordings in the folder whose streams failed for good, and were neither retried nor let go.",
    ),
    Family(
        "last_part_timestamp_seconds",
        Kind.GAUGE,
        "Unix time when S3 last acknowledged a part; absent until this process has sent one.",
    ),
    Family(
        "last_completion_timestamp_seconds",
        Kind.GAUGE,
        "Unix time when a recording was last completed; absent until this process has completed one.",
    ),
    Family("probes_total", Kind.COUNTER, "Probes of a service: in an outage, and while it is idle.", ("service",)),
    Family("probe_failures_total", Kind.COUNTER, "Probes of a service that failed.", ("service",)),
    Family(
        "watch_disk_free_bytes",
        Kind.GAUGE,
        "Free space of the file system of a watched folder, or of one below; absent while it cannot be measured.",
        ("folder",),
    ),
    Family(
        "watch_disk_size_bytes",
        Kind.GAUGE,
        "Size of the file system of a watched folder, or of one below; absent while it cannot be measured.",
        ("folder",),
    ),
    Family(
        "optional_calls_failing",
        Kind.GAUGE,
        "Kinds of optional S3 calls that currently fail, such as listing open uploads or parts.",
    ),
    Family(
        "files_below_minimum",
        Kind.GAUGE,
        "Files that are not begun because of WATCH_MIN_SIZE_BYTES or WATCH_MIN_AGE_SECONDS; they are not at risk.",
        ("minimum",),
    ),
    Family("hung_mounts", Kind.GAUGE, "Mounts that do not respond: set aside, and tried again in the background."),
    Family(
        "links_not_followed",
        Kind.GAUGE,
        "Symbolic links in the watch folder that lead into no folder of WATCH_LINK_ROOTS, at the last scan.",
    ),
    Family(
        "log_lines_lost_total", Kind.COUNTER, "Log lines that were dropped because they could not be written in time."
    ),
    Family(
        "unreadable_records",
        Kind.GAUGE,
        "Keys in Redis that cannot be read (an invalid record, a wrong type): set aside and left alone.",
    ),
    Family(
        "newer_records",
        Kind.GAUGE,
        "Records in Redis of a newer schema than this version knows: left alone for a newer daemon.",
    ),
    Family("service_up", Kind.GAUGE, "Whether the service is up: 0 during an outage, otherwise 1.", ("service",)),
    Family(
        "redis_clock_offset_seconds",
        Kind.GAUGE,
        "How far this host's clock is ahead of Redis', at the last report, within about a second; absent before it.",
    ),
    Family(
        "verification_last_timestamp_seconds",
        Kind.GAUGE,
        "Unix time at which `cef-trio verify --all` last verified an object; absent if it never did.",
    ),
    Family(
        "verification_oldest_timestamp_seconds",
        Kind.GAUGE,
        "Unix time of the verification that is the longest ago, of the objects that were verified at least once.",
    ),
    Family("verified_objects", Kind.GAUGE, "Objects that `cef-trio verify --all` has verified at least once."),
    Family(
        "verification_mismatches",
        Kind.GAUGE,
        "Objects that were missing or not as recorded when `cef-trio verify --all` last read them.",
    ),
    Family(
        "redis_persistent",
        Kind.GAUGE,
        "Whether Redis writes an append-only file, without which its crash loses checkpoints; absent while unknown.",
    ),
    Family("limiter_borrowed", Kind.GAUGE, "Slots in use, of the limit on streams or parts.", ("limiter",)),
    Family("limiter_slots", Kind.GAUGE, "The limit on streams or parts at once.", ("limiter",)),
    Family(
        "upload_limit_bytes_per_second", Kind.GAUGE, "MAX_UPLOAD_RATE in force, for the whole daemon; 0 is unlimited."
    ),
    Family("watcher_last_run_timestamp_seconds", Kind.GAUGE, "Unix time of the watcher's last complete scan."),
    Family(
        "idle_checker_last_run_timestamp_seconds", Kind.GAUGE, "Unix time at which the idle checker last began a round."
    ),
    Family("shutdown_seconds", Kind.GAUGE, "Time since the first shutdown signal; 0 before it."),
    Family("build_info", Kind.GAUGE, "Always 1; the labels are the versions.", ("version", "python", "trio")),
    Family(
        "part_upload_seconds",
        Kind.HISTOGRAM,
        "Time from a part's first attempt to its acknowledgement, including retries and outages.",
        buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600),
    ),
    Family(
        "finalize_seconds",
        Kind.HISTOGRAM,
        "Time from the start of a recording's verification to its metadata in S3, within this process.",
        buckets=(0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600),
    ),
    Family(
        "recording_duration_seconds",
        Kind.HISTOGRAM,
        "Playing time of completed recordings, from ffprobe.",
        buckets=(10, 60, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 43200, 86400),
    ),
)

PROCESS: Final = {
    "process_cpu_seconds_total": "CPU time, user and system.",
    "process_max_fds": "Limit on open file descriptors.",
    "process_open_fds": "Open file descriptors.",
    "process_resident_memory_bytes": "Resident memory.",
    "process_start_time_seconds": "Unix time of the start.",
    "process_virtual_memory_bytes": "Virtual memory.",
}
"""What prometheus_client exposes of the process on Linux, under the names of all Prometheus clients."""

BY_NAME: Final = {family.short_name: family for family in FAMILIES}


def _listed(values: Iterable[str]) -> str:
    return ", ".join(f"`{value}`" for value in values)


LABELS: Final = {
    "service": _listed(["s3", "redis"]),
    "operation": "the call, as in the log and `str(error)` (`upload_part`, `record_part`, …); a fixed set",
    "error": "S3's error code, or the error's class if there was no response; "
    "values outside the set in `cef_trio/observability/metric_labels.py` are `other`",
    "outcome": f"of a stream {_listed(OUTCOMES)}; of a webhook {_listed(WebhookOutcome)}",
    "reason": _listed(REASONS),
    "risk": _listed(Reason),
    "state": _listed(StreamState),
    "set": _listed([*StreamSet, "deleted"]),
    "cause": _listed(FreedBy),
    "folder": "a folder of `WATCH_DIR` or `WATCH_LINK_ROOTS`, or a mount point below one",
    "limiter": _listed(["streams", "parts"]),
    "minimum": _listed(["size", "age"]),
    "version": "of cef-trio",
    "python": "of Python",
    "trio": "of trio",
}
"""Every label and its values."""


def metrics_md() -> str:
    """``docs/metrics.md``."""
    lines = [
        "# Metrics",
        "",
        "Made by `python -m cef_trio.observability.metric_families`. Exposed at `/metrics` in Prometheus' text format.",
        "",
        "Counters start at 0 with each process. An unknown gauge is absent, such as `cef_trio_known_streams` while",
        "Redis does not respond. No label holds a stream, a file name or outside text; the [log](events.md) has these.",
        "",
        "| metric | type | labels | meaning |",
        "|---|---|---|---|",
    ]
    for family in FAMILIES:
        labels = ", ".join(f"`{label}`" for label in family.labels)
        lines.append(f"| `{family.name}` | {family.kind.value} | {labels} | {family.help} |")
    lines += [
        "",
        "## The process",
        "",
        "| metric | meaning |",
        "|---|---|",
        *(f"| `{name}` | {meaning} |" for name, meaning in PROCESS.items()),
        "",
        "## Labels",
        "",
        "| label | values |",
        "|---|---|",
        *(f"| `{label}` | {values} |" for label, values in LABELS.items()),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(metrics_md())
