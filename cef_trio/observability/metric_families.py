"""The table of all metrics: name, type, help, labels; what is exposed and what is documented come from it. Pure."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cef_trio.checkpoint import StreamSet
from cef_trio.observability.at_risk import Reason
from cef_trio.observability.metric_labels import OUTCOMES, REASONS, StreamState, WebhookOutcome

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
    def name(self) -> str:
        """The whole name."""
        return PREFIX + self.short_name


_CALL: Final = ("service", "operation", "error")

FAMILIES: Final = (
    Family("uploaded_bytes_total", Kind.COUNTER, "Bytes of parts that S3 acknowledged, rewritten ones included."),
    Family("uploaded_parts_total", Kind.COUNTER, "Parts that S3 acknowledged, rewritten ones included."),
    Family(
        "rewritten_parts_total",
        Kind.COUNTER,
        "Parts that were uploaded again because the recording's writer changed their bytes.",
    ),
    Family("rewritten_bytes_total", Kind.COUNTER, "Bytes of the parts that were uploaded again after a rewrite."),
    Family(
        "retries_total",
        Kind.COUNTER,
        "Failed attempts of calls to S3 and Redis that were followed by another attempt.",
        _CALL,
    ),
    Family(
        "operation_failures_total",
        Kind.COUNTER,
        "Calls to S3 and Redis that failed: refused, or out of attempts. A stream may still come back to them.",
        _CALL,
    ),
    Family(
        "rate_limit_wait_seconds_total",
        Kind.COUNTER,
        "Time that parts and objects waited for their turn under MAX_UPLOAD_RATE, summed over those in flight at once.",
    ),
    Family("streams_ended_total", Kind.COUNTER, "Tasks of streams that ended, by how.", ("outcome",)),
    Family("failed_streams_total", Kind.COUNTER, "Streams that were recorded as failed, by reason.", ("reason",)),
    Family(
        "active_streams",
        Kind.GAUGE,
        "Streams with a task: working (reads or sends its file), retrying (waits after an error) or waiting.",
        ("state",),
    ),
    Family(
        "known_streams",
        Kind.GAUGE,
        "Streams in each set of Redis, of all daemons that share it; absent while Redis does not answer.",
        ("set",),
    ),
    Family(
        "lag_bytes",
        Kind.GAUGE,
        "Bytes of recordings that were seen on disk and not acknowledged by S3, of files not yet looked up too.",
    ),
    Family(
        "lag_seconds",
        Kind.GAUGE,
        "Age of the oldest byte that lag_bytes counts, since this process first saw it. "
        "A slow recording that waits for a full part lags too.",
    ),
    Family(
        "webhook_attempts_total",
        Kind.COUNTER,
        "Attempts to deliver the webhook of a completed recording, by what became of it.",
        ("outcome",),
    ),
    Family(
        "webhooks_pending",
        Kind.GAUGE,
        "Webhooks of this daemon's completed recordings that are still to be delivered; absent without a webhook.",
    ),
    Family(
        "bytes_at_risk",
        Kind.GAUGE,
        "Bytes that should be in S3 and are not getting there for more than a minute, by why; 0 where their number is "
        "not known. Absent while nothing is at risk for that reason.",
        ("risk",),
    ),
    Family(
        "at_risk_since_timestamp_seconds",
        Kind.GAUGE,
        "Unix time since when bytes are not getting to S3, by why. Absent while nothing is at risk for that reason.",
        ("risk",),
    ),
    Family(
        "optional_calls_failing",
        Kind.GAUGE,
        "Kinds of S3 calls that uploads go on without and that fail at present: listing open uploads, listing parts.",
    ),
    Family(
        "hung_mounts",
        Kind.GAUGE,
        "Mounts that do not answer: set aside, and asked again in the background.",
    ),
    Family(
        "log_lines_lost_total",
        Kind.COUNTER,
        "Lines of the log that were dropped because they could not be written in time.",
    ),
    Family(
        "unreadable_records",
        Kind.GAUGE,
        "Keys of Redis that cannot be read (a record that no daemon wrote, a wrong type): set aside and left alone.",
    ),
    Family("service_up", Kind.GAUGE, "Whether the service is believed to be up: 0 during an outage.", ("service",)),
    Family(
        "redis_persistent",
        Kind.GAUGE,
        "Whether Redis writes an append-only file: without one a crash of it loses checkpoints; absent while unknown.",
    ),
    Family("limiter_borrowed", Kind.GAUGE, "Slots in use of the daemon's limit on streams or parts.", ("limiter",)),
    Family("limiter_slots", Kind.GAUGE, "Slots of the daemon's limit on streams or parts.", ("limiter",)),
    Family(
        "upload_limit_bytes_per_second",
        Kind.GAUGE,
        "MAX_UPLOAD_RATE as it holds now, for the whole daemon; 0 is no limit.",
    ),
    Family(
        "watcher_last_run_timestamp_seconds", Kind.GAUGE, "Unix time at which the watcher last read the whole folder."
    ),
    Family(
        "idle_checker_last_run_timestamp_seconds",
        Kind.GAUGE,
        "Unix time at which the idle checker last began a round.",
    ),
    Family("shutdown_seconds", Kind.GAUGE, "Time since the daemon was asked to leave; 0 before that."),
    Family("build_info", Kind.GAUGE, "Always 1; its labels say what runs.", ("version", "python", "trio")),
    Family(
        "part_upload_seconds",
        Kind.HISTOGRAM,
        "Time from a part's first attempt to its acknowledgement, retries and outages included.",
        buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600),
    ),
    Family(
        "finalize_seconds",
        Kind.HISTOGRAM,
        "Time from the begin of a recording's verification to its metadata in S3, as far as this process did it.",
        buckets=(0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600),
    ),
    Family(
        "recording_duration_seconds",
        Kind.HISTOGRAM,
        "How long completed recordings play, as ffprobe says.",
        buckets=(10, 60, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 43200, 86400),
    ),
)

BY_NAME: Final = {family.short_name: family for family in FAMILIES}


def _listed(values: Iterable[str]) -> str:
    return ", ".join(f"`{value}`" for value in values)


LABELS: Final = {
    "service": _listed(["s3", "redis"]),
    "operation": "the call, as the log and `str(error)` name it (`upload_part`, `record_part`, …); a fixed set",
    "error": "S3's error code, or the class of the error where there was no answer; "
    "what is not in the set of `cef_trio/observability/metric_labels.py` is `other`",
    "outcome": f"of a stream {_listed(OUTCOMES)}; of a webhook {_listed(WebhookOutcome)}",
    "reason": _listed(REASONS),
    "risk": _listed(Reason),
    "state": _listed(StreamState),
    "set": _listed(StreamSet),
    "limiter": _listed(["streams", "parts"]),
    "version": "of cef-trio",
    "python": "its version",
    "trio": "its version",
}
"""Every label, and what it may be."""


def metrics_md() -> str:
    """``docs/metrics.md``."""
    lines = [
        "# Metrics",
        "",
        "Made by `python -m cef_trio.observability.metric_families`. Exposed at `/metrics` in Prometheus' text format.",
        "",
        "Counters begin at 0 with each process. A gauge that is not known is absent: `cef_trio_known_streams`, for",
        "example, while Redis does not answer. No label is a stream, a file or a text from outside; which stream it",
        "was is in the [log](events.md).",
        "",
        "| metric | type | labels | meaning |",
        "|---|---|---|---|",
    ]
    for family in FAMILIES:
        labels = ", ".join(f"`{label}`" for label in family.labels)
        lines.append(f"| `{family.name}` | {family.kind.value} | {labels} | {family.help} |")
    lines += [
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
