"""Logs, metrics, lag, and the judgement of what is at risk.

Promise P10: while bytes that should be in S3 are not getting there, every signal says so, and why.

Open `logs.py` and `log_writer.py` for log lines; `metrics.py` and `metric_families.py` for metrics; `redis_survey.py`
for sizes that only Redis knows; `metric_labels.py` for label values; `lag.py` for what lag and upload rate mean (the
lag of a stream is computed in `upload/live_stream.py`); `snapshot.py` for the state of a daemon, from which metrics,
status page and report are made (`upload/observer.py` takes it); `at_risk.py` for the one judgement of health
(`upload/risks.py` gathers its input); `daemon_report.py` for what a daemon reports into Redis, `fleet.py` for all of
them; the room `admin/` for the status page, health and readiness.
"""

from cef_trio.observability import daemon_report, logs
from cef_trio.observability.at_risk import (
    NOT_JUDGED,
    SENTENCES,
    Facts,
    Judgement,
    Reason,
    Risk,
    State,
    UploadProgress,
    Waiting,
    amount_at_risk,
    describe_amount,
    find_risks,
    judge,
)
from cef_trio.observability.daemon_report import DaemonReport, describe_problems
from cef_trio.observability.fleet import (
    Fleet,
    FleetFinding,
    fleet_document,
    is_urgent,
    judge_fleet,
    read_fleet,
    streams_by_state,
)
from cef_trio.observability.lag import RATE_WINDOW, FirstSeenTimes, Lag, lag_of, upload_rate
from cef_trio.observability.logs import Redactor, configure, configure_for, flush, lost_lines, set_level
from cef_trio.observability.metric_labels import StreamState, WebhookOutcome
from cef_trio.observability.metrics import Metrics
from cef_trio.observability.redis_survey import survey_redis
from cef_trio.observability.snapshot import (
    LimiterUse,
    ServiceOutage,
    Snapshot,
    StreamActivity,
    StreamSnapshot,
    activity_of,
)

__all__ = [
    "NOT_JUDGED",
    "RATE_WINDOW",
    "SENTENCES",
    "DaemonReport",
    "Facts",
    "FirstSeenTimes",
    "Fleet",
    "FleetFinding",
    "Judgement",
    "Lag",
    "LimiterUse",
    "Metrics",
    "Reason",
    "Redactor",
    "Risk",
    "ServiceOutage",
    "Snapshot",
    "State",
    "StreamActivity",
    "StreamSnapshot",
    "StreamState",
    "UploadProgress",
    "Waiting",
    "WebhookOutcome",
    "activity_of",
    "amount_at_risk",
    "configure",
    "configure_for",
    "daemon_report",
    "describe_amount",
    "describe_problems",
    "find_risks",
    "fleet_document",
    "flush",
    "is_urgent",
    "judge",
    "judge_fleet",
    "lag_of",
    "logs",
    "lost_lines",
    "read_fleet",
    "set_level",
    "streams_by_state",
    "survey_redis",
    "upload_rate",
]
