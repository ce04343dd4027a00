"""Every metric keeps Prometheus' conventions, as ``promtool check metrics`` knows them, and the docs are true."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from cef_trio.checkpoint.states import FailureReason
from cef_trio.checkpoint.verification import VerificationTotals
from cef_trio.exceptions import RedisOperationError, S3OperationError
from cef_trio.observability.at_risk import Reason, Risk, judge
from cef_trio.observability.metric_families import FAMILIES, LABELS, PROCESS, Family, Kind, metrics_md
from cef_trio.observability.metric_labels import ERRORS, OTHER, OUTCOMES, REASONS, error_label
from cef_trio.observability.metrics import DiskUse, Metrics
from cef_trio.observability.snapshot import LimiterUse, ProbeCounts, RedisSurvey, Snapshot
from cef_trio.resilience.retry import FailedAttempt
from cef_trio.upload.processor import Outcome

ROOT = Path(__file__).parents[2]
OTHER_UNITS = re.compile(
    r"(^|_)(milliseconds?|ms|minutes?|hours?|days?|kilobytes?|kb|mib|megabytes?|mb|gigabytes?|bits?|percent)(_|$)"
)


def filled() -> Metrics:
    """Metrics of which every family has a sample."""
    metrics = Metrics()
    error = S3OperationError("upload_part", "no", code="SlowDown")
    for retried in (True, False):
        metrics.attempt_failed(FailedAttempt("s3", "upload_part", error, retried))
    metrics.redis_clock_offset_seconds = 0.5
    metrics.survey = RedisSurvey(
        known_streams={"active": 1, "deleted": 1}, persistent=True, verification=VerificationTotals(1, 2, 1, 0)
    )
    metrics.pending_webhooks_by(lambda: 2)
    metrics.missing_space_by(lambda: {"/rec": 3})
    metrics.disks = {"/rec": DiskUse(1, 2)}
    metrics.last_run_by("watcher", lambda: 1.0)
    metrics.last_run_by("idle_checker", lambda: 1.0)
    metrics.snapshots_by(
        lambda: Snapshot(
            judgement=judge((Risk(Reason.FAILED, 1.0, 2, 3, "why"),)),
            probes={"s3": ProbeCounts(2, 1)},
            last_part_at=1.0,
            last_completion_at=1.0,
            failing_calls=1,
            hung_mounts=1,
            outages={"s3": None, "redis": None},
            limiters={"streams": LimiterUse(borrowed=1, total=2), "parts": LimiterUse(borrowed=1, total=2)},
        )
    )
    return metrics


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.short_name)
def test_a_metric_keeps_the_conventions(family: Family) -> None:
    assert re.fullmatch(r"cef_trio(_[a-z][a-z0-9]*)+", family.name)
    assert family.name.endswith("_total") == (family.kind is Kind.COUNTER)
    assert not family.name.endswith(("_count", "_sum", "_bucket", "_created"))
    assert not OTHER_UNITS.search(family.name), "not a base unit"
    assert not re.search(r"counter|gauge|histogram", family.name), "the type is not in the name"
    assert family.help.endswith(".")
    assert family.help[0].isupper()
    if family.kind is Kind.HISTOGRAM:
        assert family.name.endswith("_seconds")
        assert list(family.buckets) == sorted(set(family.buckets))


def test_no_label_is_unbounded() -> None:
    used = {label for family in FAMILIES for label in family.labels}
    assert used == set(LABELS)
    assert used.isdisjoint({"stream_id", "stream", "file", "path", "key", "message", "le", "quantile"})


def test_what_is_exposed_is_what_the_table_lists() -> None:
    text = generate_latest(filled().registry).decode()
    everything = {metric.name: metric for metric in text_string_to_metric_families(text)}
    exposed = {name: metric for name, metric in everything.items() if "cef_trio" in name}
    of_process = everything.keys() - exposed.keys()
    assert {name + "_total" * (everything[name].type == "counter") for name in of_process} == set(PROCESS)
    assert {(metric.name + "_total" * (metric.type == "counter"), metric.type) for metric in exposed.values()} == {
        (family.name, family.kind.value) for family in FAMILIES
    }
    for family in FAMILIES:
        metric = exposed[family.name.removesuffix("_total") if family.kind is Kind.COUNTER else family.name]
        assert metric.documentation == family.help
        assert metric.samples, "every one was moved"
        labels = {frozenset(sample.labels) - {"le"} for sample in metric.samples}
        assert labels == {frozenset(family.labels)}


def test_families_lists_name_and_type() -> None:
    assert ("cef_trio_uploaded_parts_total", "counter") in {(family.name, family.kind.value) for family in FAMILIES}


async def test_two_daemons_in_one_process_do_not_add_up() -> None:
    one, other = Metrics(), Metrics()
    one.part_uploaded(5, 1.0)
    assert one.registry.get_sample_value("cef_trio_uploaded_bytes_total") == 5
    assert other.registry.get_sample_value("cef_trio_uploaded_bytes_total") == 0


def test_what_is_not_known_is_absent() -> None:
    text = generate_latest(Metrics().registry).decode()
    for name in ("known_streams", "redis_persistent", "lag_bytes", "service_up", "watcher_last_run"):
        assert f"cef_trio_{name}" not in text


@pytest.mark.parametrize(
    ("error", "label"),
    [
        (S3OperationError("head_object", "x", code="NoSuchKey"), "NoSuchKey"),
        (S3OperationError("head_object", "x", code="ReadTimeout"), "ReadTimeout"),
        (S3OperationError("head_object", "x", code="UnknownOutcome"), "UnknownOutcome"),
        (S3OperationError("head_object", "x", code="Http502"), "Http5xx"),
        (S3OperationError("head_object", "x", code="Http999"), OTHER),
        (S3OperationError("head_object", "x", code="Http5020"), OTHER),
        (S3OperationError("head_object", "x", code="a stranger's <code>"), OTHER),
        (S3OperationError("head_object", "x"), OTHER),
        (RedisOperationError("load", "x"), "RedisOperationError"),
        (ValueError("x"), OTHER),
    ],
)
def test_the_label_error_is_of_a_closed_set(error: Exception, label: str) -> None:
    assert error_label(error) == label
    assert label in ERRORS


def test_a_redis_error_is_labelled_by_its_cause() -> None:
    error = RedisOperationError("load", "too slow")
    error.__cause__ = TimeoutError()
    assert error_label(error) == "TimeoutError"


def test_every_way_a_stream_ends_has_its_label() -> None:
    assert {outcome.value for outcome in Outcome} | {"cancelled"} == set(OUTCOMES)
    assert {reason.value for reason in FailureReason} <= set(REASONS)


def test_the_documentation_is_made_from_the_table() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text() == metrics_md()


@pytest.mark.real
def test_promtool_reports_no_problem() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian's package prometheus)")
    said = subprocess.run(
        [promtool, "check", "metrics"], input=generate_latest(filled().registry), capture_output=True, check=False
    )
    assert (said.returncode, said.stdout, said.stderr) == (0, b"", b"")
